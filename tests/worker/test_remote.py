"""Remote control of a running worker, on a broker in memory: commands, replies, what they change."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from amqptasks import App
from amqptasks.errors import ImproperlyConfigured
from amqptasks.testing import running_worker
from amqptasks.transport.publisher import Publisher

NODE = "test@localhost"


@pytest.fixture
def app() -> Iterator[App]:
    app = App("remote", broker=f"memory://{uuid.uuid4()}", set_as_current=False)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    with app, running_worker(app):
        yield app


def one(app: App, command: str, **arguments: Any) -> Any:
    [reply] = app.control.broadcast(command, arguments, reply=True, destination=[NODE], timeout=60.0) or [{}]
    return reply[NODE]


def test_a_worker_answers_who_it_is(app: App) -> None:
    assert app.control.ping(limit=1, timeout=60.0) == [{NODE: {"ok": "pong"}}]


def test_a_worker_with_too_much_to_publish_answers_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the busiest workers would be those that `status` does not show."""
    app = App("busy", broker=f"memory://{uuid.uuid4()}", set_as_current=False)
    monkeypatch.setattr(
        Publisher, "saturated", property(lambda _: True, lambda _publisher, _value: None), raising=False
    )
    with app, running_worker(app):
        assert one(app, "ping") == {"ok": "pong"}


def test_who_is_not_meant_says_nothing(app: App) -> None:
    assert app.control.inspect(["other@localhost"], timeout=0.1).ping() is None
    assert app.control.inspect(pattern="x*", matcher="glob", timeout=0.1).ping() is None
    assert app.control.inspect(pattern="t*", matcher="glob", timeout=60.0, limit=1).ping() is not None


def test_a_pattern_without_a_matcher_is_a_mistake(app: App) -> None:
    with pytest.raises(ImproperlyConfigured, match="matcher"):
        app.control.broadcast("ping", pattern="x*")


def test_what_a_command_raises_is_its_answer(app: App) -> None:
    assert "Autoscale not enabled" in one(app, "autoscale", max=2, min=1)["error"]
    assert one(app, "no_such_command") == {"error": "KeyError('no_such_command')"}
    assert "TypeError" in one(app, "rate_limit")["error"]
    assert one(app, "ping") == {"ok": "pong"}


def test_queues_are_told_with_their_own_arguments(app: App) -> None:
    [queue] = one(app, "active_queues")

    assert queue["exchange"]["name"] == queue["name"]  # which must not be taken for the queue
    assert queue["queue_arguments"]["x-queue-type"] == "quorum"


def test_tasks_can_be_listed_and_limited(app: App) -> None:
    assert one(app, "registered") == ["add"]
    asked = one(app, "registered", taskinfoitems=["serializer", "max_retries", "acks_late", "no_such_option"])
    assert asked == ["add [serializer=json max_retries=3 acks_late=False]"]
    assert one(app, "rate_limit", task_name="add", rate_limit="5/s") == {
        "ok": "new rate limit set successfully"
    }
    assert one(app, "registered") == ["add [rate_limit=5/s]"]
    assert one(app, "rate_limit", task_name="add", rate_limit="often")["error"].startswith(
        "Invalid rate limit"
    )


@pytest.mark.parametrize("rate", ["120/m", "10", "2.5/s", 7])
def test_a_rate_limit_is_told_as_it_was_written(rate: Any) -> None:
    """As a Celery worker tells it."""
    app = App("rated", broker=f"memory://{uuid.uuid4()}", set_as_current=False)
    app.task(name="rated", rate_limit=rate)(lambda: None)
    app.task(name="other")(lambda: None)
    with app, running_worker(app):
        assert one(app, "registered") == ["other", f"rated [rate_limit={rate}]"]
        one(app, "rate_limit", task_name="other", rate_limit="90/m")
        assert one(app, "registered")[0] == "other [rate_limit=90/m]"
        one(app, "rate_limit", task_name="rated", rate_limit="120/h")
        assert one(app, "registered")[1] == "rated [rate_limit=120/h]"
        one(app, "rate_limit", task_name="rated", rate_limit=0)
        assert one(app, "registered")[1] == "rated"


def test_a_default_rate_limit_is_told_of_every_task() -> None:
    app = App(
        "rated", broker=f"memory://{uuid.uuid4()}", set_as_current=False, task_default_rate_limit="100/m"
    )
    app.task(name="rated")(lambda: None)
    with app, running_worker(app):
        assert one(app, "registered") == ["rated [rate_limit=100/m]"]


