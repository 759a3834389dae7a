"""What an app does for coroutines: every way to send, awaited, over one aio-pika connection an event loop.

A call or canvas is composed by the same code that blocking callers use, with an open `Gathered` that takes the
messages; then they are published and awaited together. What composing may wait for (a declaration, the reply queue)
waits in a thread, its declarations over the loop's own connection. Results come by the reply queue that the process
has anyway, whose I/O thread wakes the loop: so `aget` serves what `delay` and what `adelay` sent alike, and a process
of many loops still has one reply queue. Knows nothing of tasks.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from amqptasks import batch, declarations
from amqptasks.amqp import Envelope, Parcel
from amqptasks.errors import (
    AmqptasksError,
    BrokerUnavailable,
    ConnectionLost,
    NotFound,
    PublishError,
    Unroutable,
)
from amqptasks.resources import Resources
from amqptasks.transport.aside import aside
from amqptasks.transport.awaiting import Bridge
from amqptasks.transport.keeping import PERMANENT, RetryPolicy
from amqptasks.waiting import aflush

T = TypeVar("T")


class Gathered(batch.Batch):
    """The messages that code running inside `gathered` or `abatch` wants to send. Belongs to one coroutine."""

    def __init__(self, owner: object) -> None:
        super().__init__(_nobody, _nobody, owner)
        self.messages: list[Envelope | Parcel] = []

    def add(self, envelope: Envelope | Parcel) -> None:
        """Take a message; sends nothing."""
        self.messages.append(envelope)
        self.published += 1

    def flush(self) -> None:
        """Nothing can be sent from code that must not wait."""

    def finish(self, timeout: float | None = None) -> None:
        raise AssertionError("a gathering is sent by who opened it")

    def taken(self) -> list[Envelope | Parcel]:
        """Return what is to be sent now, and hold it no longer."""
        messages, self.messages = self.messages, []
        return messages

    def __repr__(self) -> str:
        return f"<Gathered {self.published} called, {len(self.messages)} held back>"


def _nobody(*_: Any) -> Any:
    raise AssertionError("a gathering sends nothing by itself")


class Awaited(Resources):
    """The part of an app that is awaited. One coroutine or many may use it, on any number of loops."""

    @abstractmethod
    def redeclare(self) -> None:
        """Declare again what this process had declared: something of it turned out to be missing. Blocks."""

    async def gathered(
        self,
        compose: Callable[[], T],
        *,
        timeout: float | None = None,
        policy: RetryPolicy | None = None,
        composes_long: bool = False,
    ) -> T:
        """Run `compose`, which calls tasks, then publish what it called for; return what it returned.

        Inside `abatch` it is published at the batch's end. `timeout` seconds bound the publishing; `policy` tries
        again on top of what the connection does; `composes_long`: not on the loop at all.
        """
        outer = batch.current.get()
        if isinstance(outer, Gathered) and outer.owner is self:
            return await self._composed(compose, composes_long)
        opened = Gathered(self)
        token = batch.current.set(opened)
        try:
            result = await self._composed(compose, composes_long)
        finally:
            batch.current.reset(token)
        try:
            await self._apublish(opened.taken(), timeout, policy)
        except BaseException:
            # Cancelled too: nobody waits for what comes.
            _forget(result)
            raise
        return result

    async def _composed(self, compose: Callable[[], T], composes_long: bool) -> T:
        connection = self.aconnection
        token = declarations.over.set(Bridge(connection))
        try:
            return await (asyncio.to_thread(compose) if composes_long else aside(compose, connection.turn))
        finally:
            declarations.over.reset(token)

    async def _apublish(
        self, messages: Sequence[Envelope | Parcel], timeout: float | None, policy: RetryPolicy | None = None
    ) -> None:
        if not messages:
            return
        pauses = (policy or RetryPolicy(0)).delays()
        most = 0 if policy is None else policy.max_retries
        for attempt, pause in enumerate(pauses):
            try:
                await self._publish_or_redeclare(messages, timeout)
                return
            except (BrokerUnavailable, ConnectionLost) as error:
                if (most is not None and attempt >= most) or isinstance(error, PERMANENT):
                    raise
            await asyncio.sleep(pause)

    async def _publish_or_redeclare(
        self, messages: Sequence[Envelope | Parcel], timeout: float | None
    ) -> None:
        """Somebody may have deleted what this process had declared; if it is not that, the second answer stands."""
        connection = self.aconnection
        ticket = await connection.submit(messages, timeout)
        try:
            await ticket.answered()
        except AmqptasksError:
            failed = ticket.failures
            missing = [message for message, error in failed if isinstance(error, Unroutable | NotFound)]
            if not missing or len(missing) < len(failed):
                raise
        else:
            return
        await self._composed(self.redeclare, composes_long=True)
        await connection.publish(missing, timeout)

    @asynccontextmanager
    async def abatch(self, timeout: float | None = None) -> AsyncIterator[batch.Batch]:
        """Hold back what this coroutine calls with `await` inside the block; publish it at its end, and wait once.

        Raises PublishError naming the messages that failed, or the transport's error. What was called before an
        exception left the block is published all the same. A batch inside a batch belongs to the outer one.
        """
        outer = batch.current.get()
        if isinstance(outer, Gathered) and outer.owner is self:
            yield outer
            return
        opened = Gathered(self)

        async def send() -> None:
            await self._finish(opened.taken(), timeout)

        token, flushing = batch.current.set(opened), aflush.set(send)
        try:
            yield opened
        finally:
            batch.current.reset(token)
            aflush.reset(flushing)
            await send()

    async def _finish(self, messages: Sequence[Envelope | Parcel], timeout: float | None) -> None:
        try:
            await self._apublish(messages, timeout)
        except PublishError as error:
            raise PublishError(
                f"{len(error.envelopes)} of {len(messages)} messages of the batch are in no queue; "
                f"the first: {error}",
                error.envelopes,
            ) from error

    # --- life -----------------------------------------------------------------------------------------------

    async def aclose(self, timeout: float | None = None) -> None:
        """As `close`, awaited, with this loop's connection first. It may be used again."""
        connection = self.forget_loop()
        if connection is not None:
            await connection.close(timeout)
        await asyncio.to_thread(self.close, timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _forget(result: Any) -> None:
    forget = getattr(result, "forget", None)
    if forget is not None:
        forget()
