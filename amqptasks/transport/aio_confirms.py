"""Publishing through aiormq: a task a message, so that any number wait for their confirms on one channel.

The rules are those of `confirms`: each parcel meets its fate once, in the order of posting, and when the broker
closes the channel for one of them, the others are published again. Knows parcels; reconnecting is the `Publisher`'s.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiormq import exceptions
from aiormq.abc import AbstractChannel

from amqptasks.amqp import Parcel
from amqptasks.errors import PublishError, TransportError
from amqptasks.transport import verdicts
from amqptasks.transport.aio_wire import channel_reason
from amqptasks.transport.base import Done

Pending = tuple[Parcel, Done]

_OVER = (exceptions.AMQPChannelError, exceptions.ChannelInvalidStateError, ConnectionError)
"""What is raised to every message of a channel or connection that ends."""


class _Encoded:
    """Properties that are bytes already; aiormq reads the message id alone, by which it knows a returned message."""

    __slots__ = ("header", "message_id")

    def __init__(self, parcel: Parcel) -> None:
        self.header = parcel.header
        self.message_id = parcel.message_id

    def marshal(self) -> bytes:
        return self.header


class _Opened:
    """One confirm channel, with what it has published and not heard of."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self.inflight: dict[int, Pending] = {}
        self.tasks: set[asyncio.Task[None]] = set()


class AioConfirms:
    """The link's publishing side. Used from its loop's thread only."""

    def __init__(
        self, open_channel: Callable[[], Awaitable[AbstractChannel]], max_body: int, max_header: int
    ) -> None:
        self._open_channel = open_channel
        self._max_body = max_body
        self._max_header = max_header
        self._loop = asyncio.get_running_loop()
        self._opened: _Opened | None = None
        self._waiting: deque[Pending] = deque()
        self._suspects = 0
        self._numbers = itertools.count()
        self._pump: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._lost: TransportError | None = None

    def post(self, parcel: Parcel, done: Done) -> None:
        """As `Link.post`."""
        error = self._lost or verdicts.unfit(parcel, self._max_body, self._max_header)
        if error is not None:
            self._loop.call_soon(self._tell, done, error)
            return
        opened = self._opened
        if opened is not None and not self._waiting and not self._suspects and self._ending is None:
            self._start(opened, (parcel, done))
        else:
            self._waiting.append((parcel, done))
            self._go()

    def lost(self, reason: TransportError) -> None:
        """The connection is over: what is unconfirmed may or may not have arrived."""
        self._lost = reason
        opened, self._opened = self._opened, None
        unknown = [] if opened is None else list(opened.inflight.values())
        if opened is not None:
            opened.inflight.clear()
        unknown += self._waiting
        self._waiting.clear()
        for _, done in unknown:
            self._loop.call_soon(self._tell, done, reason)

    # --- sending ------------------------------------------------------------------------------------------

    def _go(self) -> None:
        if self._pump is None or self._pump.done():
            self._pump = self._loop.create_task(self._send_waiting())

    async def _send_waiting(self) -> None:
        while self._waiting and self._lost is None:
            if self._ending is not None:
                await asyncio.wait({self._ending})
                continue
            opened = self._opened or await self._open()
            if opened is None:
                return
            alone = self._suspects > 0
            task = self._start(opened, self._waiting.popleft())
            if alone:
                self._suspects -= 1
                await asyncio.wait({task})
                await asyncio.sleep(0)  # a channel that this one cost is known to be over

    async def _open(self) -> _Opened | None:
        try:
            channel = await self._open_channel()
        except TransportError as error:
            waiting, self._waiting = list(self._waiting), deque()
            for _, done in waiting:
                self._tell(done, error)
            return None
        self._opened = opened = _Opened(channel)
        channel.closing.add_done_callback(lambda closing: self._on_over(opened, closing))
        return opened

    def _start(self, opened: _Opened, pending: Pending) -> asyncio.Task[None]:
        number = next(self._numbers)
        opened.inflight[number] = pending
        task = self._loop.create_task(self._publish(opened, number, *pending))
        opened.tasks.add(task)
        task.add_done_callback(opened.tasks.discard)
        return task

    async def _publish(self, opened: _Opened, number: int, parcel: Parcel, done: Done) -> None:
        fate: TransportError | None = None
        try:
            await cast(Any, opened.channel).basic_publish(
                parcel.body,
                exchange=parcel.exchange,
                routing_key=parcel.routing_key,
                properties=_Encoded(parcel),
                mandatory=True,
                wait=False,
            )
        except exceptions.PublishError as error:
            fate = verdicts.unroutable(parcel, str(getattr(error.frame, "reply_text", "")))
        except exceptions.DeliveryError:
            fate = verdicts.nacked(parcel)
        except asyncio.CancelledError:
            # aiormq ends what waits on a channel in this way too.
            if cast("asyncio.Task[Any]", asyncio.current_task()).cancelling():
                raise
            return
        except _OVER:
            return  # `_end` finds out whose fault it was
        except Exception as error:
            if opened.channel.is_closed:
                return
            fate = PublishError(
                f"message {parcel.message_id} for {verdicts.place(parcel)} cannot be written ({error}); "
                "the asyncio client's driver takes letters, digits and -_.:@#,/+ in the name of an exchange",
                (parcel,),
            )
        if opened.inflight.pop(number, None) is not None:
            self._tell(done, fate)

    def _tell(self, done: Done, error: TransportError | None) -> None:
        try:
            done(error)
        except Exception as raised:
            self._loop.call_exception_handler({"message": "a confirm callback raised", "exception": raised})

    # --- a channel that ended -----------------------------------------------------------------------------

    def _on_over(self, opened: _Opened, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        if self._opened is opened:
            self._opened = None
        if self._lost is None:
            self._ending = self._loop.create_task(self._end(opened, channel_reason(error)))

    async def _end(self, opened: _Opened, reason: TransportError) -> None:
        if opened.tasks:
            await asyncio.wait(opened.tasks)  # what was confirmed before is told first
        self._ending = None
        if self._lost is not None:
            return
        pending, opened.inflight = list(opened.inflight.values()), {}
        innocent: list[Pending] = []
        guilty: list[tuple[Done, TransportError]] = []
        for parcel, done in pending:
            fate = verdicts.verdict(parcel, reason, alone=len(pending) == 1)
            if fate is None:
                innocent.append((parcel, done))
            else:
                guilty.append((done, fate))
        self._waiting.extendleft(reversed(innocent))
        if self._suspects or not guilty:
            # Nobody is named: one at a time, whoever is alone when the channel closes did it.
            self._suspects += len(innocent)
        for done, fate in guilty:
            self._tell(done, fate)
        if self._waiting:
            self._go()
