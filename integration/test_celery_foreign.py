"""Messages as other senders write them, byte by byte: old Celery, node, PHP, and what nobody should write.

`interop_captured.json` holds what Celery 4.4.7 and 3.1.26 really put on the wire. What node and PHP send is
taken from the sources of node-celery, celery.node and celery-php.
"""

import json
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pika
import pytest

from integration.support import WorkerProcess, wait_until

CAPTURED = {
    message["sender"]: message
    for message in json.loads((Path(__file__).parent / "apps/interop_captured.json").read_text())
}
ID = "11111111-1111-4111-8111-111111111111"
NODE = {"content_type": "application/json"}
PHP = {"content_type": "application/json", "content_encoding": "UTF-8"}


@dataclass
class Sender:
    """Publishes what it is given, as it is, and reads what comes back."""

    channel: Any
    reply_to: str
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def send(self, body: Any, headers: dict[str, Any] | None, **properties: Any) -> None:
        written = body if isinstance(body, bytes) else json.dumps(body).encode()
        known = pika.BasicProperties(headers=headers, **properties)
        self.channel.basic_publish("", "strict", written, known, mandatory=True)

    def answer(self, task_id: str, timeout: float = 15) -> dict[str, Any]:
        """The final state that the worker sent for a task."""

        def look() -> dict[str, Any] | None:
            method, properties, body = self.channel.basic_get(self.reply_to, auto_ack=True)
            if method is not None:
                self.answers[properties.correlation_id] = json.loads(body)
            return self.answers.get(task_id)

        answer = wait_until(look, timeout, f"an answer to {task_id}")
        assert answer is not None
        return answer

    def dead(self, timeout: float = 15) -> tuple[Any, bytes]:
        """The next dead letter: properties and body."""

        def look() -> tuple[Any, bytes] | None:
            method, properties, body = self.channel.basic_get("strict.dead", auto_ack=True)
            return None if method is None else (properties, body)

        letter = wait_until(look, timeout, "a dead letter")
        assert letter is not None
        return letter


