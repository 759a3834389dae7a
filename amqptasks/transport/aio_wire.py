"""The socket below an aio-pika connection, and what aiormq raises as our errors.

aiormq keeps to itself what the broker says of the whole connection (blocked, closed and why), so the stream that
it reads from listens as well. Knows frames; knows no messages.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, Final, cast

from aiormq import exceptions
from aiormq.abc import AbstractChannel

from amqptasks.amqp import Binding, Entity, Exchange, Queue, QueueInfo
from amqptasks.errors import BrokerUnavailable, ChannelClosed, ConnectionLost, TransportError
from amqptasks.transport import failures
from amqptasks.transport.base import ServerInfo
from amqptasks.transport.url import BrokerURL

_BLOCKED: Final = b"\x00\x0a\x00\x3c"
_UNBLOCKED: Final = b"\x00\x0a\x00\x3d"
_CLOSE: Final = b"\x00\x0a\x00\x32"
_CODES: Final = (
    (exceptions.ChannelAccessRefused, 403),
    (exceptions.ChannelNotFoundEntity, 404),
    (exceptions.ChannelLockedResource, 405),
    (exceptions.ChannelPreconditionFailed, 406),
)
_code = struct.Struct(">H").unpack_from


class Listening(asyncio.StreamReader):
    """Reads for aiormq, which takes a frame in three pieces: type, channel and size, payload and end."""

    def __init__(self, on_blocked: Callable[[str | None], None]) -> None:
        super().__init__()
        self.closed: tuple[int, str] | None = None
        """Code and text of the broker's `connection.close`."""
        self._on_blocked = on_blocked
        self._channel = b""

    async def readexactly(self, n: int) -> bytes:
        data = await super().readexactly(n)
        if n == 6:
            self._channel = data[:2]
        elif n > 1 and self._channel == b"\x00\x00":
            self._hear(data)
        return data

    def _hear(self, data: bytes) -> None:
        method = data[:4]
        if method == _BLOCKED:
            self._on_blocked(_text(data, 4))
        elif method == _UNBLOCKED:
            self._on_blocked(None)
        elif method == _CLOSE:
            self.closed = _code(data, 4)[0], _text(data, 6)


def _text(data: bytes, at: int) -> str:
    return data[at + 1 : at + 1 + data[at]].decode("utf-8", "replace")


class Dialler:
    """Opens the socket for aiormq: its `transport_factory`."""

    def __init__(self, url: BrokerURL, on_blocked: Callable[[str | None], None]) -> None:
        self._url = url
        self._on_blocked = on_blocked
        self.reader: Listening | None = None
        self._transport: asyncio.Transport | None = None

    async def create(self, _url: Any, **_options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the host. Raises OSError, TLSFailed."""
        url, loop = self._url, asyncio.get_running_loop()
        context = failures.context(url)
        self.reader = reader = Listening(self._on_blocked)
        protocol = asyncio.StreamReaderProtocol(reader)
        name = None if url.tls is None else url.tls.server_name or url.host
        self._transport, _ = await loop.create_connection(
            lambda: protocol, url.host, url.port, ssl=context, server_hostname=name
        )
        return reader, asyncio.StreamWriter(self._transport, protocol, reader, loop)

    @property
    def closed(self) -> tuple[int, str] | None:
        return None if self.reader is None else self.reader.closed

    def abort(self) -> None:
        """Drop the socket without a word."""
        if self._transport is not None:
            self._transport.abort()

    def fileno(self) -> int:
        sock = None if self._transport is None else self._transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())


def refused(error: BaseException, dialler: Dialler, url: BrokerURL, timeout: float) -> BrokerUnavailable:
    """Say why this host did not let us in."""
    where = f"{url.host}:{url.port}"
    if dialler.closed is not None:
        return failures.closed_at_open(*dialler.closed, url)
    if isinstance(error, exceptions.IncompatibleProtocolError | exceptions.ProtocolSyntaxError):
        return BrokerUnavailable(f"{where} does not speak AMQP 0-9-1; check host and port ({error!r})")
    if isinstance(error, exceptions.AuthenticationError):
        login = str(url.options.get("login_method", "PLAIN"))
        return failures.no_login(url, login)
    if isinstance(error, exceptions.AMQPConnectionError):
        return failures.hung_up(url)
    return failures.refused(error, url, timeout)


def channel_reason(error: BaseException | None) -> TransportError:
    """Say why a channel is over."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), 0)
    if error is None or (isinstance(error, exceptions.ChannelClosed) and not code and not error.args[0]):
        return ChannelClosed("this channel was closed by us")
    if isinstance(error, exceptions.ChannelClosed):
        return failures.channel_error(code or int(error.args[0]), str(error.args[-1]))
    return ConnectionLost(f"the channel ended with its connection: {error!r}")


def ended(error: BaseException | None, dialler: Dialler, where: str, *, stuck: bool) -> ConnectionLost:
    """Say why an open connection is over."""
    if dialler.closed is not None:
        code, text = dialler.closed
        return ConnectionLost(f"the broker {where} closed the connection: {code} {text}")
    if stuck:
        return ConnectionLost(f"no heartbeat from the broker {where}: host, network or broker hangs")
    if error is None or isinstance(error, asyncio.CancelledError):
        return ConnectionLost(f"the connection to {where} was closed by us")
    said = "; ".join(str(argument) for argument in error.args) or type(error).__name__
    return ConnectionLost(f"the connection to {where} broke: {said}")


async def declare_on(channel: AbstractChannel, entity: Entity, passive: bool) -> QueueInfo | None:
    """Declare one entity; return what a queue answers."""
    arguments = cast(Any, dict(entity.arguments))
    match entity:
        case Exchange():
            await channel.exchange_declare(
                entity.name,
                exchange_type=entity.type,
                passive=passive,
                durable=entity.durable,
                auto_delete=entity.auto_delete,
                internal=entity.internal,
                arguments=arguments,
            )
        case Queue():
            answer = await channel.queue_declare(
                entity.name,
                passive=passive,
                durable=entity.durable,
                exclusive=entity.exclusive,
                auto_delete=entity.auto_delete,
                arguments=arguments,
            )
            return QueueInfo(
                str(answer.queue), int(answer.message_count or 0), int(answer.consumer_count or 0)
            )
        case Binding(kind="queue"):
            await channel.queue_bind(
                entity.destination, entity.source, entity.routing_key, arguments=arguments
            )
        case _:
            await channel.exchange_bind(
                entity.destination, entity.source, entity.routing_key, arguments=arguments
            )
    return None


def server_info(underlay: Any, url: BrokerURL) -> ServerInfo:
    said = underlay.server_properties or {}
    return ServerInfo(
        product=str(said.get("product", "")),
        version=str(said.get("version", "")),
        host=url.host,
        port=url.port,
        capabilities=dict(said.get("capabilities") or {}),
    )
