"""A `Link` to RabbitMQ made of aio-pika: what the asyncio client stands on, one connection an event loop.

    link = await connect(parse("amqp://guest@localhost//"), name="web")
    link.post(parcel, done)

aio-pika opens the connection and its channels; what goes over them is encoded by us. Not its robust connection: a link
lives once, and the `Publisher` above reconnects with our backoff and sends what is unconfirmed again under the same
message id, which a channel that heals by itself would hide. `frame_max` and `channel_max` are the broker's.
Knows AMQP and bytes, nothing of tasks.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar, cast

import aio_pika
import aio_pika.abc
import aio_pika.connection
from aiormq import exceptions
from aiormq.abc import AbstractChannel

from amqptasks.amqp import Arguments, Binding, Delivery, Entity, Parcel, QueueInfo
from amqptasks.errors import (
    BrokerUnavailable,
    ConnectionLost,
    ImproperlyConfigured,
    NotFound,
    TransportError,
)
from amqptasks.transport import failures
from amqptasks.transport.aio_confirms import AioConfirms
from amqptasks.transport.aio_consuming import AioConsumer
from amqptasks.transport.aio_wire import Dialler, channel_reason, declare_on, ended, refused, server_info
from amqptasks.transport.base import Done, OnCancel, OnDelivery, ServerInfo
from amqptasks.transport.loop import version
from amqptasks.transport.methods import label
from amqptasks.transport.url import BrokerURL

T = TypeVar("T")

MEBIBYTE: Final = 1024 * 1024
_OVERHEAD: Final = 8 + 12
"""Bytes of a content header frame besides the properties."""


class _Connection(aio_pika.Connection):
    """aio-pika's connection, over a socket that we open."""

    PARAMETERS = (
        aio_pika.abc.ConnectionParameter("transport_factory", cast(Any, lambda given: given), is_kwarg=True),
    )


async def connect(
    urls: Sequence[BrokerURL],
    *,
    name: str,
    heartbeat: float = 15,
    timeout: float = 4,
    max_message_size: int | None = None,
    order: Callable[[Sequence[BrokerURL]], Sequence[BrokerURL]] | None = None,
) -> AioLink:
    """Open a link to the first host that lets us in; as `loop.connect`."""
    failed: list[BrokerUnavailable] = []
    for url in order(urls) if order is not None else urls:
        link = AioLink(url, float(url.options.get("connection_timeout", timeout)))
        try:
            await link.open(name, heartbeat, max_message_size)
        except BrokerUnavailable as error:
            failed.append(error)
        else:
            return link
    if not failed:
        raise ImproperlyConfigured("no broker URL was given")
    raise failures.nobody(failed)


