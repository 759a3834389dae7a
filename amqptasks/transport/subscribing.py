"""Consumers of a blocking client, on its I/O thread's loop: kept alive over outages, on a link of their own.

A link apart from publishing, because a broker under alarm stops reading a connection that publishes. Knows
deliveries and queues; knows nothing of results.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from amqptasks.amqp import Arguments, Entity, Queue
from amqptasks.backoff import reconnecting
from amqptasks.errors import BrokerUnavailable, ConnectionLost, NotFound, TransportError
from amqptasks.transport.base import Connect, Consumer, Link, OnDelivery
from amqptasks.transport.keeping import PERMANENT, RetryPolicy

log = logging.getLogger(__name__)

T = TypeVar("T")

OnLost = Callable[[TransportError], None]
OnRestored = Callable[[bool], None]
"""Called with whether the queue was still there: if not, it was declared anew, and what was in it is lost."""


@dataclass(slots=True, eq=False)
class Wanted:
    """What to consume, what to declare before, and whom to tell."""

    queue: str
    on_delivery: OnDelivery
    declare: Sequence[Entity] = ()
    no_ack: bool = True
    prefetch: int = 0
    exclusive: bool = False
    arguments: Arguments | None = None
    on_lost: OnLost | None = None
    on_restored: OnRestored | None = None
    consumer: Consumer | None = None


class Subscriber:
    """All consumers of one client. Every method runs on the loop."""

    def __init__(self, connect: Connect, *, policy: RetryPolicy) -> None:
        self.link: Link | None = None
        self._connect = connect
        self._policy = policy
        self._opening: asyncio.Task[Link] | None = None
        self._wanted: dict[Wanted, asyncio.Task[None]] = {}

    async def add(self, wanted: Wanted) -> None:
        """Return once it consumes, and keep it so. Raises what stood in the way of the policy's attempts."""
        delays = self._policy.delays()
        failures = 0
        while True:
            try:
                broken = await self._begin(wanted)
                break
            except TransportError as exc:
                failures += 1
                most = self._policy.max_retries
                if not _transient(exc) or (most is not None and failures > most):
                    raise
            await asyncio.sleep(next(delays))
        self._wanted[wanted] = asyncio.get_running_loop().create_task(self._keep(wanted, broken))

    async def remove(self, wanted: Wanted) -> None:
        """Consume no more; what is unacknowledged goes back."""
        task = self._wanted.pop(wanted, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        try:
            await self._end(wanted)
        except TransportError as exc:
            log.debug("closing the consumer of %s: %s", wanted.queue, exc)

    async def _end(self, wanted: Wanted) -> None:
        consumer, wanted.consumer = wanted.consumer, None
        if consumer is not None and self.link is not None and not self.link.lost.done():
            await consumer.close()

    async def close(self) -> None:
        for wanted in list(self._wanted):
            await self.remove(wanted)
        if self._opening is not None:
            self._opening.cancel()
        if self.link is not None:
            await self.link.close()

    async def _keep(self, wanted: Wanted, broken: asyncio.Future[TransportError]) -> None:
        while True:
            error = await self._until_broken(broken)
            log.debug("the consumer of %s was lost: %s", wanted.queue, error)
            _tell(wanted.on_lost, error)
            broken, kept = await self._restore(wanted)
            _tell(wanted.on_restored, kept)

    async def _until_broken(self, broken: asyncio.Future[TransportError]) -> TransportError:
        link = self.link
        assert link is not None
        await asyncio.wait({broken, link.lost}, return_when=asyncio.FIRST_COMPLETED)
        return broken.result() if broken.done() else link.lost.result()

    async def _restore(self, wanted: Wanted) -> tuple[asyncio.Future[TransportError], bool]:
        """Try for ever: whoever waits for what this consumer brings has a timeout of his own."""
        for pause in reconnecting():
            try:
                await self._end(wanted)
                kept = await self._exists(wanted.queue)
                return await self._begin(wanted), kept
            except TransportError as exc:
                log.debug("cannot consume %s: %s", wanted.queue, exc)
            await asyncio.sleep(pause)
        raise AssertionError("backoff ended")

    async def _exists(self, queue: str) -> bool:
        try:
            await (await self._shared()).declare(Queue(queue), passive=True)
            return True
        except NotFound:
            return False

    async def _begin(self, wanted: Wanted) -> asyncio.Future[TransportError]:
        """Declare and consume once; return a future of why the broker ended it, should that happen."""
        link = await self._shared()
        broken: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()

        def ended(error: TransportError) -> None:
            if not broken.done():
                broken.set_result(error)

        if wanted.declare:
            await link.declare(*wanted.declare)
        wanted.consumer = await link.consume(
            wanted.queue,
            wanted.on_delivery,
            ended,
            prefetch=wanted.prefetch,
            no_ack=wanted.no_ack,
            exclusive=wanted.exclusive,
            arguments=wanted.arguments,
        )
        return broken

    async def _shared(self) -> Link:
        if self.link is not None and not self.link.lost.done():
            return self.link
        if self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> Link:
        link = self.link = await self._connect()
        return link


def _transient(error: TransportError) -> bool:
    """Whether another attempt may help: what the broker refuses it will refuse again."""
    return isinstance(error, ConnectionLost | BrokerUnavailable) and not isinstance(error, PERMANENT)


def _tell(callback: Callable[[T], None] | None, value: T) -> None:
    if callback is not None:
        try:
            callback(value)
        except Exception:
            log.exception("a subscriber's callback failed")
