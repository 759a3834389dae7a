"""One thread that runs an event loop for a blocking client: it publishes, answers calls, and keeps consumers.

Callers hand over what they have encoded by appending to a deque; the loop is woken only when it was not
about to look anyway. Everything but `send`, `call` and `stop` happens on the loop. A forked child abandons
its parent's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import selectors
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from amqptasks.amqp import Envelope, Parcel
from amqptasks.errors import AmqptasksError, BrokerUnavailable, ConnectionLost, TransportError
from amqptasks.ids import process
from amqptasks.transport.asking import ask
from amqptasks.transport.base import Connect, Link
from amqptasks.transport.keeping import RetryPolicy
from amqptasks.transport.publisher import Publisher
from amqptasks.transport.subscribing import Subscriber
from amqptasks.transport.tickets import GRACE, Room, Ticket

log = logging.getLogger(__name__)

T = TypeVar("T")

Batch = tuple[Ticket, float, Sequence[Envelope | Parcel], Sequence[Parcel | AmqptasksError]]
"""Ticket and deadline; messages as they were given, and each one encoded, or why it could not be."""


class _Answer:
    """The `Done` of one message: frees its room and settles its ticket."""

    __slots__ = ("message", "room", "size", "ticket")

    def __init__(self, room: Room, ticket: Ticket, message: Envelope | Parcel, size: int) -> None:
        self.room = room
        self.ticket = ticket
        self.message = message
        self.size = size

    def __call__(self, error: AmqptasksError | None) -> None:
        room = self.room
        with room.lock:
            room.give(self.size)
            self.ticket.settle(self.message, error)


class IoThread:
    """A running thread; made by the first use of a connection, gone with `stop` or a fork."""

    def __init__(self, connect: Connect, *, room: Room, policy: RetryPolicy, name: str) -> None:
        self.pid = os.getpid()
        self.room = room
        self.ended = False
        self._ending: asyncio.Task[None] | None = None
        self._policy = policy
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        # The callers' room is the bound; the publisher's own would count the same messages twice.
        self.publisher = Publisher(connect, limit_messages=2**62, limit_bytes=2**62, policy=policy)
        self.subscriber = Subscriber(connect, policy=policy)
        self._batches: deque[Batch] = deque()
        self._awake = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<IoThread {self._thread.name} | {self.publisher!r}>"

    @property
    def is_current(self) -> bool:
        """Whether the caller is this very thread, which must never wait for itself."""
        return threading.get_ident() == self._thread.ident

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self.ended = True
            self._refuse_batches()
            self._loop.close()

    # --- from any thread -----------------------------------------------------------------------------

    def blocked(self) -> str | None:
        """The broker's reason while it takes no messages."""
        return self.publisher.blocked

    def send(self, batch: Batch) -> None:
        """Hand a batch over; its room has been taken. Never blocks."""
        self._batches.append(batch)
        if not self._awake:
            self._awake = True
            try:
                self._loop.call_soon_threadsafe(self._take_batches)
            except RuntimeError:  # closed in this instant
                self.ended = True
        if self.ended:
            self._refuse_batches()

    def call(self, function: Callable[[Link], Awaitable[T]], timeout: float) -> T:
        """Run `function` with the publishing link, within `timeout` seconds; again when the link is lost."""
        return self.run(ask(self.publisher, self._policy, function, timeout), timeout)

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float) -> T:
        """Return `coroutine`'s value, run on the loop. Raises BrokerUnavailable after `timeout` seconds."""
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise ConnectionLost("the connection was closed by another thread") from None
        try:
            return future.result(timeout + GRACE)
        except concurrent.futures.CancelledError:
            raise ConnectionLost("the connection was closed by another thread") from None
        except concurrent.futures.TimeoutError as exc:
            if isinstance(exc, TransportError):
                raise
            raise BrokerUnavailable(f"the broker did not answer within {timeout:g} s") from None
        finally:
            future.cancel()

    def stop(self, timeout: float) -> None:
        """Wait at most `timeout` seconds for what is unconfirmed, close the links and end the thread."""
        if self.pid != process() or not self._thread.is_alive():
            return
        try:
            self._loop.call_soon_threadsafe(self._begin_end, timeout)
        except RuntimeError:
            return
        if not self.is_current:
            self._thread.join(timeout + GRACE)

    def stop_soon(self) -> None:
        """As `stop`, without waiting: what is called when a connection is dropped without `close`."""
        if self.pid == os.getpid() and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._begin_end, 0.0)
            except RuntimeError:
                pass

    def abandon(self) -> None:
        """After a fork, in the child: close the inherited sockets and touch nothing else of the parent's."""
        self.ended = True
        for link in (self.publisher.link, self.subscriber.link):
            if link is not None and link.fileno() >= 0:
                let_go(link.fileno())
        # The loop's own close() would change the epoll set, which is the parent's too.
        self._selector.close()
        _inherited.append(self)

    # --- on the loop ---------------------------------------------------------------------------------

    def _take_batches(self) -> None:
        self._awake = False  # first, so that what is appended from now on wakes again
        post, room = self.publisher.post, self.room
        while self._batches:
            ticket, deadline, messages, parcels = self._batches.popleft()
            for message, parcel in zip(messages, parcels, strict=True):
                if isinstance(parcel, Parcel):
                    size = len(parcel.header) + len(parcel.body)
                    post(parcel, _Answer(room, ticket, message, size), deadline)
                else:
                    _Answer(room, ticket, message, 0)(parcel)
        self.publisher.flush()  # one turn of the loop sooner

    def _refuse_batches(self) -> None:
        while self._batches:
            try:
                ticket, _, messages, parcels = self._batches.popleft()
            except IndexError:  # another thread was quicker
                return
            for message, parcel in zip(messages, parcels, strict=True):
                size = parcel.size if isinstance(parcel, Parcel) else 0
                _Answer(self.room, ticket, message, size)(
                    ConnectionLost("the connection was closed meanwhile")
                )

    def _begin_end(self, timeout: float) -> None:
        if not self.ended:
            self.ended = True
            self._ending = self._loop.create_task(self._end(timeout))

    async def _end(self, timeout: float) -> None:
        try:
            self._take_batches()
            await self.subscriber.close()
            await self.publisher.close(timeout)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            if others:
                await asyncio.wait(others, timeout=GRACE)
        except Exception:
            log.exception("closing the connection failed")
        finally:
            self._loop.stop()


_inherited: list[IoThread] = []
"""What was the parents': kept, because destructors would reach into what the parents still use."""


def let_go(descriptor: int) -> None:
    """Close a socket whose Python object lives on, so that its end reaches the broker when the parent goes.

    Closing the number alone would let the object close whatever is opened under it later.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)
