"""One consumer on an aiormq channel of its own: deliveries in, acks out. Implements `Consumer`.

Knows AMQP; knows nothing of tasks.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiormq.abc import AbstractChannel, DeliveredMessage

from amqptasks.amqp import Arguments, Delivery
from amqptasks.errors import ChannelClosed, TransportError
from amqptasks.transport.aio_wire import channel_reason
from amqptasks.transport.base import OnCancel, OnDelivery

_MOST: Final = 65_535
_generations = itertools.count(1)

Ask = Callable[[str, Awaitable[Any]], Awaitable[Any]]
"""Waits for an answer, at most as long as the link does; translates what goes wrong."""


class AioConsumer:
    """Made by `AioLink.consume`. Acks are written in the order of their calls."""

    def __init__(
        self, channel: AbstractChannel, queue: str, on_delivery: OnDelivery, on_cancel: OnCancel, ask: Ask
    ) -> None:
        self.queue = queue
        self.generation = next(_generations)
        self.prefetch = 0
        self._channel = channel
        self._on_delivery = on_delivery
        self._on_cancel: OnCancel | None = on_cancel
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._consume: dict[str, Any] = {}
        self._base = self._tag = ""
        self._renewals = itertools.count(1)
        self._writes: set[asyncio.Future[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._dead else "consuming" if self._tag else "cancelled"
        return f"<AioConsumer {self.queue} | {state}, prefetch {self.prefetch}>"

    @property
    def _dead(self) -> bool:
        return self._closed or self._channel.is_closed

    # --- starting and stopping ----------------------------------------------------------------------------

    async def start(
        self, prefetch: int, tag: str, *, no_ack: bool, exclusive: bool, arguments: Arguments | None
    ) -> None:
        """Set the prefetch and consume. Raises NotFound, AccessRefused, ResourceLocked, ChannelClosed."""
        self._base = tag or f"amqptasks.{self.generation}"
        self._consume = {
            "queue": self.queue,
            "no_ack": no_ack,
            "exclusive": exclusive,
            "arguments": dict(arguments or {}),
        }
        await self._ask(f"consuming from {self.queue!r}", self._begin(prefetch, self._base))
        self._channel.closing.add_done_callback(self._on_over)
        cancelled = getattr(self._channel, "on_consumer_cancel_callbacks", None)
        if cancelled is not None:
            cancelled.add(self._on_cancelled)

    async def _begin(self, prefetch: int, tag: str) -> None:
        self.prefetch, self._tag = min(prefetch, _MOST), tag
        await self._channel.basic_qos(prefetch_count=self.prefetch)
        await self._channel.basic_consume(consumer_callback=self._take, consumer_tag=tag, **self._consume)

    async def renew(self, prefetch: int) -> None:
        if self._dead or not self._tag:
            return
        old, new = self._tag, f"{self._base}.{next(self._renewals)}"
        await self._ask(f"consuming anew from {self.queue!r}", self._change(old, new, prefetch))

    async def _change(self, old: str, new: str, prefetch: int) -> None:
        await self._channel.basic_cancel(old)
        await self._begin(prefetch, new)

    async def fence(self) -> None:
        asked = self._channel.basic_qos(prefetch_count=self.prefetch)
        await self._ask(f"a word about {self.queue!r}", asked)

    async def cancel(self) -> None:
        if self._dead or not self._tag:
            return
        tag, self._tag = self._tag, ""
        await self._ask(f"cancelling the consumer of {self.queue!r}", self._channel.basic_cancel(tag))

    async def close(self) -> None:
        self._on_cancel = None
        if not self._dead:
            if self._writes:
                await asyncio.wait(self._writes)
            self._closed = True
            await self._ask(f"closing the channel of {self.queue!r}", self._channel.close(None))

    def lost(self) -> None:
        """The connection is over, which is not for `on_cancel` to say."""
        self._on_cancel = None
        self._closed = True

    # --- settling -----------------------------------------------------------------------------------------

    def ack(self, tag: int, multiple: bool = False) -> None:
        if not self._dead:
            self._write(self._channel.basic_ack(tag, multiple=multiple, wait=False))

    def reject(self, tag: int, requeue: bool) -> None:
        if not self._dead:
            self._write(self._channel.basic_reject(tag, requeue=requeue, wait=False))

    def nack(self, tag: int) -> None:
        if not self._dead:
            self._write(self._channel.basic_nack(tag, requeue=True, wait=False))

    def _write(self, writing: Awaitable[None]) -> None:
        task = asyncio.ensure_future(writing)
        self._writes.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Future[None]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # on a channel that is gone an ack means nothing

    # --- deliveries ---------------------------------------------------------------------------------------

    async def _take(self, message: DeliveredMessage) -> None:
        if self._closed:
            return
        delivered: Any = message.delivery
        delivery = Delivery(
            self.queue,
            delivered.delivery_tag,
            self.generation,
            bool(delivered.redelivered),
            delivered.exchange,
            delivered.routing_key,
            message.header.properties.marshal(),
            message.body,
        )
        try:
            self._on_delivery(delivery)
        except Exception as raised:
            what = f"taking a delivery of {self.queue!r} raised"
            self._loop.call_exception_handler({"message": what, "exception": raised})

    # --- ends ---------------------------------------------------------------------------------------------

    def _on_cancelled(self, _frame: Any) -> None:
        self._tell(
            ChannelClosed(
                f"the broker cancelled the consumer of {self.queue!r}: the queue was deleted, its node "
                "is down, or a delivery was unacknowledged for longer than consumer_timeout"
            )
        )

    def _on_over(self, closing: asyncio.Future[Any]) -> None:
        # Later, so that a connection that is over can say so first.
        error = None if closing.cancelled() else closing.exception()
        self._loop.call_soon(self._tell, channel_reason(error))

    def _tell(self, reason: TransportError) -> None:
        on_cancel, self._on_cancel = self._on_cancel, None
        if on_cancel is None:
            return
        try:
            on_cancel(reason)
        except Exception as raised:
            what = f"on_cancel of {self.queue!r} raised"
            self._loop.call_exception_handler({"message": what, "exception": raised})
