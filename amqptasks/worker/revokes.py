"""A worker's view of the revocations on the broker: reads the stream before it consumes, follows it, adds to it.

Where streams are not to be had, the workers that run are asked instead. Knows one link at a time, and a set of ids;
knows no flight. Whatever fails here costs what is kept, never the worker.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

from amqptasks import pidbox, revokes
from amqptasks.amqp import Address, Delivery
from amqptasks.backoff import reconnecting
from amqptasks.bounded import drop_oldest
from amqptasks.errors import (
    AccessRefused,
    AmqptasksError,
    ChannelClosed,
    InvalidMessage,
    NotFound,
    QueueDown,
    TransportError,
)
from amqptasks.ids import new_id
from amqptasks.transport import codec
from amqptasks.transport.base import Link
from amqptasks.transport.publisher import Publisher
from amqptasks.worker.following import Follower
from amqptasks.worker.revoked import Revoked

logger = logging.getLogger(__name__)

PATIENCE = 20.0
"""Seconds that a starting worker reads what is kept; then it consumes, and reads on meanwhile."""
LATER = 3.0
"""The same after a reconnect: little can be new."""
REPLICA = 2.0
"""Seconds within which a stream that was declared just now can be read on every node of a cluster."""
PEERS = 1.0
"""Seconds that other workers are waited for, where there is no stream."""
AFTERWARDS = 1.0
"""Seconds within which one of the workers writes down what a foreign client has revoked."""


class Revokes:
    """Used in the loop only. `on_news` is called when something was revoked that a worker may hold already."""

    def __init__(
        self,
        node: str,
        settings: Mapping[str, Any],
        publisher: Publisher,
        revoked: Revoked,
        on_news: Callable[[], None],
    ) -> None:
        self._node = node
        self._settings = settings
        self._publisher = publisher
        self._revoked = revoked
        self._on_news = on_news
        self._follower = Follower(revokes.stream(settings["worker_revokes_retention"]), self._take)
        self._kept: dict[str, None] = {}
        self._works = False
        self._began = False
        self._reading = asyncio.Lock()
        self._again: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        revoked.bound(settings["worker_revokes_limit"], settings["worker_revokes_retention"])

    async def open(self, link: Link) -> None:
        """Return once everything that is revoked is known, or cannot be had. Raises nothing."""
        if link.server.product != "RabbitMQ":
            return
        patience, self._began = LATER if self._began else PATIENCE, True
        if self._again is not None:
            self._again.cancel()  # it was for another link
        try:
            await self._read(link, patience)
            return
        except (AccessRefused, NotFound) as error:
            self._say_unreadable(error)
        except TransportError as error:
            self._say_unreadable(error)
            self._again = self._in_background(self._read_again(link))
        if not link.lost.done():
            try:
                await self._ask_peers(link)
            except TransportError as error:
                logger.debug("other workers cannot be asked: %s", error)

    def close(self) -> None:
        for task in list(self._under_way):
            task.cancel()

    # --- reading -----------------------------------------------------------------------------------------

    async def _read(self, link: Link, patience: float) -> None:
        """Know what is revoked, and follow. Raises the transport errors."""
        ended, nudge = partial(self._ended, link), self._nudging(patience)
        async with self._reading:
            reached = await self._when_it_is_here(
                lambda: self._follower.read(link, patience, ended=ended, nudge=nudge)
            )
        self._works = True
        if not reached:
            self._say_unread(patience)

    async def _when_it_is_here(self, read: Callable[[], Awaitable[bool]]) -> bool:
        """The broker may have been started just now; of a cluster, another worker may just have declared it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for delay in reconnecting(first=0.1, maximum=0.5):
            try:
                return await read()
            except ChannelClosed as error:
                patience = revokes.BACK if isinstance(error, QueueDown) else REPLICA
                if isinstance(error, NotFound) or loop.time() - began > patience:
                    raise
            await asyncio.sleep(delay)
        raise AssertionError("backoff ended")

    def _nudging(self, patience: float) -> Callable[[], bool]:
        """What has an empty stream deliver something: a mark, which is no matter to anybody."""
        written = False

        def nudge() -> bool:
            nonlocal written
            if not written:
                written = True
                # Not on this link: under an alarm the broker stops reading a connection that publishes, its acks too.
                deadline = asyncio.get_running_loop().time() + patience
                self._publisher.post(codec.pack(revokes.record(mark=new_id())), _ignore, deadline)
            return not self._publisher.blocked

        return nudge

    def _ended(self, link: Link, reason: TransportError) -> None:
        logger.debug("%s is not read any more: %s", revokes.NAME, reason)
        self._works = False
        self._again = self._in_background(self._read_again(link))

    async def _read_again(self, link: Link) -> None:
        for delay in reconnecting(first=0.5, maximum=30.0):
            await asyncio.sleep(delay)
            if link.lost.done():
                return
            try:
                await self._read(link, LATER)
                return
            except TransportError as error:
                logger.debug("%s cannot be read: %s", revokes.NAME, error)

    def _say_unreadable(self, error: TransportError) -> None:
        logger.warning(
            "what is revoked cannot be read from %s: %s; other workers are asked", revokes.NAME, error
        )

    def _say_unread(self, patience: float) -> None:
        if not self._follower.silent:
            logger.warning("%s was not read to its end within %g s; reading on", revokes.NAME, patience)
            return
        reason = f" ({self._publisher.blocked})" if self._publisher.blocked else ""
        logger.warning(
            "nothing could be read from %s, nor be written to it%s: it is taken to be empty; what comes later from it "
            "counts all the same",
            revokes.NAME,
            reason,
        )

    def _take(self, delivery: Delivery) -> None:
        try:
            record = revokes.read(delivery.body)
        except InvalidMessage as error:
            logger.warning("%s; it is skipped", error)
            return
        if record.mark:
            return
        self._note(record.ids)
        self._revoked.add(record.ids, record.since)
        if record.stamps:
            self._revoked.add_stamps(record.stamps, record.since)
        self._on_news()

    def _note(self, ids: Iterable[str]) -> None:
        """These are on the stream, so nobody has to write them."""
        for task_id in ids:
            self._kept[task_id] = None
        drop_oldest(self._kept, 10_000)

    # --- writing -----------------------------------------------------------------------------------------

    def remember(self, ids: Iterable[str], stamps: Mapping[str, Any]) -> None:
        """Write down what a client without the stream has revoked, unless another worker does so first."""
        if self._works:
            self._in_background(self._write_later(tuple(ids), stamps))

    async def _write_later(self, ids: tuple[str, ...], stamps: Mapping[str, Any]) -> None:
        # Every worker has got the command; the first one's record reaches the others before their turn.
        await asyncio.sleep(0.1 + random.random() * AFTERWARDS)
        missing = [task_id for task_id in ids if task_id not in self._kept]
        if missing:
            self._publisher.post(codec.pack(revokes.record(missing)), _ignore)
        if stamps:
            self._publisher.post(codec.pack(revokes.record(stamps=stamps)), _ignore)

    # --- without a stream --------------------------------------------------------------------------------

    async def _ask_peers(self, link: Link) -> None:
        oid, ticket = new_id(), new_id()
        exchange, queue, binding = pidbox.reply_box(oid, self._settings)
        await link.declare(pidbox.commands_exchange(self._settings), exchange, queue, binding)
        consumer = await link.consume(queue.name, self._take_hello, _ignore, prefetch=0, no_ack=True)
        hello = pidbox.Request(
            "hello",
            {"from_node": self._node, "revoked": []},
            ticket=ticket,
            reply_to=Address(exchange.name, oid),
        )
        asked = codec.pack(pidbox.command(hello, self._settings, clock=0, timeout=PEERS))
        self._publisher.post(asked, _ignore, asyncio.get_running_loop().time() + PEERS)
        await asyncio.sleep(PEERS)
        await consumer.close()

    def _take_hello(self, delivery: Delivery) -> None:
        try:
            said = pidbox.read_json(codec.unpack(delivery))
        except AmqptasksError:
            return
        for answer in said.values() if isinstance(said, Mapping) else ():
            if isinstance(answer, Mapping):  # ids; Celery before 5.7: a mapping by id
                self._revoked.add(map(str, answer.get("revoked") or ()))
                stamps = answer.get("stamps")
                if isinstance(stamps, Mapping):
                    self._revoked.add_stamps(stamps)
        self._on_news()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task


def _ignore(error: TransportError | None) -> None:
    if error is not None:
        logger.debug("a message about revoked tasks was not delivered: %s", error)
