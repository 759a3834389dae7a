"""A `Link` to RabbitMQ on the running asyncio loop: what a worker, and the client's I/O thread, stand on.

    link = await connect(parse("amqp://guest@localhost//"), name="amqptasks worker w1@host publishing")
    link.post(parcel, done)

A link lives once; whoever holds one reconnects. Knows AMQP and bytes, nothing of tasks.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import math
import platform
from collections.abc import Callable, Sequence
from typing import Any, Final

import pika
import pika.credentials
import pika.exceptions
from pika import spec

from amqptasks.amqp import Arguments, Binding, Delivery, Entity, Parcel, QueueInfo
from amqptasks.errors import (
    BrokerBlocked,
    BrokerUnavailable,
    ConnectionLost,
    ImproperlyConfigured,
    NotFound,
    TransportError,
)
from amqptasks.transport import failures
from amqptasks.transport.base import Done, OnCancel, OnDelivery, ServerInfo
from amqptasks.transport.channels import Answer, Channel, within
from amqptasks.transport.confirms import Confirms
from amqptasks.transport.consuming import LoopConsumer
from amqptasks.transport.methods import declaration, label
from amqptasks.transport.stream import Stream, dial
from amqptasks.transport.url import BrokerURL

FRAME_MAX: Final = 131_072
CHANNEL_MAX: Final = 2_047
MEBIBYTE: Final = 1024 * 1024
BLOCKED_GOODBYE: Final = 0.5
"""Seconds that a broker under an alarm gets to answer the end of a connection."""


async def connect(
    urls: Sequence[BrokerURL],
    *,
    name: str,
    heartbeat: float = 15,
    timeout: float = 4,
    frame_max: int = FRAME_MAX,
    max_message_size: int | None = None,
    blocked_timeout: float | None = None,
    order: Callable[[Sequence[BrokerURL]], Sequence[BrokerURL]] | None = None,
) -> LoopLink:
    """Open a link to the first host that lets us in, each tried for `timeout` seconds, in order.

    `name` is shown in RabbitMQ's lists. `heartbeat` is in seconds (0: none). Bodies over `max_message_size`
    bytes are refused before they are written (None: the broker's default, 16 MiB from 4.0, 128 MiB before). A
    link that is blocked for `blocked_timeout` seconds is ended (None: never). `order` rearranges the hosts,
    for example at random. Options in a URL win over the arguments.

    Raises the tree below BrokerUnavailable: of several reasons the most specific, a sentence for each host.
    """
    failed: list[BrokerUnavailable] = []
    for url in order(urls) if order is not None else urls:
        parameters = _parameters(url, name, heartbeat, frame_max)
        link = LoopLink(url, float(url.options.get("connection_timeout", timeout)), blocked_timeout)
        try:
            await link.open(parameters, max_message_size)
        except BrokerUnavailable as error:
            failed.append(error)
        else:
            return link
    if not failed:
        raise ImproperlyConfigured("no broker URL was given")
    raise failures.nobody(failed)


class LoopLink:
    """Implements `Link`; made by `connect`."""

    def __init__(self, url: BrokerURL, timeout: float, blocked_timeout: float | None) -> None:
        self.server = ServerInfo(host=url.host, port=url.port)
        self.lost: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.blocked: str | None = None
        self.on_blocked: Callable[[str | None], None] | None = None
        """Called with the broker's reason when it stops taking messages, with None when it resumes."""
        self._url = url
        self._timeout = timeout
        self._blocked_timeout = blocked_timeout
        self._blocked_timer: asyncio.TimerHandle | None = None
        self._heartbeat = 0.0
        self._opened = False
        self._stream: Stream
        self._confirms: Confirms

    def __repr__(self) -> str:
        state = f"lost: {self.lost.result()}" if self.lost.done() else "blocked" if self.blocked else "open"
        return f"<LoopLink {self._url.host}:{self._url.port} | {state}>"

    async def open(self, parameters: pika.ConnectionParameters, max_message_size: int | None) -> None:
        """Connect to this link's one host. Raises the tree below BrokerUnavailable."""
        url = self._url
        self._heartbeat = float(parameters.heartbeat)  # type: ignore[arg-type]  # a number, not pika's callable
        try:
            async with asyncio.timeout(self._timeout):
                server_name = (url.tls.server_name or url.host) if url.tls is not None else None
                self._stream = await dial(parameters, self._on_end, failures.context(url), server_name)
        except (OSError, TimeoutError, pika.exceptions.AMQPError) as error:
            raise failures.refused(error, url, self._timeout) from error
        self.server = _server(self._stream, url)
        if max_message_size is None:
            max_message_size = (16 if self.server.version_tuple >= (4,) else 128) * MEBIBYTE
        self._confirms = Confirms(self._stream, max_message_size)
        self._stream.on_blocked = self._on_blocked
        self._opened = True

    # --- publishing --------------------------------------------------------------------------------------

    def post(self, parcel: Parcel, done: Done) -> None:
        self._confirms.post(parcel, done)

    def flush(self) -> None:
        self._stream.flush()

    # --- topology ----------------------------------------------------------------------------------------

    async def declare(self, *entities: Entity, passive: bool = False) -> list[QueueInfo]:
        declared = [entity for entity in entities if not (passive and isinstance(entity, Binding))]
        if not declared:
            return []
        what = f"declaring {', '.join(label(entity) for entity in declared[:3])}"
        answers = await self._ask(what, *[declaration(entity, passive=passive) for entity in declared])
        return [
            QueueInfo(method.queue, method.message_count, method.consumer_count)
            for method, _, _ in answers
            if isinstance(method, spec.Queue.DeclareOk)
        ]

    async def purge(self, queue: str) -> int:
        [(method, _, _)] = await self._ask(f"purging {queue!r}", spec.Queue.Purge(queue=queue))
        return int(method.message_count)

    async def delete_queue(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        deletion = spec.Queue.Delete(queue=queue, if_unused=if_unused, if_empty=if_empty)
        try:
            [(method, _, _)] = await self._ask(f"deleting {queue!r}", deletion)
        except NotFound:
            return 0
        return int(method.message_count)

    async def get(self, queue: str) -> Delivery | None:
        asked = spec.Basic.Get(queue=queue, no_ack=True)
        [(method, header, body)] = await self._ask(f"getting from {queue!r}", asked)
        if method.INDEX != spec.Basic.GetOk.INDEX:
            return None
        redelivered = bool(method.redelivered)
        return Delivery(
            queue, method.delivery_tag, 0, redelivered, method.exchange, method.routing_key, header, body
        )

    async def _ask(self, what: str, *methods: Any) -> list[Answer]:
        """Open a channel, ask, close it: one round trip."""
        self._check()
        channel = Channel(self._stream)
        try:
            return await self._within(channel.request(*methods), what)
        finally:
            channel.release()

    async def _within(self, answers: list[asyncio.Future[Answer]], what: str) -> list[Answer]:
        return await within(self._timeout, answers, what, self.blocked)

    def _check(self) -> None:
        if self.lost.done():
            raise ConnectionLost(str(self.lost.result()))

    # --- consuming ---------------------------------------------------------------------------------------

    async def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        on_cancel: OnCancel,
        *,
        prefetch: int,
        tag: str = "",
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments | None = None,
    ) -> LoopConsumer:
        self._check()
        consumer = LoopConsumer(self._stream, queue, on_delivery, on_cancel, wait=self._within)
        try:
            await consumer.start(prefetch, tag, no_ack=no_ack, exclusive=exclusive, arguments=arguments)
        except BaseException:
            consumer.release()
            raise
        return consumer

    # --- the end -----------------------------------------------------------------------------------------

    async def close(self) -> None:
        if not self.lost.done():
            try:
                # What a blocked broker is told it does not read before the alarm is over.
                async with asyncio.timeout(self._timeout if self.blocked is None else BLOCKED_GOODBYE):
                    await self._say_goodbye()
            except TimeoutError:
                self._stream.abort()
            except asyncio.CancelledError:
                self._stream.abort()  # who waits no longer leaves no open socket behind
                raise
        await asyncio.shield(self.lost)

    async def _say_goodbye(self) -> None:
        # Consumers first: once their channels are closed, their acks are known to have been applied.
        channels = list(self._stream.channels.values())
        consumers = [channel for channel in channels if isinstance(channel, LoopConsumer)]
        await asyncio.gather(*[consumer.close() for consumer in consumers], return_exceptions=True)
        self._stream.say_goodbye()
        await asyncio.shield(self.lost)

    def fileno(self) -> int:
        return self._stream.fileno()

    def _on_end(self, error: BaseException) -> None:
        if self.lost.done() or not self._opened:
            return
        reason = failures.ended(error, f"{self._url.host}:{self._url.port}")
        self.lost.set_result(reason)
        self._set_blocked_timer(None)
        self._confirms.lost(reason)
        for channel in list(self._stream.channels.values()):
            channel.lost(reason)
        self._stream.channels.clear()

    # --- alarms ------------------------------------------------------------------------------------------

    def _on_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        self._stream.user_timeout(self._heartbeat if reason is None else 0)
        self._set_blocked_timer(reason)
        if self.on_blocked is not None:
            self.on_blocked(reason)

    def _set_blocked_timer(self, reason: str | None) -> None:
        if self._blocked_timer is not None:
            self._blocked_timer.cancel()
            self._blocked_timer = None
        if reason is not None and self._blocked_timeout is not None:
            error = BrokerBlocked(f"the broker took no messages for {self._blocked_timeout:g} s: {reason}")
            loop = asyncio.get_running_loop()
            self._blocked_timer = loop.call_later(self._blocked_timeout, self._stream.end, error)


def _parameters(url: BrokerURL, name: str, heartbeat: float, frame_max: int) -> pika.ConnectionParameters:
    credentials = (
        pika.credentials.ExternalCredentials()
        if url.options.get("login_method") == "EXTERNAL"
        else pika.credentials.PlainCredentials(url.user, url.password)
    )
    try:
        return pika.ConnectionParameters(
            host=url.host,
            port=url.port,
            virtual_host=url.vhost,
            credentials=credentials,
            heartbeat=math.ceil(float(url.options.get("heartbeat", heartbeat))),
            frame_max=int(url.options.get("frame_max", frame_max)),
            channel_max=int(url.options.get("channel_max", CHANNEL_MAX)),
            client_properties={
                "product": "amqptasks",
                "version": version(),
                "platform": f"Python {platform.python_version()}",
                "information": "",
                "connection_name": url.options.get("name", name),
            },
        )
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"the options for {url.masked()} do not fit: {error}") from error


@functools.cache
def version() -> str:
    try:
        return importlib.metadata.version("amqptasks")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "0"


def _server(stream: Stream, url: BrokerURL) -> ServerInfo:
    said = stream.server_properties or {}
    return ServerInfo(
        product=str(said.get("product", "")),
        version=str(said.get("version", "")),
        host=url.host,
        port=url.port,
        capabilities=dict(stream.server_capabilities or {}),
    )
