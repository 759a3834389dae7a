"""Publishing with confirms: each parcel meets its fate once, and its neighbours' errors are not its own.

The broker closes the whole channel for one bad message. Then the offender is found (the broker names the
exchange or the size; failing that, the parcels are tried one at a time) and the others are published again,
in order, on a new channel. Knows AMQP and parcels; reconnecting is the `Publisher`'s.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final

from pika import spec

from amqptasks.amqp import Parcel
from amqptasks.errors import TransportError, Unroutable
from amqptasks.transport import codec, verdicts
from amqptasks.transport.base import Done
from amqptasks.transport.channels import Channel
from amqptasks.transport.stream import OVERHEAD, Stream

_confirm = struct.Struct(">IQB").unpack_from
_NACK: Final = spec.Basic.Nack.INDEX
_FATES: Final = frozenset({spec.Basic.Ack.INDEX, _NACK})
_HEADER_FIXED: Final = 12
"""Bytes of a content header before the properties: class, weight, body size."""

Pending = tuple[Parcel, Done]


class ConfirmChannel(Channel):
    """One channel in confirm mode, with what it has published and not heard of."""

    def __init__(self, stream: Stream, on_over: Callable[[ConfirmChannel, TransportError], None]) -> None:
        super().__init__(stream)
        self.pending: OrderedDict[int, Pending] = OrderedDict()
        self.returned: dict[int, Unroutable] = {}
        self._sequence = 0
        self._frame_max = stream.frame_max
        self._on_over = on_over
        self.on_settled: Callable[[], None] | None = None
        self.request(spec.Confirm.Select())

    def publish(self, parcel: Parcel, done: Done) -> None:
        self._sequence += 1
        self.pending[self._sequence] = (parcel, done)
        self.stream.write(
            codec.publish_frames(
                self.number,
                parcel.exchange,
                parcel.routing_key,
                parcel.header,
                parcel.body,
                self._frame_max,
                b"\x00" if parcel.fate == "event" else b"\x01",
            )
        )

    def on_method(self, index: int, data: bytes, start: int, stop: int) -> None:
        if index in _FATES:
            _, tag, flags = _confirm(data, start)
            self._settle(tag, multiple=bool(flags & 1), nacked=index == _NACK)
        else:
            super().on_method(index, data, start, stop)

    def _settle(self, tag: int, *, multiple: bool, nacked: bool) -> None:
        pending = self.pending
        if not multiple:
            one = pending.pop(tag, None)
            if one is not None:
                self._report(tag, one, nacked=nacked)
        else:
            last = tag or self._sequence  # 0 means all
            while pending:
                first = next(iter(pending))
                if first > last:
                    break
                self._report(first, pending.pop(first), nacked=nacked)
        if self.on_settled is not None:
            self.on_settled()

    def _report(self, tag: int, pending: Pending, *, nacked: bool) -> None:
        parcel, done = pending
        error: TransportError | None = None
        if self.returned:
            error = self.returned.pop(tag, None)
        if nacked and error is None:
            error = verdicts.nacked(parcel)
        self.tell(done, error)

    def tell(self, done: Done, error: TransportError | None) -> None:
        """Call back; what the callee raises is its own, and must not cost the others their confirms."""
        try:
            done(error)
        except Exception as raised:
            context = {"message": "a confirm callback raised", "exception": raised}
            self.stream.loop.call_exception_handler(context)

    def on_content(self, method: Any, header: bytes, body: bytes) -> None:
        """`basic.return` comes before the message's ack, in the order of publishing."""
        message_id = codec.decode_header(header).message_id
        for sequence, (parcel, _) in self.pending.items():
            if parcel.message_id == message_id and sequence not in self.returned:
                self.returned[sequence] = verdicts.unroutable(parcel, method.reply_text)
                return

    def on_closed(self, reason: TransportError) -> None:
        self._on_over(self, reason)


class Confirms:
    """The link's publishing side, over as many confirm channels as errors cost."""

    def __init__(self, stream: Stream, max_message_size: int) -> None:
        self._stream = stream
        self._max_body = max_message_size
        self._max_header = stream.frame_max - OVERHEAD - _HEADER_FIXED
        self._channel: ConfirmChannel | None = None
        self._suspects: deque[Pending] = deque()
        self._lost: TransportError | None = None

    def post(self, parcel: Parcel, done: Done) -> None:
        error = self._lost or verdicts.unfit(parcel, self._max_body, self._max_header)
        if error is not None:
            self._stream.loop.call_soon(done, error)
        elif self._suspects:
            self._suspects.append((parcel, done))
        else:
            (self._channel or self._open()).publish(parcel, done)

    def open(self) -> None:
        """Open the channel before the first post, which is then one round trip shorter."""
        if self._channel is None and self._lost is None:
            self._open()

    def lost(self, reason: TransportError) -> None:
        """The connection is over; the channel reports to `_on_over` by itself."""
        self._lost = reason
        suspects, self._suspects = self._suspects, deque()
        for _, done in suspects:
            self._stream.loop.call_soon(done, reason)

    def _open(self) -> ConfirmChannel:
        self._channel = ConfirmChannel(self._stream, self._on_over)
        return self._channel

    # --- a channel that ended -----------------------------------------------------------------------------

    def _on_over(self, channel: ConfirmChannel, reason: TransportError) -> None:
        if channel is self._channel:
            self._channel = None
        told = [(done, channel.returned.get(sequence)) for sequence, (_, done) in channel.pending.items()]
        pending = list(channel.pending.values())
        channel.pending.clear()
        if self._lost is not None:
            for done, error in told:
                channel.tell(done, error or self._lost)
            return
        innocent: list[Pending] = []
        guilty: list[tuple[Done, TransportError]] = []
        for (parcel, done), (_, error) in zip(pending, told, strict=True):
            fate = error or verdicts.verdict(parcel, reason, alone=len(pending) == 1)
            if fate is None:
                innocent.append((parcel, done))
            else:
                guilty.append((done, fate))
        # Before anybody is told: what the callbacks post comes after what was posted before.
        self._again(innocent, found=bool(guilty))
        for done, fate in guilty:
            channel.tell(done, fate)

    def _again(self, innocent: list[Pending], *, found: bool) -> None:
        if found and not self._suspects:
            for parcel, done in innocent:
                (self._channel or self._open()).publish(parcel, done)
            return
        if not innocent and not self._suspects:
            return
        # Nobody is named: one at a time, whoever is alone when the channel closes did it.
        self._suspects.extendleft(reversed(innocent))
        self._next()

    def _next(self) -> None:
        channel = self._channel or self._open()
        channel.on_settled = self._next
        if self._suspects and not channel.pending:
            channel.publish(*self._suspects.popleft())
        if not self._suspects:
            channel.on_settled = None
