"""A worker's view of the revocations on the broker: reads the stream before it consumes, follows it, adds to it.

Where streams are not to be had, the workers that run are asked instead. Knows one link at a time, and a set of ids;
knows no flight. Whatever fails here costs what is kept, never the worker.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from amqptasks import pidbox, revokes
from amqptasks.amqp import Address, Delivery
from amqptasks.backoff import reconnecting
from amqptasks.bounded import drop_oldest
from amqptasks.errors import AmqptasksError, InvalidMessage, TopologyMismatch, TransportError
from amqptasks.ids import new_id
from amqptasks.transport import codec
from amqptasks.transport.base import Consumer, Link
from amqptasks.transport.publisher import Publisher
from amqptasks.worker.revoked import Revoked

logger = logging.getLogger(__name__)

PATIENCE = 20.0
"""Seconds that a starting worker reads what is kept; then it consumes, and reads on meanwhile."""
LATER = 3.0
"""The same after a reconnect: little can be new."""
PEERS = 1.0
"""Seconds that other workers are waited for, where there is no stream."""
AFTERWARDS = 1.0
"""Seconds within which one of the workers writes down what a foreign client has revoked."""
PREFETCH = 500


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
        self._stream = revokes.stream(settings["worker_revokes_retention"])
        self._next: int | str = "first"
        self._kept: dict[str, None] = {}
        self._mark = ""
        self._reached = asyncio.Event()
        self._works = False
        self._began = self._told = False
        self._under_way: set[asyncio.Task[None]] = set()
        revoked.bound(settings["worker_revokes_limit"], settings["worker_revokes_retention"])

    async def open(self, link: Link) -> None:
        """Return once everything that is revoked is known, or cannot be had. Raises nothing."""
        if link.server.product != "RabbitMQ":
            return
        try:
            await self._follow(link)
            await self._read_to_the_end(link)
            return
        except TransportError as error:
            logger.warning(
                "what is revoked cannot be read from %s: %s; other workers are asked", revokes.NAME, error
            )
        if not link.lost.done():
            try:
                await self._ask_peers(link)
            except TransportError as error:
                logger.debug("other workers cannot be asked: %s", error)

    def close(self) -> None:
        for task in list(self._under_way):
            task.cancel()

    # --- reading -----------------------------------------------------------------------------------------

    async def _follow(self, link: Link) -> None:
        try:
            await link.declare(self._stream)
        except TopologyMismatch as error:
            # Of `worker_revokes_retention` this worker keeps its own part; the stream was declared with another one.
            logger.log(logging.DEBUG if self._told else logging.WARNING, "%s; using it as it is", error)
            self._told = True
        taken: list[int] = []
        consumers: list[Consumer] = []

        def take(delivery: Delivery) -> None:
            self._take(delivery)
            if consumers:
                consumers[0].ack(delivery.tag)
            else:
                taken.append(delivery.tag)

        def ended(reason: TransportError) -> None:
            logger.debug("%s is not read any more: %s", revokes.NAME, reason)
            if not link.lost.done():
                self._in_background(self._follow_again(link))

        offset = {"x-stream-offset": self._next}
        consumers.append(await link.consume(revokes.NAME, take, ended, prefetch=PREFETCH, arguments=offset))
        for tag in taken:
            consumers[0].ack(tag)
        self._works = True

    async def _follow_again(self, link: Link) -> None:
        for delay in reconnecting(first=0.5, maximum=30.0):
            await asyncio.sleep(delay)
            if link.lost.done():
                return
            try:
                await self._follow(link)
                return
            except TransportError as error:
                logger.debug("%s cannot be read: %s", revokes.NAME, error)

    async def _read_to_the_end(self, link: Link) -> None:
        """A mark of our own is written; once it is read, all before it has been."""
        self._mark = new_id()
        self._reached.clear()
        patience = LATER if self._began else PATIENCE
        self._began = True
        # Not on this link: under an alarm the broker stops reading a connection that publishes, its acks too.
        deadline = asyncio.get_running_loop().time() + patience
        self._publisher.post(codec.pack(revokes.record(mark=self._mark)), _ignore, deadline)
        if self._publisher.blocked:
            return
        reached = asyncio.ensure_future(self._reached.wait())
        try:
            either: set[asyncio.Future[Any]] = {reached, link.lost}
            await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reached.cancel()
        if not self._reached.is_set() and not link.lost.done():
            logger.warning("%s was not read to its end within %g s; reading on", revokes.NAME, patience)

    def _take(self, delivery: Delivery) -> None:
        try:
            headers = codec.decode_header(delivery.header).headers or {}
            offset = headers.get("x-stream-offset")
            if isinstance(offset, int):
                self._next = offset + 1
            record = revokes.read(delivery.body)
        except InvalidMessage as error:
            logger.warning("%s; it is skipped", error)
            return
        if record.mark:
            if record.mark == self._mark:
                self._reached.set()
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

    def _in_background(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


def _ignore(error: TransportError | None) -> None:
    if error is not None:
        logger.debug("a message about revoked tasks was not delivered: %s", error)