def test_secrets_are_not_told(app: App) -> None:
    told = one(app, "conf", with_defaults=True)

    assert "worker_concurrency" in told
    assert "guest:guest" not in str(told)


def test_a_revoked_call_does_not_run(app: App) -> None:
    one(app, "revoke", task_id="no-1")

    result = app.send_task("add", (1, 1), task_id="no-1")

    assert result.get(timeout=60, propagate=False).__class__.__name__ == "TaskRevoked"
    assert one(app, "revoked") == ["no-1"]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("revoke", {"task_id": ["no-1"], "terminate": True}),
        ("terminate", {"task_id": ["no-1"]}),
        ("revoke_by_stamped_headers", {"headers": ["customer=17"], "terminate": True}),
    ],
)
def test_a_signal_that_does_not_exist_revokes_nothing(
    app: App, command: str, arguments: dict[str, Any]
) -> None:
    assert "there is no signal 'SIGNONSENSE'" in one(app, command, signal="SIGNONSENSE", **arguments)["error"]

    assert one(app, "revoked") == []
    assert "stamps" not in one(app, "hello", from_node="w2@there")


@pytest.mark.parametrize("signal", ["TERM", "sigterm", 15, "15"])
def test_a_signal_may_be_written_as_celery_has_it(app: App, signal: Any) -> None:
    assert one(app, "terminate", task_id="no-1", signal=signal) == {"ok": "terminate: tasks unknown"}


def test_a_greeting_tells_what_is_revoked_and_takes_it_in(app: App) -> None:
    assert "stamps" not in one(app, "hello", from_node="w2@there", revoked=["no-2"])

    one(app, "revoke_by_stamped_headers", headers=["customer=17", "customer=18"])

    told = one(app, "hello", from_node="w2@there")
    assert told["revoked"] == ["no-2"]
    assert told["stamps"] == {"customer": ["17", "18"]}
    assert one(app, "hello", from_node=NODE) is None


def test_another_queue_is_consumed_and_left(app: App) -> None:
    one(app, "add_consumer", queue="another")
    assert "another" in [queue["name"] for queue in one(app, "active_queues")]
    assert app.send_task("add", (1, 2), queue="another").get(timeout=60) == 3

    one(app, "cancel_consumer", queue="another")

    assert "another" not in [queue["name"] for queue in one(app, "active_queues")]


def test_events_tell_of_every_step(app: App) -> None:
    assert one(app, "enable_events") == {"ok": "task events enabled"}
    assert one(app, "enable_events") == {"ok": "task events already enabled"}
    heard: list[str] = []
    result = None
    for event in app.events.Receiver().itercapture(timeout=60):
        if result is None:
            result = app.send_task("add", (2, 2))
        elif event.get("uuid") == result.id:
            heard.append(event["type"])
            if event["type"] == "task-succeeded":
                assert event["result"] == "4"
                assert event["runtime"] >= 0
                break
    assert heard == ["task-received", "task-started", "task-succeeded"]

    assert one(app, "disable_events") == {"ok": "task events disabled"}
    assert app.send_task("add", (3, 3)).get(timeout=60) == 6


def test_a_client_tells_what_it_sends(app: App) -> None:
    app.conf.update(task_send_sent_event=True)
    sent: list[dict[str, Any]] = []
    receiver = app.events.Receiver(handlers={"task-sent": sent.append})
    for _ in receiver.itercapture(timeout=60):
        if sent:
            break
        app.send_task("add", (1, 1), task_id="told")

    assert sent[0]["uuid"] == "told"
    assert (sent[0]["name"], sent[0]["args"], sent[0]["queue"]) == ("add", "(1, 1)", "amqptasks")


def test_shutdown_ends_the_worker() -> None:
    app = App("ending", broker=f"memory://{uuid.uuid4()}", set_as_current=False)
    with app, running_worker(app):
        before = threading.active_count()
        assert one(app, "shutdown") == {"ok": "shutting down"}
    assert threading.active_count() <= before


def test_a_worker_may_refuse_remote_control() -> None:
    app = App(
        "deaf", broker=f"memory://{uuid.uuid4()}", set_as_current=False, worker_enable_remote_control=False
    )
    with app, running_worker(app):
        assert app.control.ping(timeout=0.2) == []
