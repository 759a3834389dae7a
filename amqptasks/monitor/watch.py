"""The watching itself: one event loop with one connection, that hears events, asks workers and looks at queues.

Events come through two queues of its own from which a bounded number of messages a second is taken; the broker throws
away what is more. So a flood costs the broker an exchange's routing, and the observer no more than its share. Knows
the wire and `Known`; reconnects by itself, for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from amqptasks import event_wire, pidbox
from amqptasks.amqp import Address, Binding, Delivery, Queue
from amqptasks.backoff import reconnecting
from amqptasks.errors import AmqptasksError, InvalidMessage, NotFound, TransportError
from amqptasks.event_state import STATES
from amqptasks.ids import new_id
from amqptasks.monitor.known import Known
from amqptasks.monitor.orders import Orders
from amqptasks.pidbox import Request
from amqptasks.transport import codec
from amqptasks.transport.base import Connect, Consumer, Link

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two acknowledgements: a consumer is given its prefetch that often."""
BATCHES, SINGLES = 40, 25
"""Messages of events that are taken in a tick: gathered ones and heartbeats, and single ones."""
HELD = 4
"""Ticks' worth of messages that the broker holds; beyond, it throws the oldest away."""
ASKED = 5.0
"""Seconds between two questions to all workers; more where there are many."""
AGAIN = 30.0
"""Seconds after which a missing queue is looked for again at the latest: RabbitMQ logs each time."""
CLOSING = 0.5
"""Seconds that a goodbye to the broker may take."""
LARGE = 32 * 1024 * 1024


class Watch:
    """Use `run` in a loop of its own, and cancel it."""

    def __init__(
        self,
        known: Known,
        connect: Connect,
        connect_writing: Connect,
        settings: Mapping[str, Any],
        interval: float,
    ) -> None:
        self._known = known
        self._connect = connect
        self._settings = settings
        self._interval = interval
        self._orders = Orders(connect_writing, settings)

    async def run(self) -> None:
        """Watch until cancelled."""
        pauses = reconnecting(maximum=5.0)
        while True:
            try:
                link = await self._connect()
                pauses = reconnecting(maximum=5.0)
                try:
                    await self._orders.open()
                    await self._serve(link)
                finally:
                    await _closed(link, self._orders)
            except AmqptasksError as error:
                self._known.disconnected(str(error))
            except Exception as error:
                # A watch that has ended would be seen by nobody: it begins anew.
                log.exception("the observer failed, and goes on")
                self._known.disconnected(f"the observer failed, and tries again: {error!r}")
            await asyncio.sleep(next(pauses))

    async def _serve(self, link: Link) -> None:
        session = _Session(self._known, link, self._orders, self._settings)
        await session.begin()
        server = link.server
        self._known.connected(f"{server.product} {server.version}".strip())
        ticking = asyncio.create_task(session.tick_on())
        asked = 0.0
        ends: list[asyncio.Future[Any]] = [link.lost, ticking, *session.cancelled]
        try:
            while True:
                if time.monotonic() >= asked:
                    asked = time.monotonic() + session.ask_all()
                await self._orders.open()
                session.ask_some()
                await session.look()
                done, _ = await asyncio.wait(
                    ends, timeout=self._interval, return_when=asyncio.FIRST_COMPLETED
                )
                for each in done:
                    raise each.result()
                self._known.turn(dropped=session.dropped(), alarm=self._orders.alarm)
        finally:
            ticking.cancel()


async def _closed(link: Link, orders: Orders) -> None:
    with contextlib.suppress(TimeoutError, TransportError):
        async with asyncio.timeout(CLOSING):
            await asyncio.gather(link.close(), orders.close())


