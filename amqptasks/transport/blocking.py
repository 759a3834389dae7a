"""The blocking client: publish, declare and consume from any thread, over one I/O thread and its event loop.

Opened by its first use, reopened after a loss, after `close` and in a forked child. Callers encode in their
own thread; the I/O thread only moves bytes. Knows envelopes and queues; knows nothing of tasks or results.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from amqptasks.amqp import Arguments, Delivery, Entity, Envelope, Parcel, Queue, QueueInfo
from amqptasks.errors import AmqptasksError, TransportError
from amqptasks.ids import process
from amqptasks.transport.aside import may_wait
from amqptasks.transport.base import Connect, Link, OnDelivery, ServerInfo
from amqptasks.transport.codec import pack
from amqptasks.transport.io_thread import IoThread
from amqptasks.transport.keeping import RetryPolicy
from amqptasks.transport.publisher import LIMIT_BYTES, LIMIT_MESSAGES
from amqptasks.transport.subscribing import OnLost, OnRestored, Wanted
from amqptasks.transport.tickets import Room, Ticket

T = TypeVar("T")

PUBLISH_TIMEOUT = 30.0
FLUSH_AT_EXIT = 5.0

_CHUNK = 100
"""Messages encoded before they are handed over: the broker works on them while the next ones are encoded."""


class Subscription:
    """A running consumer of a `BlockingConnection`; callbacks run in the I/O thread and must not block."""

    def __init__(self, io: IoThread, wanted: Wanted) -> None:
        self.queue = wanted.queue
        self._io = io
        self._wanted = wanted

    def __repr__(self) -> str:
        return f"<Subscription {self.queue}>"

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge a delivery, from the callback only. Nothing if its channel is gone."""
        consumer = self._wanted.consumer
        if consumer is not None and consumer.generation == delivery.generation:
            consumer.ack(delivery.tag)

    def close(self, timeout: float = 5.0) -> None:
        """Consume no more. Waits at most `timeout` seconds; does nothing in a forked child."""
        io = self._io
        if io.ended or io.pid != process():
            return
        try:
            io.run(io.subscriber.remove(self._wanted), timeout)
        except TransportError:
            pass  # what is lost need not be closed


