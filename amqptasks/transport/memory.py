"""`memory://name`: a broker inside this process, with RabbitMQ's semantics, for tests and for trying things
out.

Every link of the process to the same name meets the same `MemoryBroker`; links may live on different loops
and threads, each is called back on its own. Nothing survives the process, and a forked child starts with
none.

    link = await memory.connect("name")
    memory.broker("name").drop_connections()        # an outage, for a test
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from amqptasks.amqp import Arguments, Delivery, Entity, Parcel, QueueInfo
from amqptasks.errors import ChannelClosed, ConnectionLost, TransportError
from amqptasks.transport import memory_declare
from amqptasks.transport.base import Done, OnCancel, OnDelivery, ServerInfo
from amqptasks.transport.memory_broker import MemoryBroker
from amqptasks.transport.memory_consumer import MemoryConsumer, delivery

_brokers: dict[str, MemoryBroker] = {}
_lock = threading.Lock()


def broker(name: str = "default") -> MemoryBroker:
    """Return the broker of this name, made on first use."""
    with _lock:
        if name not in _brokers:
            _brokers[name] = MemoryBroker(name)
        return _brokers[name]


async def connect(name: str = "default") -> MemoryLink:
    """Open a link on the running loop. Raises what `refuse_connections` was told to raise."""
    link = MemoryLink(broker(name), asyncio.get_running_loop())
    link.open()
    return link


def _start_afresh() -> None:
    # A lock that another thread held at the fork would never be released here.
    global _lock
    _lock = threading.Lock()
    _brokers.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_start_afresh)


class MemoryLink:
    """A `Link` to a `MemoryBroker`. What the broker has to say is queued and said on this link's loop."""

    def __init__(self, of: MemoryBroker, loop: asyncio.AbstractEventLoop) -> None:
        self.server = ServerInfo(product="memory", version="3.13.0", host=of.name)
        self.lost: asyncio.Future[TransportError] = loop.create_future()
        self.blocked: str | None = None
        self.on_blocked: Callable[[str | None], None] | None = None
        self.broker = of
        self.ended: TransportError | None = None
        self._loop = loop
        self._channels: dict[MemoryConsumer, None] = {}
        self._events: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._awake = False
        self._unconfirmed: deque[tuple[Done, TransportError | None]] = deque()
        self._waiting: deque[tuple[Parcel, Done]] = deque()
        self._publishes = False

    def __repr__(self) -> str:
        return f"<MemoryLink memory://{self.broker.name}{' | ended' if self.ended else ''}>"

    def open(self) -> None:
        self.broker.attach(self)

    # --- Link ----------------------------------------------------------------------------------------

    def post(self, parcel: Parcel, done: Done) -> None:
        with self.broker.lock:
            if self.ended is not None:
                self.emit(done, ConnectionLost(str(self.ended)))
                return
            self._publishes = True
            if self.broker.blocked is not None or self._waiting:
                self.set_blocked(self.broker.blocked)
                self._waiting.append((parcel, done))
                return
            self._apply(parcel, done)

    def flush(self) -> None:
        """Nothing is gathered here."""

    def _apply(self, parcel: Parcel, done: Done) -> None:
        error = self.broker.publish(parcel)
        if self.broker.withholding:
            self._unconfirmed.append((done, error))
        else:
            self.emit(done, error)

    async def declare(self, *entities: Entity, passive: bool = False) -> list[QueueInfo]:
        with self._live():
            answers = [memory_declare.declare(self.broker, self, each, passive=passive) for each in entities]
        return [each for each in answers if each is not None]

    async def purge(self, queue: str) -> int:
        with self._live():
            return memory_declare.find(self.broker, self, queue).purge()

    async def delete_queue(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        with self._live():
            if queue not in self.broker.queues:
                return 0
            found = memory_declare.find(self.broker, self, queue)
            if (if_unused and found.subscriptions) or (if_empty and len(found)):
                raise ChannelClosed(f"queue {queue!r} is not deleted: it is in use, or not empty (406)", 406)
            return self.broker.remove(found)

    async def get(self, queue: str) -> Delivery | None:
        with self._live():
            found = memory_declare.find(self.broker, self, queue)
            found.used_at = self.broker.now()
            found.expire(found.used_at, inclusive=True)
            if not len(found):
                return None
            message = found.pop()
            return delivery(found.quorum, queue, message, tag=0, generation=0)

    async def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        on_cancel: OnCancel,
        *,
        prefetch: int,
        tag: str = "",
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments | None = None,
    ) -> MemoryConsumer:
        with self._live():
            consumer = MemoryConsumer(
                self,
                queue,
                on_delivery,
                on_cancel,
                no_ack=no_ack,
                exclusive=exclusive,
                arguments=arguments or {},
            )
            consumer.subscribe(prefetch)
            self._channels[consumer] = None
            return consumer

    async def close(self) -> None:
        self.fail(ConnectionLost("the link was closed by this process"))
        await asyncio.wait({self.lost})

    def fileno(self) -> int:
        return -1

    # --- what the broker calls, under its lock, from any thread ---------------------------------------

    def emit(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have `call` made on this link's loop, in order; one wake-up serves all that come together."""
        self._events.append((call, arguments))
        if not self._awake:
            self._awake = True
            self._on_loop(self._say)

    def _say(self) -> None:
        self._awake = False
        while self._events:
            call, arguments = self._events.popleft()
            try:
                call(*arguments)
            except Exception as exc:
                self._loop.call_exception_handler(
                    {"message": "a callback of a memory link failed", "exception": exc}
                )

    def _on_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # its loop is closed: nobody is left to be told
            self._events.clear()

    @property
    def gone(self) -> bool:
        return self._loop.is_closed()

    def wake(self, delay: float) -> None:
        self._on_loop(self._loop.call_later, delay, self.broker.tick)

    def fail(self, error: TransportError) -> None:
        """End the link: unacknowledged messages go back, what is unconfirmed is lost to its sender."""
        with self.broker.lock:
            if self.ended is not None:
                return
            self.ended = error
            for channel in list(self._channels):
                channel.shut()
            for done, _ in self._unconfirmed:
                self.emit(done, ConnectionLost(str(error)))
            for _, done in self._waiting:
                self.emit(done, ConnectionLost(str(error)))
            self._unconfirmed.clear()
            self._waiting.clear()
            self.broker.detach(self)
            self.emit(self._set_lost, error)

    def _set_lost(self, error: TransportError) -> None:
        if not self.lost.done():
            self.lost.set_result(error)

    def set_blocked(self, reason: str | None) -> None:
        # As RabbitMQ: only who publishes is told, and stopped.
        if self._publishes and reason != self.blocked:
            self.emit(self._say_blocked, reason)
        while reason is None and self._waiting:
            self._apply(*self._waiting.popleft())

    def _say_blocked(self, reason: str | None) -> None:
        if self.blocked != reason:
            self.blocked = reason
            if self.on_blocked is not None:
                self.on_blocked(reason)

    def release_confirms(self) -> None:
        while self._unconfirmed:
            self.emit(*self._unconfirmed.popleft())

    def forget(self, channel: MemoryConsumer) -> None:
        self._channels.pop(channel, None)

    @contextlib.contextmanager
    def _live(self) -> Iterator[None]:
        with self.broker.lock:
            if self.ended is not None:
                raise ConnectionLost(str(self.ended))
            yield
