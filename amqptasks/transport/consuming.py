"""One consumer on a channel of its own: deliveries in, acks out. The hot path of a worker's parent.

A delivery is cut out of the bytes that were read, its header undecoded. Knows AMQP; knows nothing of tasks.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

from pika import spec

from amqptasks.amqp import Arguments, Delivery
from amqptasks.errors import ChannelClosed, TransportError
from amqptasks.transport import codec
from amqptasks.transport.base import OnCancel, OnDelivery
from amqptasks.transport.channels import Answer, Channel
from amqptasks.transport.stream import Stream

_DELIVER: Final = spec.Basic.Deliver.INDEX
_MOST: Final = 65_535
_tag_redelivered = struct.Struct(">QB").unpack_from
_generations = itertools.count(1)

Wait = Callable[[list[asyncio.Future[Answer]], str], Awaitable[list[Answer]]]


class LoopConsumer(Channel):
    """Implements `Consumer`; made by `LoopLink.consume`."""

    def __init__(
        self, stream: Stream, queue: str, on_delivery: OnDelivery, on_cancel: OnCancel, *, wait: Wait
    ) -> None:
        super().__init__(stream)
        self.queue = queue
        self.generation = next(_generations)
        self.prefetch = 0
        self._on_delivery = on_delivery
        self._on_cancel: OnCancel | None = on_cancel
        self._wait = wait
        self._consume: dict[str, Any] = {}
        self._base = ""
        self._tag = ""
        self._renewals = itertools.count(1)
        self._started = False
        self._names = b""
        self._exchange = ""
        self._key = ""
        self._delivery_tag = 0
        self._redelivered = False

    def __repr__(self) -> str:
        state = "closed" if self._dead else "consuming" if self._tag else "cancelled"
        return f"<LoopConsumer {self.queue} | {state}, prefetch {self.prefetch}>"

    # --- starting and stopping ---------------------------------------------------------------------------

    async def start(
        self, prefetch: int, tag: str, *, no_ack: bool, exclusive: bool, arguments: Arguments | None
    ) -> None:
        """Open, set the prefetch and consume, in one round trip.

        Raises NotFound, AccessRefused, ResourceLocked, ChannelClosed.
        """
        self._base = self._tag = tag or f"amqptasks.{self.generation}"
        self._consume = {
            "queue": self.queue,
            "no_ack": no_ack,
            "exclusive": exclusive,
            "arguments": dict(arguments or {}),
        }
        answers = self.request(*self._consuming(prefetch))
        await self._wait([self.opening, *answers], f"consuming from {self.queue!r}")
        self._started = True

    def _consuming(self, prefetch: int) -> tuple[Any, Any]:
        self.prefetch = min(prefetch, _MOST)
        qos = spec.Basic.Qos(prefetch_count=self.prefetch)
        return qos, spec.Basic.Consume(consumer_tag=self._tag, **self._consume)

    async def renew(self, prefetch: int) -> None:
        if self._dead or not self._tag:
            return
        # A tag of its own: the broker must not take the new consumer for the one that it is cancelling.
        old, self._tag = self._tag, f"{self._base}.{next(self._renewals)}"
        answers = self.request(spec.Basic.Cancel(old), *self._consuming(prefetch))
        await self._wait(answers, f"consuming anew from {self.queue!r}")

    async def fence(self) -> None:
        # What is asked does not matter, but that a channel answers in order.
        answers = self.request(spec.Basic.Qos(prefetch_count=self.prefetch))
        await self._wait(answers, f"a word about {self.queue!r}")

    async def cancel(self) -> None:
        if self._dead or not self._tag:
            return
        tag, self._tag = self._tag, ""
        await self._wait(self.request(spec.Basic.Cancel(tag)), f"cancelling the consumer of {self.queue!r}")

    async def close(self) -> None:
        self._on_cancel = None
        answer = self.release()
        if answer is not None:
            await self._wait([answer], f"closing the channel of {self.queue!r}")

    @property
    def _dead(self) -> bool:
        return self.closed is not None or self.closing

    # --- settling ----------------------------------------------------------------------------------------

    def ack(self, tag: int, multiple: bool = False) -> None:
        if self.closed is None and not self.closing:
            self.stream.write(codec.ack_frame(self.number, tag, multiple))

    def reject(self, tag: int, requeue: bool) -> None:
        if self.closed is None and not self.closing:
            self.stream.write(codec.reject_frame(self.number, tag, requeue))

    def nack(self, tag: int) -> None:
        if self.closed is None and not self.closing:
            self.stream.write(codec.nack_frame(self.number, tag, multiple=False, requeue=True))

    # --- deliveries --------------------------------------------------------------------------------------

    def on_method(self, index: int, data: bytes, start: int, stop: int) -> None:
        if index != _DELIVER:
            super().on_method(index, data, start, stop)
            return
        place = start + 5 + data[start + 4]  # after the consumer tag
        self._delivery_tag, redelivered = _tag_redelivered(data, place)
        self._redelivered = redelivered != 0
        names = data[place + 9 : stop]
        if names != self._names:  # mostly the same exchange and key as before
            self._names = names
            middle = 1 + names[0]
            self._exchange = names[1:middle].decode("utf-8", "surrogateescape")
            self._key = names[middle + 1 :].decode("utf-8", "surrogateescape")

    def _content(self, body: bytes) -> None:
        if self.closing:
            return
        delivery = Delivery(
            self.queue,
            self._delivery_tag,
            self.generation,
            self._redelivered,
            self._exchange,
            self._key,
            self._header,
            body,
        )
        try:
            self._on_delivery(delivery)
        except Exception as raised:
            # Raised into asyncio, it would cost the connection.
            context = {"message": f"taking a delivery of {self.queue!r} raised", "exception": raised}
            self.stream.loop.call_exception_handler(context)

    # --- ends --------------------------------------------------------------------------------------------

    def on_unasked(self, method: Any) -> None:
        """Take the broker's `basic.cancel`: the queue is gone, or a delivery waited too long (4.3)."""
        if isinstance(method, spec.Basic.Cancel):
            # On 4.3 a consumer that is cancelled and whose channel stays can block its queue for good.
            self.release()
            self._cancelled(
                ChannelClosed(
                    f"the broker cancelled the consumer of {self.queue!r}: the queue was deleted, its node "
                    "is down, or a delivery was unacknowledged for longer than consumer_timeout"
                )
            )

    def on_closed(self, reason: TransportError) -> None:
        if self._started and not self.closing:
            self._cancelled(reason)

    def lost(self, reason: TransportError) -> None:
        self._on_cancel = None
        super().lost(reason)

    def _cancelled(self, reason: TransportError) -> None:
        on_cancel, self._on_cancel = self._on_cancel, None
        if on_cancel is None:
            return
        try:
            on_cancel(reason)
        except Exception as raised:
            context = {"message": f"on_cancel of {self.queue!r} raised", "exception": raised}
            self.stream.loop.call_exception_handler(context)
