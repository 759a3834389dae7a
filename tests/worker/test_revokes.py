"""A worker that learns what is revoked: from a stream that is not here yet, is gone again, or cannot be had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from amqptasks import revokes
from amqptasks.errors import (
    AccessRefused,
    BrokerUnavailable,
    ChannelClosed,
    NotFound,
    QueueDown,
    TopologyMismatch,
    TransportError,
)
from amqptasks.settings import DEFAULTS
from amqptasks.worker.revoked import Revoked
from amqptasks.worker.revokes import Revokes
from tests.worker import virtual_time
from tests.worker.test_following import FakeLink

NO_REPLICA = ChannelClosed("stream 'amqptasks.revokes' does not have a replica on the local node", 406)
DOWN = QueueDown("home node of 'amqptasks.revokes' is down", 404)


class Link(FakeLink):
    """Refuses to let the stream be consumed, for each of `errors` once. Other queues stay silent."""

    server = SimpleNamespace(product="RabbitMQ")

    def __init__(self, *ids: str, errors: tuple[TransportError, ...] = ()) -> None:
        super().__init__(*(revokes.record([each]).body for each in ids))
        self.errors = list(errors)
        self.ended: Callable[[TransportError], None]
        self.asked = 0

    async def consume(self, queue: str, take: Any, ended: Any, **options: Any) -> Any:
        if queue != revokes.NAME:
            self.asked += 1
            return SimpleNamespace(close=self._nothing)
        if self.errors:
            raise self.errors.pop(0)
        self.ended = ended
        return await super().consume(queue, take, ended, **options)

    async def _nothing(self) -> None: ...


class Bench:
    def __init__(self) -> None:
        self.revoked = Revoked()
        self.publisher: Any = SimpleNamespace(blocked=None, post=lambda *_: None)
        self.revokes = Revokes("w1@here", DEFAULTS, self.publisher, self.revoked, lambda: None)

    async def open(self, link: Any) -> list[str]:
        await self.revokes.open(link)
        return list(self.revoked)


def run(scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def within() -> None:
        bench = Bench()
        await scenario(bench)
        bench.revokes.close()
        await asyncio.sleep(1)

    virtual_time.run(within())


@pytest.mark.parametrize(("error", "times"), [(NO_REPLICA, 3), (DOWN, 15)])
def test_a_stream_that_is_not_here_yet_is_waited_for(
    caplog: pytest.LogCaptureFixture, error: TransportError, times: int
) -> None:
    """Several workers of a cluster start at once, and one of them declares it; the broker has just been started."""

    async def scenario(bench: Bench) -> None:
        link = Link("a", errors=(error,) * times)

        assert await bench.open(link) == ["a"]
        assert link.asked == 0

    run(scenario)
    assert caplog.messages == []


@pytest.mark.parametrize("error", [NO_REPLICA, DOWN, BrokerUnavailable("no answer")])
def test_a_stream_that_comes_later_is_read_then(error: TransportError) -> None:
    async def scenario(bench: Bench) -> None:
        link = Link("a", errors=(error,) * 60)

        assert await bench.open(link) == []
        assert link.asked == 1, "meanwhile the other workers have been asked"
        await asyncio.sleep(5000)

        assert list(bench.revoked) == ["a"]

    run(scenario)


@pytest.mark.parametrize("error", [NotFound("no queue", 404), AccessRefused("not for you")])
def test_a_stream_that_is_not_to_be_had_is_not_asked_for_again(error: TransportError) -> None:
    async def scenario(bench: Bench) -> None:
        link = Link("a", errors=(error,))

        assert await bench.open(link) == []
        await asyncio.sleep(1000)
        assert (bench.revoked.any, link.asked) == (False, 1)

    run(scenario)


def test_a_stream_that_is_taken_away_is_read_again() -> None:
    """As when its node goes, or it is deleted."""

    async def scenario(bench: Bench) -> None:
        link = Link("a")
        await bench.open(link)

        link.ended(ChannelClosed("the broker cancelled the consumer"))
        link.messages = [revokes.record(["b"]).body]
        await asyncio.sleep(10)

        assert list(bench.revoked) == ["a", "b"]

    run(scenario)


def test_what_another_worker_declared_with_another_retention_is_used_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Other(Link):
        async def declare(self, *_: Any) -> Any:
            raise TopologyMismatch("x-max-age differs", 406)

    async def scenario(bench: Bench) -> None:
        assert await bench.open(Other("a")) == ["a"]
        assert await bench.open(Other("a", "b")) == ["a", "b"]

    run(scenario)
    assert caplog.text.count("using it as it is") == 1


def test_an_empty_stream_under_an_alarm_is_told_of_and_costs_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(bench: Bench) -> None:
        bench.publisher.blocked = "low on memory"
        began = asyncio.get_running_loop().time()

        assert await bench.open(Link()) == []
        assert asyncio.get_running_loop().time() - began < 3

    run(scenario)
    assert "nor be written to it (low on memory)" in caplog.text


def test_a_mark_is_written_to_an_empty_stream_and_to_no_other() -> None:
    async def scenario(bench: Bench) -> None:
        link = Link()
        bench.publisher.post = lambda parcel, *_: link.write(parcel.body)

        await bench.open(link)
        await bench.open(link)

        assert [bool(revokes.read(body).mark) for body in link.messages] == [True]
        assert not bench.revoked.any

    run(scenario)