class AioLink:
    """Implements `Link`; made by `connect`."""

    def __init__(self, url: BrokerURL, timeout: float) -> None:
        self.server = ServerInfo(host=url.host, port=url.port)
        self.lost: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self.blocked: str | None = None
        self.on_blocked: Callable[[str | None], None] | None = None
        self._url = url
        self._timeout = timeout
        self._dialler = Dialler(url, self._say_blocked)
        self._consumers: set[AioConsumer] = set()
        self._connection: aio_pika.Connection
        self._confirms: AioConfirms

    def __repr__(self) -> str:
        state = f"lost: {self.lost.result()}" if self.lost.done() else "blocked" if self.blocked else "open"
        return f"<AioLink {self._url.host}:{self._url.port} | {state}>"

    async def open(self, name: str, heartbeat: float, max_message_size: int | None) -> None:
        """Connect to this link's one host. Raises the tree below BrokerUnavailable."""
        connection = self._made(name, heartbeat)
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()
        except (OSError, TimeoutError, exceptions.AMQPError) as error:
            self._dialler.abort()
            raise refused(error, self._dialler, self._url, self._timeout) from error
        except BaseException:
            self._dialler.abort()
            raise
        self._connection = connection
        self.server = server_info(self._underlay, self._url)
        if max_message_size is None:
            max_message_size = (16 if self.server.version_tuple >= (4,) else 128) * MEBIBYTE
        max_header = int(self._underlay.connection_tune.frame_max) - _OVERHEAD
        self._confirms = AioConfirms(self._confirming, max_message_size, max_header)
        self._underlay.closing.add_done_callback(self._on_end)

    def _made(self, name: str, heartbeat: float) -> _Connection:
        url, options = self._url, self._url.options
        address = aio_pika.connection.make_url(
            host=url.host,
            port=url.port,
            login=url.user,
            password=url.password,
            virtualhost=url.vhost,
            ssl=url.tls is not None,
            heartbeat=math.ceil(float(options.get("heartbeat", heartbeat))),
            name=str(options.get("name", name)),
            auth="external" if options.get("login_method") == "EXTERNAL" else "plain",
        )
        said = {"product": "amqptasks", "version": version(), "information": ""}
        return _Connection(address, client_properties=cast(Any, said), transport_factory=self._dialler)

    @property
    def _underlay(self) -> Any:
        return cast(Any, self._connection.transport).connection

    # --- publishing ---------------------------------------------------------------------------------------

    def post(self, parcel: Parcel, done: Done) -> None:
        self._confirms.post(parcel, done)

    def flush(self) -> None:
        """aiormq writes as it is given."""

    async def _confirming(self) -> AbstractChannel:
        return await self._translated("opening a channel", self._channel(confirms=True), within=False)

    async def _channel(self, *, confirms: bool = False) -> AbstractChannel:
        channel = self._connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        await channel.initialize()
        return await channel.get_underlay_channel()

    # --- topology -----------------------------------------------------------------------------------------

    async def declare(self, *entities: Entity, passive: bool = False) -> list[QueueInfo]:
        declared = [entity for entity in entities if not (passive and isinstance(entity, Binding))]
        if not declared:
            return []
        what = f"declaring {', '.join(label(entity) for entity in declared[:3])}"

        async def each(channel: AbstractChannel) -> list[QueueInfo]:
            answers = [await declare_on(channel, entity, passive) for entity in declared]
            return [answer for answer in answers if answer is not None]

        return await self._ask(what, each)

    async def purge(self, queue: str) -> int:
        answer = await self._ask(f"purging {queue!r}", lambda channel: channel.queue_purge(queue))
        return int(answer.message_count or 0)

    async def delete_queue(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        try:
            answer = await self._ask(
                f"deleting {queue!r}",
                lambda channel: channel.queue_delete(queue, if_unused=if_unused, if_empty=if_empty),
            )
        except NotFound:
            return 0
        return int(answer.message_count or 0)

    async def get(self, queue: str) -> Delivery | None:
        message = await self._ask(
            f"getting from {queue!r}", lambda channel: channel.basic_get(queue, no_ack=True)
        )
        found: Any = message.delivery
        if getattr(found, "delivery_tag", None) is None:
            return None
        header = message.header.properties.marshal()
        return Delivery(
            queue,
            found.delivery_tag,
            0,
            bool(found.redelivered),
            found.exchange,
            found.routing_key,
            header,
            message.body,
        )

    async def _ask(self, what: str, function: Callable[[AbstractChannel], Awaitable[T]]) -> T:
        """Open a channel, ask, close it."""

        async def asked() -> T:
            channel = await self._channel()
            try:
                return await function(channel)
            finally:
                if not channel.is_closed:
                    await channel.close(None)

        return await self._translated(what, asked())

    async def _translated(self, what: str, asked: Awaitable[T], *, within: bool = True) -> T:
        if self.lost.done():
            cast("Coroutine[Any, Any, T]", asked).close()
            raise ConnectionLost(str(self.lost.result()))
        task = asyncio.ensure_future(asked)
        try:
            await asyncio.wait(
                cast("set[asyncio.Future[Any]]", {task, self.lost}),
                timeout=self._timeout if within else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            if not task.done():
                task.cancel()
                task.add_done_callback(_retrieve)
        if task.done() and not task.cancelled():
            error = task.exception()
            if error is None:
                return task.result()
            raise self._reason(error) from None
        if self.lost.done() or task.done():
            raise ConnectionLost(str(self.lost.result()) if self.lost.done() else "the connection is closing")
        raise failures.no_answer(self._timeout, what, self.blocked)

    def _reason(self, error: BaseException) -> BaseException:
        if isinstance(error, TransportError):
            return error
        if isinstance(error, exceptions.AMQPChannelError):
            return channel_reason(error)
        if isinstance(error, exceptions.AMQPError | ConnectionError | exceptions.ChannelInvalidStateError):
            return ConnectionLost(f"the connection to {self._url.host}:{self._url.port} broke: {error!r}")
        if isinstance(error, struct.error | ValueError | TypeError):
            return ImproperlyConfigured(
                f"this cannot be written as AMQP ({error}); arguments are text, integers, booleans, "
                "lists and mappings"
            )
        return error

    # --- consuming ----------------------------------------------------------------------------------------

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
    ) -> AioConsumer:
        channel = await self._translated("opening a channel", self._channel())
        consumer = AioConsumer(channel, queue, on_delivery, on_cancel, self._translated)
        try:
            await consumer.start(prefetch, tag, no_ack=no_ack, exclusive=exclusive, arguments=arguments)
        except BaseException:
            with suppress(TransportError):
                await consumer.close()  # what the broker has not closed itself
            raise
        self._consumers.add(consumer)
        return consumer

    # --- the end ------------------------------------------------------------------------------------------

    async def close(self) -> None:
        if not self.lost.done():
            consumers = [consumer.close() for consumer in self._consumers]
            try:
                async with asyncio.timeout(self._timeout):
                    await asyncio.gather(*consumers, return_exceptions=True)
                    await self._connection.close(None)
            except (TimeoutError, exceptions.AMQPError, OSError):
                self._dialler.abort()
            self._end(ConnectionLost(f"the connection to {self._url.host}:{self._url.port} was closed by us"))
        await asyncio.shield(self.lost)

    def fileno(self) -> int:
        return self._dialler.fileno()

    def _on_end(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        stuck = bool(self._underlay.is_connection_was_stuck) if self._connection.transport else False
        where = f"{self._url.host}:{self._url.port}"
        self._end(ended(error, self._dialler, where, stuck=stuck))

    def _end(self, reason: TransportError) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        self._confirms.lost(reason)
        for consumer in self._consumers:
            consumer.lost()
        self._consumers.clear()

    # --- alarms -------------------------------------------------------------------------------------------

    def _say_blocked(self, reason: str | None) -> None:
        self.blocked = reason
        if self.on_blocked is not None:
            self.on_blocked(reason)


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Nobody need wait for an answer: its failure is not an error of the loop."""
    if not task.cancelled():
        task.exception()
