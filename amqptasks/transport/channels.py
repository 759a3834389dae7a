"""Channels: requests with their answers, content put together, and what to do when the broker closes one.

Requests are pipelined: the broker answers a channel's requests in the order in which they were written, so
opening a channel and using it is one round trip. Knows AMQP methods (pika's `spec`) and the stream.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import Any, Final

import pika.exceptions
import pika.frame
from pika import spec

from amqptasks.errors import ChannelClosed, ImproperlyConfigured, TransportError
from amqptasks.transport.failures import channel_error, no_answer
from amqptasks.transport.stream import HEADER, METHOD, Stream

_method_id = struct.Struct(">I").unpack_from
_body_size = struct.Struct(">Q").unpack_from

_CLOSE: Final = spec.Channel.Close.INDEX
_CLOSE_OK: Final = spec.Channel.CloseOk.INDEX
_WITH_CONTENT: Final = frozenset({spec.Basic.Deliver.INDEX, spec.Basic.GetOk.INDEX, spec.Basic.Return.INDEX})
_UNASKED: Final = frozenset({spec.Basic.Cancel.INDEX, spec.Channel.Flow.INDEX})

Answer = tuple[Any, bytes, bytes]
"""The method that answered, with the content header and body of a message that came with it."""


class Channel:
    """One channel, opened with the first request that is written. `closed` is the reason once it is over.

    Raises ChannelClosed when the connection has no number left.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.number = stream.number()
        if self.number > stream.channel_max > 0:
            raise ChannelClosed(
                f"all {stream.channel_max} channels of this connection are in use; raise channel_max"
            )
        self.closed: TransportError | None = None
        self.closing = False
        self._answers: deque[asyncio.Future[Answer]] = deque()
        self._method: Any = None
        self._header = b""
        self._left = 0
        self._parts: list[bytes] = []
        stream.channels[self.number] = self
        self.opening = self.request(spec.Channel.Open())[0]

    # --- requests ----------------------------------------------------------------------------------------

    def request(self, *methods: Any) -> list[asyncio.Future[Answer]]:
        """Write requests, all or none; return the futures of their answers, which fail with the channel.

        Raises ImproperlyConfigured for what AMQP cannot say.
        """
        encoded = b"".join([_encode(self.number, method) for method in methods])
        futures: list[asyncio.Future[Answer]] = [self.stream.loop.create_future() for _ in methods]
        for future in futures:
            future.add_done_callback(_retrieve)
        if self.closed is not None:
            for future in futures:
                future.set_exception(self.closed)
        else:
            self._answers.extend(futures)
            self.stream.write(encoded)
        return futures

    def release(self) -> asyncio.Future[Answer] | None:
        """Ask the broker to close; what still arrives is dropped. None when it is closed already.

        Never pipelined behind a request that may fail: the broker then forgets to answer it.
        """
        if self.closed is not None or self.closing:
            return None
        answer = self.request(spec.Channel.Close(200, "done", 0, 0))[0]
        self.closing = True
        return answer

    def lost(self, reason: TransportError) -> None:
        """The connection is over: fail what waits."""
        if self.closed is None:
            self._end(reason)

    def _end(self, reason: TransportError) -> None:
        self.closed = reason
        answers, self._answers = self._answers, deque()
        for future in answers:
            if not future.done():
                future.set_exception(reason)
        self.on_closed(reason)

    # --- frames ------------------------------------------------------------------------------------------

    def on_frame(self, kind: int, data: bytes, start: int, stop: int) -> None:
        """Take one frame whose payload is `data[start:stop]`."""
        if kind == METHOD:
            self.on_method(_method_id(data, start)[0], data, start, stop)
        elif kind == HEADER:
            self._left = _body_size(data, start + 4)[0]
            self._header = data[start + 12 : stop]
            if not self._left:
                self._content(b"")
        elif stop - start == self._left and not self._parts:
            self._content(data[start:stop])
        else:
            self._parts.append(data[start:stop])
            self._left -= stop - start
            if self._left <= 0:
                body, self._parts = b"".join(self._parts), []
                self._content(body)

    def on_method(self, index: int, data: bytes, start: int, stop: int) -> None:
        """Take one method; subclasses take their hot ones first."""
        method = spec.methods[index]()
        method.decode(data[start + 4 : stop])
        if index == _CLOSE:
            self._on_close(method)
        elif index == _CLOSE_OK:
            self.stream.channels.pop(self.number, None)
            self._answer(method)
            if self.closed is None:
                self._end(ChannelClosed("this channel was closed by us"))
        elif index in _WITH_CONTENT:
            self._method = method
        elif index in _UNASKED:
            if not self.closing:
                self.on_unasked(method)
        else:
            self._answer(method)

    def _on_close(self, method: Any) -> None:
        self.stream.write(_encode(self.number, spec.Channel.CloseOk()))
        if not self.closing:
            # When both sides close at once, the broker still answers ours: the number is not free before.
            self.stream.channels.pop(self.number, None)
        if self.closed is None:
            self._end(channel_error(method.reply_code, method.reply_text))

    def _answer(self, method: Any, header: bytes = b"", body: bytes = b"") -> None:
        if self._answers:
            future = self._answers.popleft()
            if not future.done():  # else whoever asked has given up
                future.set_result((method, header, body))

    def _content(self, body: bytes) -> None:
        method, self._method = self._method, None
        if method is None or self.closing:
            return
        if method.INDEX == spec.Basic.GetOk.INDEX:
            self._answer(method, self._header, body)
        else:
            self.on_content(method, self._header, body)

    # --- for subclasses ----------------------------------------------------------------------------------

    def on_unasked(self, method: Any) -> None:
        """Called with what answers nothing: the broker's cancel of a consumer."""

    def on_content(self, method: Any, header: bytes, body: bytes) -> None:
        """Called with a returned message."""

    def on_closed(self, reason: TransportError) -> None:
        """Called once, whoever closed it and also when the connection was lost."""


def _encode(number: int, method: Any) -> bytes:
    try:
        return pika.frame.Method(number, method).marshal()
    except (pika.exceptions.AMQPError, ValueError, TypeError, AssertionError, struct.error) as error:
        long = isinstance(error, pika.exceptions.ShortStringTooLong)
        what = "a name or routing key has more than 255 bytes" if long else f"{type(error).__name__}: {error}"
        name = getattr(method, "queue", None) or getattr(method, "exchange", None) or ""
        raise ImproperlyConfigured(
            f"{method.NAME} of {str(name)[:80]!r} cannot be written ({what}); arguments are text, integers, "
            "booleans, lists and mappings"
        ) from error


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Nobody need wait for an answer: its failure is not an error of the loop."""
    if not future.cancelled():
        future.exception()


async def within(
    timeout: float, answers: list[asyncio.Future[Answer]], what: str, blocked: str | None = None
) -> list[Answer]:
    """Wait for pipelined answers, at most `timeout` seconds for all.

    Raises what closed the channel; BrokerBlocked or BrokerUnavailable when no answer came.
    """
    try:
        async with asyncio.timeout(timeout):
            return [await answer for answer in answers]
    except TimeoutError:
        raise no_answer(timeout, what, blocked) from None
