"""The consuming side: one connection, a lane for each queue, consuming again after every loss, by itself.

Declares what it consumes, lives with what others declared differently, and feeds `Dispatch`. Knows queues and links;
knows nothing of tasks or pools.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from amqptasks.amqp import Arguments, Queue
from amqptasks.backoff import reconnecting
from amqptasks.errors import (
    AccessRefused,
    ChannelClosed,
    ConnectionLost,
    DuplicateNode,
    ResourceLocked,
    TLSFailed,
    TransportError,
    VhostNotFound,
)
from amqptasks.transport.base import Connect, Consumer, Link
from amqptasks.worker import load
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.lane import Lane
from amqptasks.worker.outcome import WorkerQueue
from amqptasks.worker.patience import Patience, without
from amqptasks.worker.prefetch import Prefetch
from amqptasks.worker.topology import declare, declared, reach_by_ladder

logger = logging.getLogger(__name__)

CLAIM_AGAIN = 5.0
"""Seconds between attempts to get the node's name back after a reconnect."""
LOOK = 0.2
"""Seconds between two looks at how busy the lanes are."""
SOON = 0.05
"""The same at the start, and after a look that let a lane hold more: a backlog is not to wait for the fourth."""


@dataclass(frozen=True, slots=True)
class Retrying:
    """How often a worker tries to connect: `startup` at first, `most` times in a row (None: for ever)."""

    startup: bool = True
    most: int | None = None


