"""A worker's events, without a broker: gathered, sent together, dropped rather than waited for."""

import asyncio
import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest

from amqptasks import event_wire, protocol
from amqptasks.amqp import Address, Delivery, Parcel
from amqptasks.errors import ConnectionLost
from amqptasks.pidbox import Clock
from amqptasks.transport import codec
from amqptasks.transport.base import Done
from amqptasks.worker import eventing
from amqptasks.worker.eventing import Events
from amqptasks.worker.outcome import Cause, Outcome
from tests.support.pages import ROOT

from .test_dispatch import Stage

SETTINGS = {"event_exchange": "celeryev"}


class Publisher:
    """Keeps what is posted; confirms when told to."""

    def __init__(self) -> None:
        self.posted: list[tuple[Parcel, Done]] = []
        self.blocked: str | None = None
        self.link: Any = object()

    def post(self, parcel: Parcel, done: Done, deadline: float | None = None) -> None:
        assert deadline is not None, "an event is given up some day"
        self.posted.append((parcel, done))

    @property
    def events(self) -> list[dict[str, Any]]:
        told = [json.loads(parcel.body) for parcel, _ in self.posted]
        return [event for one in told for event in (one if isinstance(one, list) else [one])]


def scenario(test: Any) -> Any:
    """Run a coroutine test on a stage of its own, whose worker has its events on."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        async def within() -> None:
            stage, publisher = Stage(), Publisher()
            events = Events("w@h", SETTINGS, publisher, stage.dispatch, Clock())
            events.enable()
            await test(stage, events, publisher, **given)

        asyncio.run(within())

    parameters = list(inspect.signature(test).parameters.values())[3:]
    run.__signature__ = inspect.Signature(parameters)
    del run.__wrapped__
    return run


def delivered(call: str) -> Delivery:
    parcel = codec.pack(protocol.encode(protocol.TaskMessage(id=call, task="add"), Address("amqptasks", "q")))
    return Delivery("q", 1, 1, False, "amqptasks", "q", parcel.header, parcel.body)


def run_one(stage: Stage, task: str = "late") -> None:
    """A call from its delivery to its end."""
    stage.deliver(task)
    key = stage.pool.submitted[-1].key
    stage.dispatch.started(key, 7, ())
    stage.dispatch.finished(
        key, Outcome(state="SUCCESS", event=b'"type":"task-succeeded","result":"1","runtime":0.5')
    )


@scenario
async def test_what_happens_in_a_moment_is_one_message(
    stage: Stage, events: Events, publisher: Publisher
) -> None:
    run_one(stage)
    run_one(stage)
    assert publisher.posted == []

    await asyncio.sleep(eventing.MOMENT * 2)

    (parcel, _) = publisher.posted[0]
    assert (len(publisher.posted), parcel.exchange, parcel.routing_key, parcel.fate) == (
        1, "celeryev", "task.multi", "event",
    )  # fmt: skip
    kinds = ["task-received", "task-started", "task-succeeded"]
    assert [event["type"] for event in publisher.events] == kinds * 2
    assert [event["clock"] for event in publisher.events] == list(range(1, 7))


@scenario
async def test_many_are_sent_before_the_moment_is_over(
    stage: Stage, events: Events, publisher: Publisher
) -> None:
    for _ in range(eventing.BATCH // 3 + 1):
        run_one(stage)

    assert len(publisher.posted) == 1
    assert len(publisher.events) >= eventing.BATCH


def slow(publisher: Publisher, events: Events) -> None:
    for number in range(eventing.UNDER_WAY):
        events.received({"id": str(number), "task": "add"}, delivered(str(number)))
        events.flush()


def blocked(publisher: Publisher, events: Events) -> None:
    publisher.blocked = "low on memory"


def gone(publisher: Publisher, events: Events) -> None:
    publisher.link = None


@pytest.mark.parametrize("why", [slow, blocked, gone])
@scenario
async def test_they_are_dropped_and_counted_when_the_broker_does_not_keep_up(
    stage: Stage, events: Events, publisher: Publisher, why: Callable[[Publisher, Events], None]
) -> None:
    why(publisher, events)
    before = len(publisher.posted)

    run_one(stage)
    events.flush()

    assert len(publisher.posted) == before
    assert (events.dropped, events.sent) == (3, 0)
    assert stage.publisher.posted == [], "the call's end did not wait for it"


@scenario
async def test_they_are_sent_again_once_it_does(stage: Stage, events: Events, publisher: Publisher) -> None:
    slow(publisher, events)
    for _, done in publisher.posted:
        done(None)

    run_one(stage)
    events.flush()
    publisher.posted[-1][1](None)

    assert (events.dropped, events.sent) == (0, eventing.UNDER_WAY + 3)


@scenario
async def test_what_was_given_up_is_counted(stage: Stage, events: Events, publisher: Publisher) -> None:
    run_one(stage)
    events.flush()
    publisher.posted[-1][1](ConnectionLost("gone"))

    assert (events.dropped, events.sent) == (3, 0)


@scenario
async def test_nothing_is_gathered_while_they_are_off(
    stage: Stage, events: Events, publisher: Publisher
) -> None:
    assert (events.on, events.enable(), events.disable(), events.disable()) == (True, False, True, False)

    run_one(stage)
    events.flush()

    assert (publisher.posted, events.on) == ([], False)
    assert stage.pool.submitted[-1].watch is False
    assert events.enable() is True
    run_one(stage)
    assert stage.pool.submitted[-1].watch is True


@scenario
async def test_a_message_that_is_no_call_has_no_events(
    stage: Stage, events: Events, publisher: Publisher
) -> None:
    events.received({}, delivered("a"))
    events.flush()

    assert publisher.posted == []


@scenario
async def test_a_worker_says_that_it_is_there_until_it_says_that_it_goes(
    stage: Stage, events: Events, publisher: Publisher
) -> None:
    events.go_online(heartbeats=True)
    events.go_offline()

    assert [event["type"] for event in publisher.events] == ["worker-online", "worker-offline"]
    assert [parcel.routing_key for parcel, _ in publisher.posted] == ["worker.online", "worker.offline"]
    assert publisher.events[0].keys() == {
        "type", "timestamp", "hostname", "pid", "clock", "utcoffset", "freq", "active", "processed", "loadavg",
        "sw_ident", "sw_ver", "sw_sys",
    }  # fmt: skip


@scenario
async def test_a_silent_worker_says_nothing(stage: Stage, events: Events, publisher: Publisher) -> None:
    events.go_online(heartbeats=False)
    events.go_offline()

    assert publisher.posted == []


def test_a_termination_tells_the_signal_that_was_named() -> None:
    from amqptasks.worker.outcome import Run
    from amqptasks.worker.telling import obituary

    def told(cause: Cause, detail: str) -> dict[str, Any]:
        run = Run(1, None, cause, detail)  # type: ignore[arg-type]
        fields: dict[str, Any] = json.loads(b"{" + obituary(Outcome(state="REVOKED"), run).event + b"}")
        return fields

    assert told(Cause.TERMINATED, "revoked (SIGTERM)") == {
        "type": "task-revoked", "terminated": True, "signum": 15, "expired": False,
    }  # fmt: skip
    assert told(Cause.EXPIRED, "")["signum"] is None
    assert told(Cause.REVOKED, "")["terminated"] is False


def test_a_result_that_cannot_be_shown_as_utf8_is_told_all_the_same() -> None:
    from amqptasks.worker.telling import ended

    class Odd:
        def __repr__(self) -> str:
            return "\ud800"

    outcome = ended(Outcome(state="SUCCESS"), "SUCCESS", Odd(), 0.1)
    assert json.loads(b"{" + outcome.event + b"}")["result"] == "\ud800"
    assert event_wire.encoded("\ud800") == b'"\\ud800"'


def test_the_page_tells_when_events_are_sent() -> None:
    page = (ROOT / "docs/reference/wire.md").read_text()

    assert f"those of {eventing.MOMENT * 1000:.0f} ms, or {eventing.BATCH} of them" in page
    assert f"A heartbeat comes every {eventing.INTERVAL:.0f} seconds" in page
