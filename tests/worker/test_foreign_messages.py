"""Messages that others wrote: protocol 1, few headers, wrong headers. None is lost, none stops the worker."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqptasks import App
from amqptasks.amqp import Address, Delivery, Envelope, Properties
from amqptasks.testing import running_worker
from amqptasks.transport import codec
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.outcome import Manifest, Run, TaskOptions

_numbers = itertools.count()


@pytest.fixture
def app() -> Iterator[App]:
    app = App("proj", broker=f"memory://foreign-{next(_numbers)}")
    app.ran = []  # type: ignore[attr-defined]
    app.began = threading.Event()  # type: ignore[attr-defined]

    @app.task(name="note", bind=True)
    def note(self: Any, value: Any = None) -> None:
        app.ran.append((value, time.time(), self.request))  # type: ignore[attr-defined]
        app.began.set()  # type: ignore[attr-defined]

    yield app
    app.close()


def send(app: App, body: Any, *, content_type: str = "application/json", **headers: Any) -> None:
    properties = Properties(content_type=content_type, headers=headers or None, delivery_mode=2)
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    app.connection.publish([Envelope(Address("", "amqptasks"), written, properties)])


def first(**fields: Any) -> dict[str, Any]:
    """A body of protocol 1."""
    return {"task": "note", "id": "an-id", "args": [7], "kwargs": {}, **fields}


def run_all(app: App) -> list[Any]:
    """Run a worker until its queue is empty; return what ran."""
    with running_worker(app) as worker:
        worker.wait_until_idle()
    return app.ran  # type: ignore[attr-defined, no-any-return]


def declared(app: App) -> None:
    app.prepare("amqptasks")


def test_a_call_in_protocol_1_runs_with_what_it_says(app: App) -> None:
    declared(app)
    send(app, first(retries=3, timelimit=[30, 20]), tenant="acme")

    [(value, _, request)] = run_all(app)

    assert (value, request.id, request.retries) == (7, "an-id", 3)
    assert request.timelimit == (30, 20)
    assert request.headers["tenant"] == "acme"


def test_the_eta_of_protocol_1_is_kept_though_it_stands_in_the_body(app: App) -> None:
    declared(app)
    due = datetime.now(UTC) + timedelta(seconds=1.5)
    send(app, first(eta=due.replace(tzinfo=None).isoformat(), utc=True))

    with running_worker(app):
        assert app.began.wait(60)  # type: ignore[attr-defined]
    [(_, began, _)] = app.ran  # type: ignore[attr-defined]

    assert began >= due.timestamp()


def test_an_expired_call_in_protocol_1_does_not_run(app: App) -> None:
    declared(app)
    send(app, first(expires=(datetime.now(UTC) - timedelta(seconds=5)).isoformat()))

    assert run_all(app) == []


def test_a_content_type_with_a_charset_is_read_and_answered(app: App) -> None:
    declared(app)
    send(app, first(), content_type="application/json; charset=utf-8")

    assert [value for value, _, _ in run_all(app)] == [7]


@pytest.mark.parametrize(
    "headers",
    [
        {"task": ["note"], "id": "an-id"},
        {"task": {"a": 1}, "id": "an-id"},
        {"task": "note", "id": {"a": 1}},
        {"task": "note", "id": ["an-id"]},
        {"task": "note", "id": 5},
        {"task": "note"},
        {"task": "note", "id": "an-id", "retries": ["x"]},
        {"task": "note", "id": "an-id", "retries": {"x": 1}},
        {"task": "note", "id": "an-id", "eta": ["x"]},
        {"task": "note", "id": "an-id", "expires": {"x": 1}},
        {"task": "note", "id": "an-id", "timelimit": "soon"},
        {"task": "note", "id": "an-id", "timelimit": [1, 2, 3]},
    ],
    ids=str,
)
def test_headers_of_wrong_types_are_a_dead_letter_and_never_stop_the_worker(
    app: App, headers: dict[str, Any]
) -> None:
    declared(app)
    send(app, [["wrong"], {}, None], **headers)
    send(app, [["right"], {}, None], task="note", id="another")

    ran = run_all(app)

    assert [value for value, _, _ in ran] == ["right"]
    dead = app.connection.get("amqptasks.dead")
    assert dead is not None
    assert codec.decode_header(dead.header).headers["x-amqptasks-reason"] == "undecodable"  # type: ignore[index]


class Pool:
    """Takes runs and keeps them."""

    def __init__(self) -> None:
        self.running: dict[int, float] = {}
        self.submitted: list[Run] = []

    def submit(self, run: Run) -> None:
        self.submitted.append(run)
        self.running[run.key] = 0.0

    def recall(self) -> list[Run]:
        return []


class Lane:
    """A lane whose channel counts for nothing."""

    def took(self) -> None:
        """Nothing is counted."""

    def spent(self, delivery: Delivery) -> str:
        """Its queue has no limit."""
        return ""

    def released(self) -> None:
        """Nothing is counted."""


def test_a_redelivery_without_an_id_is_never_taken_for_another_message() -> None:
    async def scenario() -> int:
        pool, lane = Pool(), Lane()
        dispatch = Dispatch(pool, "n@h")  # type: ignore[arg-type]
        dispatch.begin(None, _manifest())  # type: ignore[arg-type]
        dispatch.receive(lane, _delivery(b'{"task": "note", "id": "1"}', 1))  # type: ignore[arg-type]
        dispatch.void(lane)  # type: ignore[arg-type]
        dispatch.receive(lane, _delivery(b'{"task": "note", "id": "2"}', 2, redelivered=True))  # type: ignore[arg-type]
        return len(pool.submitted)

    assert asyncio.run(scenario()) == 2


def _manifest() -> Manifest:
    settings = {"task_dead_letter_exchange": "amqptasks.dead"}
    return Manifest(app="proj", tasks={"note": TaskOptions(name="note")}, queues=(), settings=settings)


def _delivery(body: bytes, tag: int, redelivered: bool = False) -> Delivery:
    header = codec.encode_header(Properties(content_type="application/json"))
    return Delivery(
        tag=tag,
        generation=1,
        exchange="",
        routing_key="q",
        redelivered=redelivered,
        header=header,
        body=body,
        queue="q",
    )