class _Session:
    """What lives as long as one connection."""

    def __init__(self, known: Known, link: Link, orders: Orders, settings: Mapping[str, Any]) -> None:
        self._known = known
        self._link = link
        self._orders = orders
        self._settings = settings
        self._oid = new_id()
        self._reply_to = Address("", "")
        self._streams: list[_Stream] = []
        self._met: set[str] = set()
        self.cancelled: list[asyncio.Future[TransportError]] = []

    async def begin(self) -> None:
        """Hear events and replies from now on. Raises what declaring and consuming raise."""
        exchange = event_wire.exchange(self._settings)
        singles = [kind.replace("-", ".") for kind in STATES]
        for name, keys, most in (("", ("task.multi", "worker.#"), BATCHES), (".single", singles, SINGLES)):
            queue = self._queue(name, most)
            bound = [Binding(exchange.name, queue.name, key) for key in keys]
            await self._link.declare(exchange, queue, *bound)
            stream = _Stream(self._known, most)
            stream.consumer = await self._consume(queue.name, stream.take, most)
            self._streams.append(stream)
        box, queue, binding = pidbox.reply_box(self._oid, self._settings)
        await self._link.declare(box, queue, binding, pidbox.commands_exchange(self._settings))
        self._reply_to = Address(box.name, self._oid)
        await self._consume(queue.name, self._reply, 0, no_ack=True)
        self._orders.send(Request("heartbeat"))

    def _queue(self, name: str, most: int) -> Queue:
        """As Celery's receivers have it, but this connection's own, and short."""
        _, queue, _ = event_wire.receiving(self._oid, self._settings)
        short = {"x-max-length": most * HELD, "x-max-length-bytes": LARGE}
        arguments = {**queue.arguments, **short}
        return replace(queue, name=queue.name + name, durable=False, exclusive=True, arguments=arguments)

    async def _consume(self, queue: str, take: Any, prefetch: int, *, no_ack: bool = False) -> Consumer:
        ended: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.cancelled.append(ended)

        def cancelled(error: TransportError) -> None:
            if not ended.done():
                ended.set_result(error)

        return await self._link.consume(queue, take, cancelled, prefetch=prefetch, no_ack=no_ack)

    async def tick_on(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            for stream in self._streams:
                stream.tick()

    def dropped(self) -> bool:
        """Whether more events came, since this was asked last, than are taken."""
        flooded = [stream.dropped() for stream in self._streams]  # each begins to count anew
        return any(flooded)

    # --- workers -----------------------------------------------------------------------------------------

    def ask_all(self) -> float:
        """Ask all workers; return the seconds until they should be asked again."""
        self._ask(None)
        with self._known.lock:
            return max(ASKED, len(self._known.fleet) / 20)

    def ask_some(self) -> None:
        """Ask those at once that were not heard of when all were asked, each once; and those that were changed."""
        with self._known.lock:
            found = {*self._known.fleet.strangers(self._known.now)} - self._met
            changed, self._known.changed = self._known.changed, set()
        self._met |= found
        if found or changed:
            self._ask((*found, *changed))

    def _ask(self, nodes: tuple[str, ...] | None) -> None:
        for command in ("stats", "active_queues"):
            ticket = f"{command}.{self._oid}"
            self._orders.send(Request(command, destination=nodes, ticket=ticket, reply_to=self._reply_to))

    def _reply(self, delivery: Delivery) -> None:
        try:
            envelope = codec.unpack(delivery)
            body = pidbox.read_json(envelope)
        except InvalidMessage:
            return
        headers = envelope.properties.headers or {}
        command = str(headers.get("ticket") or "").partition(".")[0]
        self._orders.clock.adjust(headers.get("clock"))
        with self._known.lock:
            for node, answer in body.items() if isinstance(body, dict) else ():
                self._known.fleet.told(str(node), command, answer)

    # --- queues ------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Count messages and consumers of all queues that are known, by passive declares."""
        known = self._known
        told = known.told().queues
        with known.lock:
            known.depots.learn(known.fleet.consumed(known.now))
            known.depots.learn(known.calls.take_queues())
            sure, unsure = known.depots.wanted(AGAIN)
        try:
            infos = await self._link.declare(*map(Queue, sure), passive=True) if sure else []
            with known.lock:
                known.depots.found(infos)
        except NotFound:
            # One of them is gone, and the broker answers nothing after it.
            unsure = [*sure, *unsure]
        # The plugin knows as well what is not there, and the broker's log is spared.
        await self._look_for(name for name in unsure if not told or name in told or name in sure)

    async def _look_for(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                infos = await self._link.declare(Queue(name), passive=True)
                with self._known.lock:
                    self._known.depots.found(infos)
            except TransportError as error:
                if self._link.lost.done():
                    raise
                log.debug("queue %s cannot be looked at: %s", name, error)
                with self._known.lock:
                    self._known.depots.lost(name)


class _Stream:
    """Events of one queue, so many messages in a tick."""

    def __init__(self, known: Known, most: int) -> None:
        self.consumer: Consumer | None = None
        self._known = known
        self._most = most
        self._tag = 0
        self._taken = 0
        self._ticks = self._full = 0

    def take(self, delivery: Delivery) -> None:
        self._tag, self._taken = delivery.tag, self._taken + 1
        try:
            body = orjson.loads(delivery.body)
        except ValueError:
            return
        known = self._known
        with known.lock:
            for event in body if isinstance(body, list) else (body,):
                known.event(event)

    def tick(self) -> None:
        """Let the broker send more."""
        self._ticks += 1
        if self._taken:
            self._full += self._taken >= self._most
            self._taken = 0
            if self.consumer is not None:
                self.consumer.ack(self._tag, multiple=True)

    def dropped(self) -> bool:
        """More than half of the ticks brought all that they could: more was there."""
        full, ticks, self._full, self._ticks = self._full, self._ticks, 0, 0
        return full * 2 > ticks
