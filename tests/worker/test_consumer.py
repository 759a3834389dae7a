"""Consuming over losses, without a broker: no lane is forgotten, and a stopping worker takes nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from amqptasks.amqp import Delivery
from amqptasks.errors import ChannelClosed, ConnectionLost, NotFound, TransportError
from amqptasks.worker.consumer import Consumers, Retrying
from amqptasks.worker.outcome import WorkerQueue
from amqptasks.worker.prefetch import Prefetch


class FakeConsumer:
    generation, prefetch = 1, 1

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.cancelled = False

    async def cancel(self) -> None:
        self.cancelled = True


class FakeLink:
    """Answers every request; `refuse` holds queues whose consumers it cancels or refuses at once."""

    def __init__(self, *, cancel: str = "", refuse: str = "") -> None:
        self.lost: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.consumers: dict[str, FakeConsumer] = {}
        self.on_delivery: dict[str, Callable[[Delivery], None]] = {}
        self.closed = False
        self._cancel, self._refuse = cancel, refuse

    async def declare(self, *entities: Any, passive: bool = False) -> list[Any]:
        return []

    async def consume(self, queue: str, on_delivery: Any, on_cancel: Any, **_: Any) -> FakeConsumer:
        await asyncio.sleep(0)
        if queue == self._refuse:
            raise NotFound(f"no queue {queue}")
        self.consumers[queue] = FakeConsumer(queue)
        self.on_delivery[queue] = on_delivery
        if queue == self._cancel:
            self._cancel = ""
            asyncio.get_running_loop().call_soon(on_cancel, ChannelClosed("the queue was deleted"))
        return self.consumers[queue]

    async def close(self) -> None:
        self.closed = True


class FakeDispatch:
    def __init__(self) -> None:
        self.voided: list[str] = []
        self.flights: dict[int, Any] = {}
        self.pool = SimpleNamespace(running={})
        self.holding = SimpleNamespace(due=())

    def receive(self, lane: Any, delivery: Delivery) -> None:
        raise AssertionError("nothing is delivered here")

    def void(self, lane: Any) -> None:
        self.voided.append(lane.queue.name)


def consumers(links: list[FakeLink], dispatch: FakeDispatch) -> Consumers:
    async def connect() -> FakeLink:
        if not links:
            raise ConnectionLost("no broker")
        return links.pop(0)

    queues = [WorkerQueue("a"), WorkerQueue("b")]
    return Consumers(
        connect, queues, dispatch, prefetch=lambda: Prefetch(1, 1), node="n@h", retrying=Retrying()
    )


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.005)


def test_a_queue_that_was_cancelled_while_the_next_was_opened_is_consumed_again():
    async def within() -> None:
        link = FakeLink(cancel="a")
        tested = consumers([link], FakeDispatch())

        await tested.open()
        first = link.consumers["a"]

        await until(lambda: link.consumers["a"] is not first)

    asyncio.run(within())


def test_what_an_attempt_delivered_before_it_failed_is_void():
    async def within() -> None:
        failing, dispatch = FakeLink(refuse="b"), FakeDispatch()
        tested = consumers([failing, FakeLink()], dispatch)

        await tested.open()

        assert failing.closed
        assert dispatch.voided == ["a"]

    asyncio.run(within())


def test_a_worker_that_stops_while_it_reconnects_consumes_nothing_more():
    async def within() -> None:
        first, links = FakeLink(), []
        links.append(first)
        tested = consumers(links, FakeDispatch())
        await tested.open()
        running = asyncio.create_task(tested.run())
        first.lost.set_result(ConnectionLost("gone"))
        await asyncio.sleep(0.01)

        await tested.stop_taking()
        second = FakeLink()
        links.append(second)
        await asyncio.wait_for(running, 60)

        assert second.consumers == {} or second.closed

    asyncio.run(within())
