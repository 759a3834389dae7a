"""Reading a stream to its end: what a broker gives in one go, nothing, another stream of that name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from amqptasks.amqp import Delivery, Properties, QueueInfo
from amqptasks.errors import ConnectionLost, TransportError
from amqptasks.revokes import NAME, stream
from amqptasks.transport.codec import encode_header
from amqptasks.worker import following
from amqptasks.worker.following import PREFETCH, Follower
from tests.worker import virtual_time


class Reader:
    """A consumer of a stream as RabbitMQ reads it: all that is there at once, as far as the credit goes."""

    generation = 1
    queue = NAME

    def __init__(self, link: FakeLink, take: Callable[[Delivery], None], prefetch: int, offset: int) -> None:
        self.link = link
        self.prefetch = self.credit = prefetch
        self.acked: list[int] = []
        self.closed = False
        self._take = take
        self._at = offset
        self._acks = 0

    def give(self) -> None:
        while self.credit and self._at < len(self.link.messages) and not self.closed:
            header = encode_header(Properties(headers={"x-stream-offset": self._at}))
            body = self.link.messages[self._at]
            self._at += 1
            self.credit -= 1
            self._take(Delivery(NAME, self._at, 1, False, "", NAME, header, body))

    def ack(self, tag: int, multiple: bool = False) -> None:
        self.acked.append(tag)
        self._acks += 1

    async def fence(self) -> None:
        """The broker takes the acks before it answers."""
        await asyncio.sleep(0)
        self.link.fences += 1
        self.credit, self._acks = self.credit + self._acks, 0
        self.give()

    async def close(self) -> None:
        self.closed = True


class FakeLink:
    """A link to a broker with one stream; `late` seconds pass until something comes, or it is there `early`, before the
    answer that it is consumed has been looked at.
    """

    def __init__(
        self, *messages: bytes, counted: int | None = None, late: float = 0.0, early: bool = False
    ) -> None:
        self.lost: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.messages = list(messages)
        self.readers: list[Reader] = []
        self.offsets: list[Any] = []
        self.fences = 0
        self._counted, self._late, self._early = counted, late, early

    async def declare(self, *_: Any) -> list[QueueInfo]:
        counted = len(self.messages) if self._counted is None else self._counted
        return [QueueInfo(NAME, counted, 0)]

    async def consume(self, queue: str, take: Any, ended: Any, *, prefetch: int, arguments: Any) -> Reader:
        offset = arguments["x-stream-offset"]
        self.offsets.append(offset)
        self.readers.append(Reader(self, take, prefetch, 0 if offset == "first" else offset))
        if self._early:
            self.readers[-1].give()
        asyncio.get_running_loop().call_later(self._late, self.readers[-1].give)
        await asyncio.sleep(0)
        return self.readers[-1]

    def write(self, body: bytes) -> None:
        self.messages.append(body)
        self.readers[-1].give()


class Bench:
    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.nudges = 0
        self.follower = Follower(stream(60.0), lambda delivery: self.taken.append(delivery.body))

    async def read(
        self, link: FakeLink, nudge: Callable[[], bool] = lambda: True, patience: float = 10.0
    ) -> bool:
        def nudged() -> bool:
            self.nudges += 1
            return nudge()

        return await self.follower.read(link, patience, ended=lambda reason: None, nudge=nudged)


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SILENCE", "LOOK", "IN_VAIN", "SILENT"):
        monkeypatch.setattr(following, name, 0.05)


def numbered(count: int, prefix: str = "") -> list[bytes]:
    return [f"{prefix}{number}".encode() for number in range(count)]


def run(scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    """In virtual time: of two timers the one that is due first is first, however slow the machine is."""

    async def within() -> None:
        await asyncio.wait_for(scenario(Bench()), 20)

    virtual_time.run(within())


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("count", [1, PREFETCH - 1, PREFETCH, 3 * PREFETCH + 1])
def test_all_that_is_there_has_been_taken_and_acknowledged_at_the_end(count: int, early: bool) -> None:
    async def scenario(bench: Bench) -> None:
        link = FakeLink(*numbered(count), early=early)

        assert await bench.read(link)

        assert bench.taken == link.messages
        assert bench.nudges == 0, "nothing was written"
        assert sorted(link.readers[0].acked) == list(range(1, count + 1))

    run(scenario)


def test_what_comes_afterwards_is_taken_too() -> None:
    async def scenario(bench: Bench) -> None:
        link = FakeLink(b"a")
        await bench.read(link)
        link.write(b"b")

        assert bench.taken == [b"a", b"b"]
        assert link.readers[0].acked == [1, 2]

    run(scenario)


def test_an_empty_stream_is_asked_for_something() -> None:
    async def scenario(bench: Bench) -> None:
        link = FakeLink()

        def nudge() -> bool:
            if not link.messages:
                link.write(b"mark")
            return True

        assert await bench.read(link, nudge)
        assert bench.taken == [b"mark"]
        assert link.fences, "and what was written before it has been taken as well"

    run(scenario)


@pytest.mark.parametrize("counted", [0, 7])
def test_an_empty_stream_that_takes_nothing_is_waited_for_briefly(counted: int) -> None:
    async def scenario(bench: Bench) -> None:
        assert not await bench.read(FakeLink(counted=counted), lambda: False, patience=600.0)
        assert bench.taken == []
        assert bench.follower.silent
        assert bench.nudges == 1

    run(scenario)


def test_a_stream_that_the_broker_counts_as_empty_is_read_all_the_same() -> None:
    """It counts every few seconds, and not right after its start; nor can it be written to under an alarm."""

    async def scenario(bench: Bench) -> None:
        link = FakeLink(*numbered(700), counted=0, late=0.02)

        assert await bench.read(link, lambda: False)
        assert len(bench.taken) == 700

    run(scenario)


def test_a_stream_that_stays_silent_is_not_waited_for_as_long_as_one_that_is_read() -> None:
    async def scenario(bench: Bench) -> None:
        assert not await bench.read(FakeLink(counted=1), lambda: True, patience=600.0)

    run(scenario)


def test_a_lost_link_ends_the_wait() -> None:
    async def scenario(bench: Bench) -> None:
        link = FakeLink()

        def nudge() -> bool:
            if not link.lost.done():
                link.lost.set_result(ConnectionLost("gone"))
            return True

        with pytest.raises(ConnectionLost):
            await bench.read(link, nudge)

    run(scenario)


@pytest.mark.parametrize("counted", [7, 0])
def test_after_a_reconnect_the_last_message_comes_again_and_what_is_new(counted: int) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.read(FakeLink(*numbered(5)))
        bench.taken.clear()
        link = FakeLink(*numbered(7), counted=counted)

        assert await bench.read(link)

        assert bench.taken == [b"4", b"5", b"6"]
        assert bench.nudges == 0, "so that something comes also where nothing is new"
        assert link.offsets == [4]

    run(scenario)


@pytest.mark.parametrize("count", [0, 3, 5, 9])
def test_another_stream_of_that_name_is_read_from_its_beginning(count: int) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.read(FakeLink(*numbered(5)))
        bench.taken.clear()
        link = FakeLink(*numbered(count, "another "))

        def nudge() -> bool:
            if not link.messages:
                link.write(b"mark")
            return True

        assert await bench.read(link, nudge)

        assert link.offsets[-1] == "first"
        assert set(link.messages) <= set(bench.taken)
        assert link.readers[0].closed

    run(scenario)
