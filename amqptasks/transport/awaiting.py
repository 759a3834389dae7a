"""The asyncio twin of `blocking`: publish and declare, awaited, over one connection of the running event loop.

Opened by its first use, reopened after a loss; what was unconfirmed then is sent again under the same message id. Any
number of coroutines publish at once: their confirms are pipelined. Knows envelopes; knows nothing of tasks or results.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from amqptasks.amqp import Entity, Envelope, Parcel, QueueInfo
from amqptasks.errors import AmqptasksError, BrokerUnavailable, ConnectionLost, PublishTimeout, TransportError
from amqptasks.transport.aside import may_wait
from amqptasks.transport.asking import ask
from amqptasks.transport.base import Connect, Link, ServerInfo
from amqptasks.transport.blocking import PUBLISH_TIMEOUT
from amqptasks.transport.codec import pack
from amqptasks.transport.io_thread import let_go
from amqptasks.transport.keeping import RetryPolicy
from amqptasks.transport.publisher import LIMIT_BYTES, LIMIT_MESSAGES, Publisher
from amqptasks.transport.tickets import GRACE, Ticket

T = TypeVar("T")

_CHUNK = 100
"""Messages encoded before the loop gets its turn."""


class _Awaited(Ticket):
    """A ticket that a coroutine waits for."""

    __slots__ = ("_future",)

    def __init__(self, count: int, deadline: float, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(count, deadline)
        self._future: asyncio.Future[None] = loop.create_future()
        if not count:
            self._future.set_result(None)

    def settle(self, message: Envelope | Parcel, error: AmqptasksError | None) -> None:
        super().settle(message, error)
        if self.done and not self._future.done():
            self._future.set_result(None)

    async def answered(self) -> None:
        """Return when every message is confirmed and in a queue; else raise as `wait`."""
        loop = asyncio.get_running_loop()
        while not self._future.done():
            left = self.deadline + GRACE - loop.time()
            if left <= 0:
                raise PublishTimeout(
                    f"of {self.count} messages some were not confirmed in time; they may still arrive"
                )
            await asyncio.wait({self._future}, timeout=left)
        self.wait()


class AsyncConnection:
    """Made inside a running loop, and used there only. Times are seconds; the arguments are `BlockingConnection`'s."""

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
        self.loop = asyncio.get_running_loop()
        self.turn = asyncio.Lock()
        """For `aside`: whoever composes messages for this connection and has to wait."""
        self._policy = policy or RetryPolicy()
        self._room = asyncio.Event()
        self._publisher = Publisher(
            connect,
            limit_messages=limit_messages,
            limit_bytes=limit_bytes,
            policy=self._policy,
            on_room=self._room.set,
        )
        _instances.add(self)

    def __repr__(self) -> str:
        return f"<AsyncConnection {self.name} | {self._publisher!r}>"

    @property
    def pending(self) -> int:
        """Messages handed over and not answered yet."""
        return self._publisher.pending

    async def publish(self, envelopes: Sequence[Envelope | Parcel], timeout: float | None = None) -> None:
        """Return when ALL are confirmed and routed: a batch costs one round trip.

        Raises Unroutable, Nacked, TooLarge, BrokerBlocked, PublishTimeout, BrokerUnavailable, ConnectionLost; the
        error's `envelopes` are those that were refused. Without `timeout`, `self.timeout` is what the broker has for
        each part of a large batch. Cancelled, what was handed over is still sent.
        """
        await (await self.submit(envelopes, timeout)).answered()

    async def submit(self, envelopes: Sequence[Envelope | Parcel], timeout: float | None = None) -> _Awaited:
        """Encode and hand over; return a ticket to wait for. Waits only for room."""
        loop = self._here()
        deadline = loop.time() + (self.timeout if timeout is None else timeout)
        ticket = _Awaited(len(envelopes), deadline, loop)
        for number, envelope in enumerate(envelopes):
            if number and not number % _CHUNK:
                await asyncio.sleep(0)
                if timeout is None:
                    deadline = ticket.deadline = loop.time() + self.timeout
            if self._publisher.saturated:
                await self._until_room(deadline)
            self._post(envelope, ticket, deadline)
        return ticket

    def _post(self, message: Envelope | Parcel, ticket: _Awaited, deadline: float) -> None:
        try:
            parcel = message if isinstance(message, Parcel) else pack(message)
        except AmqptasksError as error:
            ticket.settle(message, error)
            return
        self._publisher.post(parcel, lambda error: ticket.settle(message, error), deadline)

    async def _until_room(self, deadline: float) -> None:
        while self._publisher.saturated:
            self._room.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._room.wait()
            except TimeoutError:
                error = self._publisher.reason_for_delay()
                raise type(error)(
                    f"{error}; {self.pending} messages wait for confirms and leave no room"
                ) from None

    async def declare(self, *entities: Entity, passive: bool = False) -> list[QueueInfo]:
        """Declare in order; return an info for each queue. Raises as `Link.declare`, or BrokerUnavailable."""
        return await self.perform(lambda link: link.declare(*entities, passive=passive))

    async def server(self) -> ServerInfo:
        """What the broker says of itself; connects if need be."""
        return await self.perform(_server)

    async def perform(self, function: Callable[[Link], Awaitable[T]], timeout: float | None = None) -> T:
        """Return what `function` answers when given the link. Raises what it raises, or BrokerUnavailable."""
        self._here()
        return await ask(
            self._publisher, self._policy, function, self.timeout if timeout is None else timeout
        )

    async def close(self, timeout: float | None = None) -> None:
        """Wait at most `timeout` seconds for what is unconfirmed, then close; the rest fails with ConnectionLost."""
        self._here()
        await self._publisher.close(self.timeout if timeout is None else timeout)

    def _here(self) -> asyncio.AbstractEventLoop:
        if asyncio.get_running_loop() is not self.loop:
            ended = "is closed" if self.loop.is_closed() else "is another one"
            raise TransportError(
                f"this connection belongs to an event loop that {ended}; each loop has a connection of its own: "
                "take it from the app inside the coroutine that uses it"
            )
        return self.loop

    def abandon(self) -> None:
        """After a fork, in the child: let go of the inherited socket."""
        link = self._publisher.link
        if link is not None and link.fileno() >= 0:
            let_go(link.fileno())


class Bridge:
    """Declares over an `AsyncConnection`, for code that runs in a thread beside its loop. Blocks."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    def declare(self, *entities: Entity, passive: bool = False) -> list[QueueInfo]:
        """As `AsyncConnection.declare`. Raises ConnectionLost when the loop ends meanwhile."""
        may_wait()
        asking = self._connection.declare(*entities, passive=passive)
        try:
            future = asyncio.run_coroutine_threadsafe(asking, self._connection.loop)
        except RuntimeError:
            asking.close()
            raise ConnectionLost("the event loop was closed meanwhile") from None
        try:
            return future.result(self._connection.timeout + GRACE)
        except concurrent.futures.CancelledError:
            raise ConnectionLost("the event loop was closed meanwhile") from None
        except concurrent.futures.TimeoutError as error:
            if isinstance(error, TransportError):
                raise
            raise BrokerUnavailable("the event loop, or the broker, did not answer in time") from None


async def _server(link: Link) -> ServerInfo:
    return link.server


_instances: weakref.WeakSet[AsyncConnection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for instance in list(_instances):
        instance.abandon()
    _instances.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork_in_child)