@pytest.fixture(scope="module")
def strict(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    log = tmp_path_factory.mktemp("strict") / "log"
    with WorkerProcess("integration.apps.interop_strict", "-c", "1", log=log, broker_url=broker_url) as one:
        yield one


@pytest.fixture(scope="module")
def sender(broker_url: str, strict: WorkerProcess) -> Iterator[Sender]:
    parameters = pika.URLParameters(broker_url)
    parameters.socket_timeout = parameters.stack_timeout = 60.0
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        reply_to = channel.queue_declare("", exclusive=True).method.queue
        yield Sender(channel, reply_to)


def captured(name: str, sender: Sender, **changes: Any) -> tuple[str, Any, dict[str, Any], dict[str, Any]]:
    """A captured message with an id and a reply queue of now: id, body, headers, properties."""
    message = CAPTURED[name]
    task_id = str(uuid.uuid4())
    old_id = message["properties"]["correlation_id"]
    text = json.dumps([message["body"], message["headers"], message["properties"]]).replace(old_id, task_id)
    for old, new in changes.items():
        text = text.replace(old.replace("_", "/"), new)
    body, headers, properties = json.loads(text)
    return task_id, body, headers, properties | {"reply_to": sender.reply_to}


@pytest.mark.parametrize("name", ["celery 4.4.7", "celery 3.1.26"])
def test_a_captured_call_runs_and_is_answered(sender: Sender, name: str) -> None:
    task_id, body, headers, properties = captured(name, sender)

    sender.send(body, headers, **properties)
    answer = sender.answer(task_id)

    assert (answer["status"], answer["result"]) == ("SUCCESS", 5)
    assert answer["task_id"] == task_id


@pytest.mark.parametrize("name", ["celery 4.4.7 with options", "celery 3.1.26 with options"])
def test_a_captured_call_is_delayed_and_its_callback_called(
    sender: Sender, name: str, tmp_path: Path
) -> None:
    effects, now = tmp_path / "effects", datetime.now(UTC).replace(tzinfo=None)
    task_id, body, headers, properties = captured(name, sender, _captured_path=str(effects))
    times = headers if "eta" in headers else body
    times["eta"] = (now + timedelta(seconds=1.6)).isoformat()
    times["expires"] = (now + timedelta(minutes=1)).isoformat()

    sender.send(body, headers, **properties)
    answer = sender.answer(task_id)
    answered = datetime.now(UTC).replace(tzinfo=None)

    assert (answer["status"], answer["result"]) == ("SUCCESS", 5)
    assert answered >= now + timedelta(seconds=1.6)
    assert wait_until(lambda: effects.exists() and effects.read_text(), 15) == "5\n"


@pytest.mark.parametrize("name", ["celery 4.4.7 with options", "celery 3.1.26 with options"])
def test_a_captured_call_that_fails_calls_its_errback(sender: Sender, name: str, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    task_id, body, headers, properties = captured(name, sender, _captured_path=str(effects))
    times = headers if "eta" in headers else body
    times["eta"] = times["expires"] = None
    (body["kwargs"] if isinstance(body, dict) else body[1])["y"] = "three"

    sender.send(body, headers, **properties)
    answer = sender.answer(task_id)

    assert (answer["status"], answer["result"]["exc_type"]) == ("FAILURE", "TypeError")
    assert wait_until(lambda: effects.exists() and effects.read_text(), 15) == f"amqptasks {task_id}\n"


@pytest.mark.parametrize("name", ["celery 4.4.7 with options", "celery 3.1.26 with options"])
def test_a_captured_call_that_expired_is_revoked(sender: Sender, name: str) -> None:
    task_id, body, headers, properties = captured(name, sender)
    times = headers if "eta" in headers else body
    times["eta"], times["expires"] = None, "2020-01-01T00:00:00"

    sender.send(body, headers, **properties)
    answer = sender.answer(task_id)

    assert (answer["status"], answer["result"]["exc_type"]) == ("REVOKED", "TaskRevokedError")


def test_a_late_task_called_in_protocol_1_outlives_its_child(sender: Sender, tmp_path: Path) -> None:
    task_id, body, headers, properties = captured("celery 3.1.26", sender)
    body |= {"task": "interop.survive", "args": [str(tmp_path / "tried")]}

    sender.send(body, headers, **properties)
    answer = sender.answer(task_id, 20)

    assert (answer["status"], answer["result"]) == ("SUCCESS", "survived")


@pytest.mark.parametrize(
    ("body", "headers", "properties"),
    [
        # node-celery: protocol 1, a content type and nothing else
        ({"task": "TASK", "args": "ARGS", "kwargs": {}, "id": ID}, None, NODE),
        # celery.node, protocol 2 and 1: an empty reply_to
        (["ARGS", {}, {}], {"lang": "js", "task": "TASK", "id": ID}, NODE | {"reply_to": "", "correlation_id": ID}),
        ({"task": "TASK", "id": ID, "args": "ARGS", "kwargs": {}}, {}, NODE | {"reply_to": ""}),
        # celery-php: an id of its own making, transient, UTF-8 in capitals
        ({"id": "php_5f1a2b3c4d5e67.89012345", "task": "TASK", "args": "ARGS", "kwargs": {}}, None, PHP),
        # PHP without its cast to an object: an empty map is an empty list
        (["ARGS", [], None], {"task": "TASK", "id": "php_1"}, PHP),
        # the least there is
        (["ARGS", {}, None], {"task": "TASK", "id": ID}, {}),
        (["ARGS", {}], {"task": "TASK", "id": ID}, {}),
        ({"task": "TASK", "id": ID, "args": "ARGS"}, None, {}),
    ],
    ids=["node-celery", "celery.node-2", "celery.node-1", "celery-php", "php-2", "bare-2", "two-parts", "bare-1"],
)  # fmt: skip
def test_senders_that_give_only_task_and_id_are_served(
    sender: Sender, tmp_path: Path, body: Any, headers: Any, properties: dict[str, Any]
) -> None:
    effects = tmp_path / "effects"
    arguments = json.dumps([str(effects), 7])
    text = json.dumps([body, headers]).replace('"ARGS"', arguments).replace("TASK", "interop.effect")
    written, told = json.loads(text)

    sender.send(written, told, **properties)

    assert wait_until(lambda: effects.exists() and effects.read_text(), 15) == "7 amqptasks\n"


BOMB = zlib.compress(json.dumps([["x" * (1 << 20)], {}, None]).encode())
OK = {"task": "interop.add", "id": ID}


@pytest.mark.parametrize(
    ("body", "headers", "properties", "reason", "error"),
    [
        (b"\xff\xfenot json", OK, {}, "undecodable", "DecodeError"),
        ({"nothing": 1}, None, {}, "undecodable", "InvalidTaskError"),
        ([[1, 2], {}, None], {"id": ID}, {}, "undecodable", "InvalidTaskError"),
        ([[1, 2], {}, None], {"task": "interop.add"}, {}, "undecodable", "InvalidTaskError"),
        ([[1, 2], {}, None], {"task": ["interop.add"], "id": ID}, {}, "undecodable", "InvalidTaskError"),
        ([[1, 2], {}, None], {"task": "interop.add", "id": {"a": 1}}, {}, "undecodable", "InvalidTaskError"),
        (["text", {}, None], OK, {}, "undecodable", "InvalidTaskError"),
        ([[1], "text", None], OK, {}, "undecodable", "InvalidTaskError"),
        ([[1, 2], {}, None], OK | {"eta": "soon"}, {}, "undecodable", "InvalidTaskError"),
        ({"task": "interop.add", "id": ID, "eta": "soon"}, None, {}, "undecodable", "InvalidTaskError"),
        (b"\x80\x04K\x01.", OK, {"content_type": "application/x-python-serialize"}, "forbidden", "ContentDisallowed"),
        (b"1", OK, {"content_type": "application/x-unheard-of"}, "forbidden", "ContentDisallowed"),
        (BOMB, OK | {"compression": "application/x-gzip"}, {}, "undecodable", "Inflated"),
        ([[1, 2], {}, None], OK | {"compression": "application/x-rar"}, {}, "undecodable", "DecodeError"),
        ([[1, 2], {}, None], {"task": "interop.gone", "id": ID}, {}, "unknown", "NotRegistered"),
        ({"task": "interop.gone", "id": ID, "args": []}, None, {}, "unknown", "NotRegistered"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_a_dead_letter_with_the_reason_and_its_caller_is_told(
    sender: Sender, body: Any, headers: Any, properties: dict[str, Any], reason: str, error: str
) -> None:
    task_id = str(uuid.uuid4())
    told = {"content_type": "application/json", "correlation_id": task_id, "reply_to": sender.reply_to}

    sender.send(body, headers, **told | properties)
    answer = sender.answer(task_id)
    letter, content = sender.dead()

    assert answer["status"] == "FAILURE"
    assert answer["result"]["exc_type"] == error
    assert letter.headers["x-amqptasks-reason"] == reason
    assert letter.headers["x-amqptasks-queue"] == "strict"
    assert letter.headers["x-amqptasks-error"]
    assert abs(letter.headers["x-amqptasks-time"] - time.time()) < 60
    assert content == (body if isinstance(body, bytes) else json.dumps(body).encode())


def test_after_all_that_the_worker_still_runs(sender: Sender, strict: WorkerProcess) -> None:
    answered = {"correlation_id": ID, "reply_to": sender.reply_to}

    sender.send([[2, 3], {}, None], OK, content_type="application/json", **answered)

    assert sender.answer(ID)["result"] == 5
    assert strict.returncode is None
