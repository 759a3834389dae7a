"""A stream as a worker reads it: from where it was to its end, and then whatever comes. Knows one link at a time.

A consumer is not told where a stream ends. But the broker gives all that is there in one go, as far as the prefetch
lets it, and a channel answers in order: once something has come, an answer that overtakes nothing more means the end.
It takes no publishing, which a broker under an alarm would not let happen; only of an empty stream nothing comes.
Knows nothing of what is written there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from amqptasks.amqp import Delivery, Queue
from amqptasks.errors import InvalidMessage, TopologyMismatch, TransportError
from amqptasks.transport import codec
from amqptasks.transport.base import Consumer, Link

logger = logging.getLogger(__name__)

PREFETCH = 500
SILENCE = 0.5
"""Seconds after which a stream from which nothing comes may be empty, whatever the broker has counted in it."""
LOOK = 0.1
SILENT = 5.0
"""Seconds that a silent stream is listened to, although something was written to it."""
IN_VAIN = 2.0
"""The same from when nothing can be written to it."""
OFFSET: Final = "x-stream-offset"

Ended = Callable[[TransportError], None]


class Follower:
    """Reads one stream; used in the loop only. `take` is given each message, the last known one perhaps twice."""

    def __init__(self, stream: Queue, take: Callable[[Delivery], None]) -> None:
        self._stream = stream
        self._take = take
        self._last: tuple[int, bytes] | None = None
        """Offset and body of the last message that was taken."""
        self._known: tuple[int, bytes] | None = None
        """The same before this connection."""
        self._consumer: Consumer | None = None
        self._count = 0
        self._heard = asyncio.Event()
        self._replaced = False
        self._told = False

    async def read(self, link: Link, patience: float, *, ended: Ended, nudge: Callable[[], bool]) -> bool:
        """Consume from where it was read before; True once all has been taken that was there when this was called.

        False after `patience` seconds, or sooner if it is `silent`: then it is read on meanwhile. While nothing comes,
        as from an empty stream, `nudge` is called again and again: it writes something, or says by False that this
        cannot be done. `ended` is called when the broker ends the consumer. Raises the transport errors.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        holds = await self._declared(link)
        await self._consume(link, ended)
        heard = (holds or self._known is not None) and await self._comes(link, SILENCE)
        if self._known is not None and (self._replaced or not heard):
            # Another stream of that name: numbered anew, and perhaps shorter than what is known.
            self._last = None
            await self._consume(link, ended)
            heard = holds and await self._comes(link, SILENCE)
        if not heard:
            deadline = min(deadline, loop.time() + SILENT)
        while not heard and loop.time() < deadline:
            if not nudge():
                deadline = min(deadline, loop.time() + IN_VAIN)
                nudge = _nothing
            heard = await self._comes(link, LOOK)
        return heard and await self._reaches_the_end(deadline)

    @property
    def silent(self) -> bool:
        """Whether nothing has come since the last `read` began."""
        return not self._heard.is_set()

    async def _comes(self, link: Link, seconds: float) -> bool:
        """Wait for the first message of this consumer; False if none came. Raises why the link was lost."""
        heard = asyncio.ensure_future(self._heard.wait())
        try:
            either: set[asyncio.Future[Any]] = {heard, link.lost}
            await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            heard.cancel()
        if link.lost.done():
            raise link.lost.result()
        return self._heard.is_set()

    async def _reaches_the_end(self, deadline: float) -> bool:
        """Once something has come: True when all was taken that is there, False at `deadline`."""
        loop = asyncio.get_running_loop()
        while self._consumer is not None and loop.time() < deadline:
            before = self._count
            await self._consumer.fence()
            if self._count - before < PREFETCH // 2:  # so the prefetch has not held anything up
                return True
        return False

    async def _declared(self, link: Link) -> bool:
        """Whether something is known to be there."""
        try:
            [queue] = await link.declare(self._stream)
            return queue.messages > 0
        except TopologyMismatch as error:
            # Of the retention a worker keeps its own part; the stream was declared with another one.
            logger.log(logging.DEBUG if self._told else logging.WARNING, "%s; using it as it is", error)
            self._told = True
            return True

    async def _consume(self, link: Link, ended: Ended) -> None:
        before = self._consumer
        self._consumer = None
        if before is not None:
            await before.close()
        self._known, self._replaced = self._last, False
        self._heard.clear()
        early: list[int] = []

        def take(delivery: Delivery) -> None:
            self._on_delivery(delivery)
            if self._consumer is not None:
                self._consumer.ack(delivery.tag)
            else:
                early.append(delivery.tag)

        # The last known message comes again: so something comes, and it shows whether this is the same stream.
        offset = "first" if self._known is None else self._known[0]
        self._consumer = await link.consume(
            self._stream.name, take, ended, prefetch=PREFETCH, arguments={OFFSET: offset}
        )
        for tag in early:
            self._consumer.ack(tag)

    def _on_delivery(self, delivery: Delivery) -> None:
        self._count += 1
        self._heard.set()
        try:
            offset = (codec.decode_header(delivery.header).headers or {}).get(OFFSET)
        except InvalidMessage as error:
            logger.warning("%s; it is skipped", error)
            return
        if isinstance(offset, int):
            self._last = offset, delivery.body
            self._replaced |= (
                self._known is not None and self._known[0] == offset and self._known != self._last
            )
        self._take(delivery)


def _nothing() -> bool:
    return True