class BlockingConnection:
    """A `Connection` on top of a `Connect`; thread-safe. Times are seconds.

    `timeout` bounds each publish, declare or consume that names none itself; `policy` says how often an
    absent broker is tried before that, BrokerUnavailable telling why. `limit_messages` and `limit_bytes`
    bound what is unconfirmed: who publishes more waits for room, within the same timeout.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        timeout: float = PUBLISH_TIMEOUT,
        policy: RetryPolicy | None = None,
        limit_messages: int = LIMIT_MESSAGES,
        limit_bytes: int = LIMIT_BYTES,
        name: str = "amqptasks",
    ) -> None:
        self.timeout = timeout
        self.name = name
        self._connect = connect
        self._policy = policy or RetryPolicy()
        self._limits = (limit_messages, limit_bytes)
        self._lock = threading.Lock()
        self._io: IoThread | None = None
        _instances.add(self)

    def __repr__(self) -> str:
        io = self._io
        if io is None or io.ended:
            return f"<BlockingConnection {self.name} | not open>"
        return f"<BlockingConnection {self.name} | {io.room.messages} unconfirmed, {io.room.bytes} bytes>"

    # --- publishing ----------------------------------------------------------------------------------

    def publish(self, envelopes: Sequence[Envelope | Parcel], timeout: float | None = None) -> None:
        """Return when ALL are confirmed and routed: a batch costs one round trip. See `Ticket.wait`.

        Raises Unroutable, Nacked, TooLarge, BrokerBlocked, PublishTimeout, BrokerUnavailable,
        ConnectionLost; a plain RuntimeError inside a consumer's callback, which runs in the thread that
        would have to answer.
        """
        self._refuse_io_thread()
        self.submit(envelopes, timeout).wait()

    def submit(
        self, envelopes: Sequence[Envelope | Parcel], timeout: float | None = None, *, wait: bool = True
    ) -> Ticket:
        """Encode and hand over; return a ticket to wait for. Waits only for room, and not for that without `wait`.

        `timeout` bounds the whole; without it, `self.timeout` is what the broker has for each part of a large
        batch. A message that cannot be encoded fails on the ticket, its neighbours are sent.
        """
        io = self._open()
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        ticket = Ticket(len(envelopes), deadline)
        for start in range(0, len(envelopes), _CHUNK):
            chunk = envelopes[start : start + _CHUNK]
            parcels = [each if isinstance(each, Parcel) else _pack(each) for each in chunk]
            size = sum([len(each.header) + len(each.body) for each in parcels if isinstance(each, Parcel)])
            if start and timeout is None:
                deadline = ticket.deadline = time.monotonic() + self.timeout
            io.room.take(len(chunk), size, 0.0 if io.is_current or not wait else deadline, io.blocked)
            io.send((ticket, deadline, chunk, parcels))
        return ticket

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until nothing is unconfirmed; return whether that came true within `timeout` seconds."""
        io = self._io
        if io is None or io.ended:
            return True
        return io.room.wait_empty(self.timeout if timeout is None else timeout)

    @property
    def pending(self) -> int:
        """Messages handed over and not answered yet."""
        io = self._io
        return io.room.messages if io is not None else 0

    # --- the rest ------------------------------------------------------------------------------------

    @property
    def server(self) -> ServerInfo:
        """What the broker says of itself; connects if need be."""
        return self._call(_server)

    def declare(self, *entities: Entity, passive: bool = False) -> list[QueueInfo]:
        """Declare in order; return an info for each queue. Raises as `Link.declare`, or BrokerUnavailable."""
        return self._call(lambda link: link.declare(*entities, passive=passive))

    def inspect(self, queue: str) -> QueueInfo:
        """Return the queue's ready messages and consumers. Raises NotFound."""
        return self._call(lambda link: link.declare(Queue(queue), passive=True))[0]

    def purge(self, queue: str) -> int:
        """Remove the ready messages; return how many. Raises NotFound."""
        return self._call(lambda link: link.purge(queue))

    def delete_queue(
        self, queue: str, *, if_unused: bool = False, if_empty: bool = False, timeout: float | None = None
    ) -> int:
        """Delete a queue; return how many messages went with it; 0 for a missing one."""
        return self._open().call(
            lambda link: link.delete_queue(queue, if_unused=if_unused, if_empty=if_empty),
            self.timeout if timeout is None else timeout,
        )

    def get(self, queue: str) -> Delivery | None:
        """Take one message, without ack; None when the queue is empty. For tools."""
        return self._call(lambda link: link.get(queue))

    def perform(self, function: Callable[[Link], Awaitable[T]], timeout: float | None = None) -> T:
        """Run `function` on the I/O thread's loop, with the link, and return what it returns.

        For what takes several steps on one channel. Raises what it raises, or BrokerUnavailable.
        """
        self._refuse_io_thread()
        return self._open().call(function, self.timeout if timeout is None else timeout)

    def consume(
        self,
        queue: str | Queue,
        on_delivery: OnDelivery,
        *,
        declare: Sequence[Entity] = (),
        no_ack: bool = True,
        prefetch: int = 0,
        exclusive: bool = False,
        arguments: Arguments | None = None,
        on_lost: OnLost | None = None,
        on_restored: OnRestored | None = None,
        timeout: float | None = None,
    ) -> Subscription:
        """Return once `queue` is consumed. After any outage it is declared (with `declare`) and consumed
        again.

        A `Queue` is declared, a name is only consumed. Callbacks run in the I/O thread: `on_lost(error)` when
        deliveries stop, `on_restored(kept)` when they go on; `kept` tells whether the queue had survived.
        """
        wanted = Wanted(
            queue=queue if isinstance(queue, str) else queue.name,
            on_delivery=on_delivery,
            declare=declare if isinstance(queue, str) else (*declare, queue),
            no_ack=no_ack,
            prefetch=prefetch,
            exclusive=exclusive,
            arguments=arguments,
            on_lost=on_lost,
            on_restored=on_restored,
        )
        self._refuse_io_thread()
        io = self._open()
        io.run(io.subscriber.add(wanted), self.timeout if timeout is None else timeout)
        return Subscription(io, wanted)

    def close(self, timeout: float | None = None) -> None:
        """Wait at most `timeout` seconds for what is unconfirmed, then close; the rest fails with
        ConnectionLost.

        A later use opens it again.
        """
        with self._lock:
            io, self._io = self._io, None
        if io is not None:
            io.stop(self.timeout if timeout is None else timeout)

    # --- inside --------------------------------------------------------------------------------------

    def _call(self, function: Callable[[Link], Awaitable[T]]) -> T:
        self._refuse_io_thread()
        return self._open().call(function, self.timeout)

    def _refuse_io_thread(self) -> None:
        may_wait()
        io = self._io
        if io is not None and io.is_current:
            raise RuntimeError(
                "a callback of the connection waits for the connection itself, which would stand still; "
                "hand the work to another thread, or use submit()"
            )

    def _open(self) -> IoThread:
        io = self._io
        if io is not None and not io.ended:
            return io
        with self._lock:
            if self._io is None or self._io.ended:
                room = Room(*self._limits)
                self._io = IoThread(self._connect, room=room, policy=self._policy, name=f"{self.name}-io")
                weakref.finalize(self, self._io.stop_soon).atexit = False
                _flush_child_of_multiprocessing()
            return self._io

    def _start_afresh(self) -> None:
        # Locks that other threads held at the fork are never released here.
        self._lock = threading.Lock()
        io, self._io = self._io, None
        if io is not None:
            io.abandon()


async def _server(link: Link) -> ServerInfo:
    return link.server


def _pack(envelope: Envelope) -> Parcel | AmqptasksError:
    try:
        return pack(envelope)
    except AmqptasksError as exc:
        return exc


_instances: weakref.WeakSet[BlockingConnection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for instance in list(_instances):
        instance._start_afresh()


def _at_exit() -> None:
    """Give what is unconfirmed a last chance, all connections together within `FLUSH_AT_EXIT` seconds."""
    deadline = time.monotonic() + FLUSH_AT_EXIT
    for instance in list(_instances):
        instance.close(max(0.0, deadline - time.monotonic()) if instance.pending else 0.0)


_flushes_at: int = 0
"""The process, if it is multiprocessing's child, that has asked to be flushed."""


def _flush_child_of_multiprocessing() -> None:
    """Such a child leaves by `os._exit`, past `atexit`, but runs multiprocessing's own finalizers."""
    global _flushes_at
    # Imported by whoever made this child, if it is one; nobody else pays for it.
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is None or util is None or _flushes_at == os.getpid():
        return
    if process.parent_process() is not None:
        _flushes_at = os.getpid()
        util.Finalize(None, _at_exit, exitpriority=100)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
