"""One AMQP connection on an asyncio transport: pika does what the handshake needs, the bytes are ours.

Frames of channels go to our own `Channel` objects as slices of what was read, with no frame objects and no
callback registry between; frames of channel 0 go to pika. Everything written goes through one buffer, so it
stays in order and costs one `send` per turn of the loop. Knows nothing of queues, confirms or tasks.

pika's own adapters are not used: they read 4 KiB at a time, send each frame by itself, and log tracebacks.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import pika.connection
import pika.exceptions
import pika.frame
from pika import spec

from amqptasks.errors import TransportError
from amqptasks.transport.heartbeat import Heartbeat

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
FRAME_END: Final = 0xCE
OVERHEAD: Final = 8
"""Bytes of a frame besides its payload."""

_head = struct.Struct(">BHI").unpack_from
_HEARTBEAT = pika.frame.Heartbeat().marshal()
_CLOSE_OK = pika.frame.Method(0, spec.Connection.CloseOk()).marshal()


class Frames(Protocol):
    """What a channel is to the stream."""

    def lost(self, reason: TransportError) -> None:
        """Called when the connection is over."""

    def on_frame(self, kind: int, data: bytes, start: int, stop: int) -> None:
        """Take one frame whose payload is `data[start:stop]`. Must not raise."""


class Stream(pika.connection.Connection, asyncio.Protocol):
    """pika's connection, with asyncio's transport under it. Lives on one loop, once.

    `on_end` is called once when the connection is over, with pika's reason or the operating system's;
    `on_blocked` with the broker's reason when it stops taking messages, with None when it takes them again.
    """

    # What we rely on in pika's private API, version 1.4; `tests/transport/test_stream.py` holds it.
    _error: Exception | None
    _opened: bool
    _process_frame: Callable[[Any], None]
    _on_stream_connected: Callable[[], None]
    _terminate_stream: Callable[[Exception | None], None]
    _remove_heartbeat: Callable[[], None]
    _set_connection_state: Callable[[int], None]
    _send_connection_close: Callable[[int, str], None]
    bytes_received: int
    bytes_sent: int

    def __init__(
        self, parameters: pika.ConnectionParameters, on_end: Callable[[BaseException], None]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.channels: dict[int, Frames] = {}
        self.on_end = on_end
        self.on_blocked: Callable[[str | None], None] = lambda _: None
        self.opened: asyncio.Future[None] = self.loop.create_future()
        self.refusal: BaseException | None = None
        self._socket: asyncio.Transport | None = None
        self._outgoing: list[bytes] = []
        self._parts: list[bytes] = []
        self._held = 0
        self._needed = 0
        self._ended = False
        super().__init__(parameters, self._on_opened, internal_connection_workflow=False)
        self.add_on_connection_blocked_callback(
            lambda _, frame: self.on_blocked(frame.method.reason or "no reason")
        )
        self.add_on_connection_unblocked_callback(lambda *_: self.on_blocked(None))

    @property
    def frame_max(self) -> int:
        """Bytes that a frame may have, envelope included, as negotiated."""
        return int(self.params.frame_max)

    @property
    def channel_max(self) -> int:
        return int(self.params.channel_max)

    def number(self) -> int:
        """Return the lowest free channel number."""
        for number in range(1, len(self.channels) + 2):
            if number not in self.channels:
                return number
        raise AssertionError("unreachable")

    # --- writing ------------------------------------------------------------------------------------------

    def write(self, frames: bytes) -> None:
        """Send whole frames at the end of this turn of the loop; a dead connection swallows them."""
        outgoing = self._outgoing
        if not outgoing:
            self.loop.call_soon(self.flush)
        outgoing.append(frames)

    def flush(self) -> None:
        """Hand what was written to the socket now."""
        outgoing = self._outgoing
        if outgoing:
            joined = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
            outgoing.clear()
            if self._socket is not None and not self._ended:
                self.bytes_sent += len(joined)
                self._socket.write(joined)

    # --- reading ------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)
        if self._parts:
            # Joined once the frame is complete: many small reads of a big frame cost no quadratic copying.
            self._parts.append(data)
            self._held += len(data)
            if self._held < self._needed:
                return
            data = b"".join(self._parts)
            self._parts = []
        self._on_data_available(data)

    def _on_data_available(self, data: bytes) -> None:
        try:
            self._split(data)
        except Exception as error:
            # What cannot be understood leaves no known state. The traceback goes where asyncio's go.
            context = {"message": "an AMQP frame could not be taken", "exception": error}
            self.loop.call_exception_handler(context)
            self.end(error)

    def _split(self, data: bytes) -> None:
        position, end, channels = 0, len(data), self.channels
        while end - position >= OVERHEAD:
            kind, number, size = _head(data, position)
            start = position + 7
            stop = start + size
            if stop >= end:
                break
            if data[stop] != FRAME_END:
                self._garbage(data[position:])
                return
            channel = channels.get(number)
            if channel is not None:
                channel.on_frame(kind, data, start, stop)
            elif number == 0:
                self._process_frame(pika.frame.decode_frame(data[position : stop + 1])[1])
                if self._ended:
                    return
            position = stop + 1
        if position < end:
            self._hold(data[position:])

    def _hold(self, rest: bytes) -> None:
        self._needed = OVERHEAD
        if len(rest) >= OVERHEAD:
            self._needed += _head(rest)[2]
            if self._needed > max(self.frame_max, spec.FRAME_MIN_SIZE) and self.frame_max:
                self._garbage(rest)
                return
        self._parts, self._held = [rest], len(rest)

    def _garbage(self, data: bytes) -> None:
        self.end(pika.exceptions.InvalidFrameError(f"not an AMQP 0-9-1 frame: {data[:16]!r}"))

    # --- asyncio's calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast("asyncio.Transport", transport)
        self._on_stream_connected()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._on_stream_terminated(cast("Exception | None", exc))

    # --- pika's calls -------------------------------------------------------------------------------------

    def _on_opened(self, _: object) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def _on_connection_start(self, method_frame: Any) -> None:
        mechanism = self.params.credentials.TYPE
        offered = method_frame.method.mechanisms
        if mechanism not in (offered.decode() if isinstance(offered, bytes) else offered).split():
            # pika would log a traceback.
            self._terminate_stream(pika.exceptions.AuthenticationError(mechanism))
            return
        super()._on_connection_start(method_frame)  # type: ignore[misc]

    def _create_heartbeat_checker(self) -> Heartbeat | None:
        interval = float(cast("int", self.params.heartbeat) or 0)
        if not interval:
            return None
        gone = pika.exceptions.AMQPHeartbeatTimeout(f"nothing came for {2 * interval:g} s")
        return Heartbeat(self, interval, send=lambda: self.write(_HEARTBEAT), dead=lambda: self.end(gone))

    def _on_connection_close_from_broker(self, method_frame: Any) -> None:
        self.write(_CLOSE_OK)  # pika leaves the broker waiting for it
        super()._on_connection_close_from_broker(method_frame)  # type: ignore[misc]

    def _on_stream_terminated(self, error: Exception | None) -> None:
        """Replaces pika's, which logs what we raise, and hides the broker's reason behind guesses."""
        if self._ended and self.is_closed:
            return
        self._ended = True
        self._remove_heartbeat()
        self._set_connection_state(self.CONNECTION_CLOSED)
        reason = self._error or error or pika.exceptions.StreamLostError("the peer closed the socket")
        if not self.opened.done():
            self.refusal = reason
            self.opened.set_result(None)
        self.on_end(reason)

    def _adapter_connect_stream(self) -> None:
        raise NotImplementedError("the link connects by itself")

    def _adapter_call_later(self, delay: float, callback: Callable[[], Any]) -> object:
        return self.loop.call_later(delay, callback)

    def _adapter_remove_timeout(self, timeout_id: object) -> None:
        cast("asyncio.TimerHandle", timeout_id).cancel()

    def _adapter_add_callback_threadsafe(self, callback: Callable[..., Any]) -> None:
        self.loop.call_soon_threadsafe(callback)

    def _adapter_emit_data(self, data: bytes) -> None:
        self.write(data)

    def _output_marshaled_frames(self, marshaled_frames: list[bytes]) -> None:
        self.write(b"".join(marshaled_frames))

    def _adapter_disconnect_stream(self) -> None:
        self.flush()
        self._ended = True
        if self._socket is None:
            self.loop.call_soon(self._on_stream_terminated, None)
        elif self._socket.get_write_buffer_size():
            self._socket.abort()  # a dead peer would never take the rest
        else:
            self._socket.close()

    # --- the socket ---------------------------------------------------------------------------------------

    def tune_socket(self, heartbeat: float) -> None:
        """Let the kernel notice a dead peer too: heartbeats need a loop that runs, its timers do not."""
        sock = self._socket.get_extra_info("socket") if self._socket is not None else None
        if sock is None:
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):  # macOS and Windows lack some
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.user_timeout(heartbeat)

    def user_timeout(self, heartbeat: float) -> None:
        """Give up on unacknowledged bytes after two heartbeats; 0 waits for ever.

        A blocked broker leaves its window shut, which Linux counts as unacknowledged: the link sets 0 then.
        """
        sock = self._socket.get_extra_info("socket") if self._socket is not None else None
        if sock is not None and sock.fileno() >= 0 and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * heartbeat))

    def fileno(self) -> int:
        """The socket's descriptor, -1 when there is none."""
        sock = self._socket.get_extra_info("socket") if self._socket is not None else None
        return int(sock.fileno()) if sock is not None else -1

    def say_goodbye(self) -> None:
        """Ask the broker to close; `on_end` follows its answer. pika's own `close` would log each time."""
        if self.is_open:
            self._error = pika.exceptions.ConnectionClosedByClient(200, "done")
            self._set_connection_state(self.CONNECTION_CLOSING)
            self._send_connection_close(200, "done")

    def end(self, error: Exception) -> None:
        """Close the socket; `error` is the reason that `on_end` is given."""
        if not self._ended:
            self._terminate_stream(error)

    def abort(self) -> None:
        """Drop the socket without a word."""
        if self._socket is not None:
            self._socket.abort()


async def dial(
    parameters: pika.ConnectionParameters,
    on_end: Callable[[BaseException], None],
    tls: ssl.SSLContext | None,
    server_name: str | None,
) -> Stream:
    """Connect to one host and finish the AMQP handshake.

    Raises OSError (ssl.SSLError included) or what pika refused with. Cancelling it closes the socket.
    """
    loop = asyncio.get_running_loop()
    stream = Stream(parameters, on_end)
    try:
        await loop.create_connection(
            lambda: stream,
            parameters.host,
            parameters.port,
            ssl=tls,
            server_hostname=server_name if tls is not None else None,
            ssl_shutdown_timeout=1.0 if tls is not None else None,
            happy_eyeballs_delay=0.25,
        )
        stream.tune_socket(float(cast("int", parameters.heartbeat) or 0))
        await stream.opened
    except BaseException:
        stream.abort()
        raise
    if stream.refusal is not None:
        raise stream.refusal
    return stream
