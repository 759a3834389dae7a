"""Going over the messages of queues without taking them away, but for those that somebody settles.

They are held unacknowledged on a channel whose end gives them back to their places. Runs on the loop of its link;
publishes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from amqptasks.amqp import Delivery, Queue
from amqptasks.deaths import DeadLetter, Selection, read
from amqptasks.errors import NotFound, TransportError
from amqptasks.transport.base import Consumer, Link

WINDOW = 100
"""Messages that are on their way at a time."""

IDLE = 5.0
"""Seconds without a delivery after which the rest of a queue is taken to be in somebody else's hands."""

Act = Callable[[Delivery, DeadLetter], Awaitable[bool]]
"""Does something with a message that was selected; tells whether it is to leave its queue."""


@dataclass(slots=True)
class Tally:
    """What was done: `matched` were selected, `done` of them replayed or dropped, `left` stay, for these reasons."""

    matched: int = 0
    done: int = 0
    left: dict[str, int] = field(default_factory=dict)
    beyond: int = 0
    """Messages that nobody looked at, because they lie behind those that `Selection.look` allows."""


class Walk:
    """Goes over queues, from the oldest message on, and acts on those that are selected."""

    def __init__(self, link: Link, selection: Selection, tally: Tally, seconds: float = math.inf) -> None:
        """`seconds` is how long anything may be held at a stretch."""
        self._link = link
        self._selection = selection
        self._tally = tally
        self._limit = math.inf if selection.limit is None else selection.limit
        self._seconds = seconds

    async def over(self, queues: Sequence[str], act: Act, *, strict: bool) -> None:
        """Raises NotFound for a queue that is not there, if `strict`, and what ends the link."""
        for queue in queues:
            try:
                (info,) = await self._link.declare(Queue(queue), passive=True)
            except NotFound:
                if strict:
                    raise
                continue
            # What arrives from now on, replayed and dead again perhaps, is for another time.
            left = min(info.messages, self._selection.look)
            self._tally.beyond += info.messages - left
            while left and not self._enough:
                left = await self._round(queue, left, act)

    @property
    def _enough(self) -> bool:
        return self._tally.matched - sum(self._tally.left.values()) >= self._limit

    async def _round(self, queue: str, messages: int, act: Act) -> int:
        """Act on so many messages; return how many of them are to be looked at once more, in a round of its own."""
        tally, waits = self._tally, messages
        before = tally.matched, dict(tally.left)
        end = asyncio.get_running_loop().time() + self._seconds
        async with _visiting(self._link, queue) as visit:
            for _ in range(messages):
                delivery = None if self._enough else await visit.next()
                if delivery is None:
                    return 0
                letter = read(delivery)
                if self._selection.takes(letter):
                    tally.matched += 1
                    if await act(delivery, letter):
                        visit.settle(delivery)
                        waits -= 1
                        continue
                await visit.hold()
                # A round that has settled nothing goes on: the next one would meet the same messages.
                if waits < messages and asyncio.get_running_loop().time() > end:
                    break
            else:
                return 0
        # Those that stay will be counted again.
        tally.matched, tally.left = before[0] + messages - waits, before[1]
        return waits


@contextlib.asynccontextmanager
async def _visiting(link: Link, queue: str) -> AsyncIterator[_Visit]:
    visit = _Visit(link)
    link.lost.add_done_callback(visit.cut_off)
    try:
        await visit.begin(queue)
        yield visit
    finally:
        link.lost.remove_done_callback(visit.cut_off)
        await visit.close()


class _Visit:
    """Messages of one queue, one after the other; held until they are settled or the visit ends."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._inbox: asyncio.Queue[Delivery | TransportError] = asyncio.Queue()
        self._consumer: Consumer | None = None
        self._held = 0

    async def begin(self, queue: str) -> None:
        put = self._inbox.put_nowait
        self._consumer = await self._link.consume(queue, put, put, prefetch=WINDOW)

    async def close(self) -> None:
        if self._consumer is not None and not self._link.lost.done():
            await self._consumer.close()

    def cut_off(self, lost: asyncio.Future[TransportError]) -> None:
        if not lost.cancelled():
            self._inbox.put_nowait(lost.result())

    async def next(self) -> Delivery | None:
        """The next message; None when no more come."""
        try:
            async with asyncio.timeout(IDLE):
                got = await self._inbox.get()
        except TimeoutError:
            return None
        if isinstance(got, Delivery):
            return got
        raise got

    def settle(self, delivery: Delivery) -> None:
        assert self._consumer is not None
        self._consumer.ack(delivery.tag)

    async def hold(self) -> None:
        """Keep it in hand. With all of the window held nothing would come any more, so there is a new one."""
        assert self._consumer is not None
        self._held += 1
        if self._held == WINDOW:
            self._held = 0
            await self._consumer.renew(WINDOW)