class Consumers:
    """Consumes `queues` until stopped. Used from the loop's thread only."""

    def __init__(
        self,
        connect: Connect,
        queues: Sequence[WorkerQueue],
        dispatch: Dispatch,
        *,
        prefetch: Callable[[], Prefetch],
        node: str,
        retrying: Retrying,
        patience: Patience | None = None,
        prepare: Callable[[Link], Awaitable[None]] | None = None,
    ) -> None:
        """`prepare` is awaited with each new link, before anything is consumed on it."""
        self._connect = connect
        self._queues = tuple(queues)
        self._dispatch = dispatch
        self._prefetch = prefetch
        self._node = node
        self._retrying = retrying
        self._patience = patience
        self._prepare = prepare
        self._parting: list[Lane] = []
        self._lanes: dict[str, Lane] = {}
        self._link: Link | None = None
        self._told: set[str] = set()
        self._stopping = False
        self._errands: set[asyncio.Task[None]] = set()
        self.reconnects = 0

    async def open(self) -> None:
        """Connect, declare and consume; returns when every queue is consumed.

        Raises AccessRefused, VhostNotFound, TLSFailed and DuplicateNode at once, other transport errors when the
        attempts are used up.
        """
        await self._consume_all(first=True)

    async def run(self) -> None:
        """Keep consuming until cancelled: after each loss connect again, with backoff."""
        look = asyncio.create_task(self._look())
        try:
            while True:
                assert self._link is not None
                reason = await asyncio.shield(self._link.lost)
                self._voided([*self._lanes.values(), *self._parting])
                self._parting.clear()
                if self._stopping:
                    return
                logger.warning("connection lost: %s; connecting again", reason)
                self.reconnects += 1
                if not await self._consume_all(first=False):
                    return
                logger.info("consuming again: %s", ", ".join(self._lanes))
        finally:
            look.cancel()

    async def stop_taking(self) -> None:
        """Cancel every consumer; what is held may still be settled."""
        self._stopping = True
        for errand in list(self._errands):
            errand.cancel()
        consumers = [lane.consumer for lane in self._lanes.values() if lane.consumer is not None]
        await asyncio.gather(*(consumer.cancel() for consumer in consumers), return_exceptions=True)

    async def purge(self) -> int:
        """Empty the queues that are consumed; how many messages that were."""
        assert self._link is not None
        return sum([await self._link.purge(queue.name) for queue in self._queues if not queue.internal])

    async def add(self, queue: WorkerQueue) -> None:
        """Consume one more queue from now on. Raises the transport errors; does nothing if it is consumed."""
        if queue.name in self._lanes or self._link is None or self._stopping:
            return
        await declare(self._link, queue.declare, self._told)
        lane = self._lanes[queue.name] = await self._open_lane(self._link, queue)
        self._queues = (*self._queues, queue)
        await reach_by_ladder(self._link, [queue.name], self._told)
        if lane.ended is not None:
            self._restart(lane, lane.ended)

    async def remove(self, name: str) -> bool:
        """Consume a queue no more; what is held of it still runs. False if it was not consumed."""
        lane = self._lanes.pop(name, None)
        if lane is None:
            return False
        self._queues = tuple(queue for queue in self._queues if queue.name != name)
        self._parting.append(lane)
        if lane.consumer is not None:
            await lane.consumer.cancel()
        return True

    async def resized(self, size: int) -> None:
        """The pool has so many slots now."""
        for lane in list(self._lanes.values()):
            if lane.prefetch.resize(size) and lane.consumer is not None:
                await lane.consumer.renew(lane.prefetch.value)

    async def close(self) -> None:
        """Send the last acks and close the connection; what is unsettled goes back to the broker."""
        for lane in (*self._lanes.values(), *self._parting):
            lane.settler.flush()
        if self._link is not None:
            await self._link.close()

    @property
    def link(self) -> Link | None:
        return self._link

    @property
    def wanted(self) -> Sequence[WorkerQueue]:
        return self._queues

    @property
    def lanes(self) -> Sequence[Lane]:
        return tuple(self._lanes.values())

    # --- connecting --------------------------------------------------------------------------------------

    async def _consume_all(self, *, first: bool) -> bool:
        """Try until every queue is consumed; False when the worker was told to stop meanwhile."""
        for attempts, delay in enumerate(reconnecting(first=0.2, maximum=10.0), 1):
            if self._stopping:
                return False
            try:
                await self._consume_once()
                return True
            except TransportError as error:
                if first:
                    self._refuse_the_hopeless(error, attempts)
                logger.error("%s (attempt %d; trying again in %.1f s)", error, attempts, delay)
            await asyncio.sleep(delay)
        return False

    def _refuse_the_hopeless(self, error: TransportError, attempts: int) -> None:
        """At start a wrong password or vhost is a mistake to show; later it may be an operator's change."""
        most = self._retrying.most
        if _permanent(error) or not self._retrying.startup or (most is not None and attempts > most):
            raise error

    async def _consume_once(self) -> None:
        link = await self._connect()
        lanes: dict[str, Lane] = {}
        try:
            await self._claim_name(link)
            queues = [
                queue for queue in self._patient_queues(link) if await declared(link, queue, self._told)
            ]
            if self._prepare is not None:
                await self._prepare(link)
            for queue in queues:
                lanes[queue.name] = await self._open_lane(link, queue)
            if self._stopping:
                raise ConnectionLost("the worker stops, so it consumes no more")
        except BaseException:
            self._voided(list(lanes.values()))
            await link.close()
            raise
        self._link, self._lanes = link, lanes
        self._in_background(reach_by_ladder(link, list(lanes), self._told))
        for lane in lanes.values():
            if lane.ended is not None:  # before it was known here
                self._restart(lane, lane.ended)

    def _patient_queues(self, link: Link) -> Sequence[WorkerQueue]:
        if self._patience is None:
            return self._queues
        version = link.server.version_tuple
        warning = self._patience.warning(version)
        if warning and warning not in self._told:
            self._told.add(warning)
            logger.warning("%s", warning)
        return [self._patience.asked(queue, version) for queue in self._queues]

    async def _claim_name(self, link: Link) -> None:
        """Hold an exclusive queue named after the node: a second worker of that name is told so by the broker."""
        try:
            await link.declare(self._claim())
        except ResourceLocked as error:
            if self.reconnects:
                # The broker has not noticed yet that our last connection is gone; tasks need not wait for that.
                self._in_background(self._claim_later(link))
                return
            raise DuplicateNode(
                f"a worker named {self._node} is connected already; name this one with `-n other@%h`"
            ) from error

    async def _claim_later(self, link: Link) -> None:
        claim = self._claim()
        while not link.lost.done():
            await asyncio.sleep(CLAIM_AGAIN)
            with contextlib.suppress(ResourceLocked, ConnectionLost):
                await link.declare(claim)
                return

    def _claim(self) -> Queue:
        return Queue(f"amqptasks.node.{self._node}", durable=False, exclusive=True, auto_delete=True)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _open_lane(self, link: Link, queue: WorkerQueue) -> Lane:
        before = self._lanes.get(queue.name)
        lane = Lane(queue, before.prefetch if before else self._prefetch(), self._dispatch.receive)
        try:
            consumer = await self._consumer(link, lane, queue.consumer_arguments)
        except ChannelClosed:
            plain = without(queue.consumer_arguments)
            if plain == queue.consumer_arguments:
                raise
            consumer = await self._consumer(link, lane, plain)  # a classic queue takes no timeout
        lane.attach(consumer, asyncio.get_running_loop())
        return lane

    async def _consumer(self, link: Link, lane: Lane, arguments: Arguments) -> Consumer:
        return await link.consume(
            lane.queue.name,
            lane.take,
            partial(self._cancelled, lane),
            prefetch=lane.prefetch.value,
            tag=f"{self._node}.{lane.queue.name}",
            arguments=arguments or None,
        )

    # --- losses ------------------------------------------------------------------------------------------

    def _cancelled(self, lane: Lane, reason: TransportError) -> None:
        """The broker ended one consumer: the queue was deleted, or it held a message for too long."""
        lane.ended = reason
        self._voided([lane])
        if self._lanes.get(lane.queue.name) is lane:
            self._restart(lane, reason)

    def _restart(self, lane: Lane, reason: TransportError) -> None:
        if self._stopping or self._link is None or self._link.lost.done():
            return
        logger.error("no longer consuming %s: %s; consuming again", lane.queue.name, reason)
        self._in_background(self._revive(self._link, lane.queue))

    async def _revive(self, link: Link, queue: WorkerQueue) -> None:
        for delay in reconnecting(first=0.2, maximum=10.0):
            if link.lost.done() or self._stopping:
                return
            try:
                await declare(link, queue.declare, self._told)
                await reach_by_ladder(link, [queue.name], self._told)
                lane = self._lanes[queue.name] = await self._open_lane(link, queue)
                if lane.ended is None:
                    logger.info("consuming %s again", queue.name)
                    return
            except TransportError as error:
                logger.error("cannot consume %s: %s (trying again in %.1f s)", queue.name, error, delay)
            await asyncio.sleep(delay)

    def _voided(self, lanes: Sequence[Lane]) -> None:
        for lane in lanes:
            self._dispatch.void(lane)

    # --- prefetch ----------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Adapt each lane's prefetch to how long its tasks run."""
        interval = SOON
        while True:
            await asyncio.sleep(interval)
            grown = [await self._adapt(lane, interval) for lane in list(self._lanes.values())]
            interval = SOON if any(grown) else LOOK

    async def _adapt(self, lane: Lane, interval: float) -> bool:
        """Whether the lane holds more from now on."""
        before = lane.prefetch.value
        try:
            busy, early = load.longest_running(self._dispatch, lane), load.early(self._dispatch, lane)
            value = await lane.adapt(interval, busy, early)
        except TransportError as error:
            logger.debug("prefetch of %s not changed: %s", lane.queue.name, error)
            return False
        if value is None:
            return False
        logger.debug("prefetch of %s is now %d", lane.queue.name, value)
        return value > before


def _permanent(error: TransportError) -> bool:
    return isinstance(error, AccessRefused | VhostNotFound | TLSFailed)
