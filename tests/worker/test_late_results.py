"""Results whose queue is not there: its node is down, and they wait for it; or their caller is gone, and that is said."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from amqptasks import App, late_parts
from amqptasks.amqp import Address, Entity, Parcel, QueueInfo
from amqptasks.errors import (
    ConnectionLost,
    Nacked,
    NotFound,
    QueueDown,
    TimeoutError,
    TransportError,
    Unroutable,
)
from amqptasks.testing import running_worker
from amqptasks.transport import codec
from amqptasks.transport.base import Done
from amqptasks.transport.memory_broker import MemoryBroker
from amqptasks.worker.late_results import LateResults
from amqptasks.worker.outcome import Manifest, WorkerQueue
from tests.working import eventually

INTERNAL = WorkerQueue("i", exchange="internal", routing_key="k", internal=True)
NOWHERE = Unroutable("no queue")


class FakePublisher:
    """Keeps what is posted; its link says of every queue what the test has set."""

    def __init__(self) -> None:
        self.posted: list[tuple[Parcel, Done]] = []
        self.link: FakePublisher | None = self
        self.answer: TransportError | None = None
        self.asked: list[str] = []

    def post(self, parcel: Parcel, done: Done) -> None:
        self.posted.append((parcel, done))

    def flush(self) -> None: ...

    async def declare(self, *entities: Entity, passive: bool) -> list[QueueInfo]:
        assert passive
        self.asked += [entity.name for entity in entities]  # type: ignore[union-attr]
        await asyncio.sleep(0)
        if self.answer is not None:
            raise self.answer
        return []


def result(name: str, queue: str = "replies") -> Parcel:
    return Parcel("", queue, b"", b"", name, "drop")


def after(
    answer: TransportError | None, *parcels: Parcel, internal: bool = True, linked: bool = True
) -> tuple[FakePublisher, dict[str, Any]]:
    """Post results that find no queue; return the publisher, and what each sender has heard."""

    async def scenario() -> tuple[FakePublisher, dict[str, Any]]:
        publisher, heard = FakePublisher(), dict[str, Any]()
        publisher.answer = answer
        if not linked:
            publisher.link = None
        manifest = Manifest("proj", {"result_expires": 60.0}, (INTERNAL,) if internal else (), {})
        late = LateResults(publisher, manifest)  # type: ignore[arg-type]
        for parcel in parcels:
            late.post(parcel, lambda error, name=parcel.message_id: heard.update({name: error}))
        first, publisher.posted = publisher.posted, []
        for _, done in first:
            done(NOWHERE)
        if late.asking:
            await asyncio.wait(late.asking)
        return publisher, heard

    return asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_caller_who_is_gone_is_asked_for_once() -> None:
    publisher, heard = after(NotFound("gone"), result("1"), result("2"), result("3", "others"))

    assert publisher.asked == ["replies", "others"]
    assert heard == dict.fromkeys("123", NOWHERE)
    assert publisher.posted == []


@pytest.mark.parametrize("answer", [QueueDown("its node is down"), ConnectionLost("nobody can be asked now")])
def test_a_result_whose_queue_may_be_back_is_left_to_a_call(answer: TransportError) -> None:
    publisher, heard = after(answer, result("1"), result("2"))

    assert heard == {}, "not before the calls are confirmed"
    for parcel, done in publisher.posted:
        assert (parcel.exchange, parcel.routing_key, parcel.fate) == ("internal", "k", "raise")
        done(None)
    assert heard == {"1": None, "2": None}


def test_without_a_link_it_is_left_to_a_call_too() -> None:
    publisher, _ = after(None, result("1"), linked=False)

    assert [parcel.exchange for parcel, _ in publisher.posted] == ["internal"]


def test_a_queue_that_is_there_after_all_gets_its_result() -> None:
    publisher, heard = after(None, result("1"))

    assert [parcel for parcel, _ in publisher.posted] == [result("1")]
    publisher.posted[0][1](NOWHERE)
    assert heard == {"1": NOWHERE}, "once: it does not go round in circles"


def test_a_call_that_is_refused_is_told_as_it_is() -> None:
    """Whoever posted the result posts it again."""
    publisher, heard = after(QueueDown("its node is down"), result("1"))
    full = Nacked("full")

    publisher.posted[0][1](full)

    assert heard == {"1": full}


def test_who_may_send_no_calls_drops_what_finds_no_queue() -> None:
    publisher, heard = after(QueueDown("its node is down"), result("1"), internal=False)

    assert (publisher.asked, heard) == ([], {"1": NOWHERE})


def test_what_is_no_result_is_not_its_business() -> None:
    publisher, heard = after(
        NotFound("gone"),
        Parcel("", "q", b"", b"", "dead", "dead"),
        Parcel("elsewhere", "q", b"", b"", "by an exchange", "drop"),
    )

    assert (publisher.asked, set(heard)) == ([], {"dead", "by an exchange"})


def test_a_result_is_held_as_it_is_and_not_longer_than_results_live() -> None:
    held = late_parts.result(Parcel("", "replies", b"\0\0", b"{}", "", "drop"), Address("x", "k"), 60.0)
    [_, kwargs, _] = json.loads(held.body)

    found = late_parts.result_of(**kwargs)

    assert (found.routing_key, found.header, found.body, found.fate) == ("replies", b"\0\0", b"{}", "raise")
    assert "expires" in str(codec.decode_header(held.header).headers)


# --- with a worker --------------------------------------------------------------------------------------------


def test_results_wait_for_the_node_of_their_queue(app: App, broker: MemoryBroker) -> None:
    double = app.task(name="proj.double")(lambda x: 2 * x)
    results = [double.delay(number) for number in range(5)]
    replies = app.backend.reply_to()
    assert replies is not None
    broker.take_down(replies)
    with running_worker(app) as worker:
        with pytest.raises(TimeoutError):
            results[0].get(timeout=0.3)
        eventually(lambda: worker.counters.tasks[late_parts.RESULT] > 5, "one of the five is tried again")
        broker.bring_up(replies)

        assert [result.get(timeout=60) for result in results] == [0, 2, 4, 6, 8]
        assert worker.counters.undeliverable == 0


def test_a_result_for_nobody_is_counted_and_said_once(app: App, caplog: pytest.LogCaptureFixture) -> None:
    double = app.task(name="proj.double")(lambda x: 2 * x)
    with running_worker(app) as worker, caplog.at_level(logging.INFO):
        for number in range(3):
            double.apply_async((number,), reply_to="who.has.gone")
        assert double.delay(4).get(timeout=60) == 8
        eventually(lambda: worker.counters.undeliverable == 3, "the callers are found to be gone")

    assert caplog.text.count("dropped a result for who.has.gone") == 3
    assert late_parts.RESULT not in worker.counters.tasks


def test_a_result_whose_caller_does_not_come_back_with_the_node_is_said_to_be_lost(
    app: App, broker: MemoryBroker, caplog: pytest.LogCaptureFixture, work: Any
) -> None:
    held = late_parts.result(
        Parcel("", "who.has.gone", b"\0\0", b"{}", "", "drop"), Address("", "amqptasks"), None
    )
    app.prepare("amqptasks")
    app.connection.publish([held])

    work(1)

    assert work.outcomes[-1].state == "FAILURE"
    assert "the queue who.has.gone" in caplog.text
