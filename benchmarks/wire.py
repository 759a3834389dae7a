"""RabbitMQ by a bare socket: fills queues with prebuilt frames, and shows the limit that no client can pass.

Knows AMQP 0-9-1 as far as that needs; pika makes the few frames that are not hot.
"""

from __future__ import annotations

import socket
import struct
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pika
import pika.frame
from pika import spec
from pika.amqp_object import Method

REPLIES = "amqptasks.reply.bench"
CHUNK = 64
_head = struct.Struct(">BHI").unpack_from
_deliver = struct.pack(">HH", 60, 60)
_ack = struct.pack(">HH", 60, 80)


class Bare:
    """One connection with one channel."""

    def __init__(self, url: str) -> None:
        where = pika.URLParameters(url)
        self.sock = socket.create_connection((where.host, where.port), 60)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.sock.sendall(b"AMQP\0\0\x09\x01")
        start = spec.Connection.Start().decode(self._await(), 4)
        self.server = {name: str(value) for name, value in (start.server_properties or {}).items()}
        user = where.credentials
        assert isinstance(user, pika.PlainCredentials)
        login = f"\0{user.username}\0{user.password}"
        self._send(spec.Connection.StartOk({}, "PLAIN", login, "en_US"), 0)
        self._await()
        self._send(spec.Connection.TuneOk(2047, 131072, 0), 0)
        self._send(spec.Connection.Open(where.virtual_host), 0)
        self._await()
        self.ask(spec.Channel.Open())

    def ask(self, method: Method) -> None:
        self._send(method, 1)
        self._await()

    def _send(self, method: Method, channel: int) -> None:
        self.sock.sendall(pika.frame.Method(channel, method).marshal())

    def _await(self) -> bytes:
        """The payload of the next method."""
        while True:
            methods = [payload for kind, payload in self.frames() if kind == 1]
            if methods:
                return methods[0]

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Kind and payload of what one read brings."""
        got = self.sock.recv(1 << 18)
        if not got:
            raise ConnectionError("the broker closed the connection")
        data, at = self._rest + got, 0
        while len(data) - at >= 8:
            kind, _, size = _head(data, at)
            end = at + 8 + size
            if end > len(data):
                break
            yield kind, data[at + 7 : end - 1]
            at = end
        self._rest = data[at:]

    def close(self) -> None:
        self.sock.close()


@dataclass(frozen=True)
class Template:
    """A contender's own message, as its own client published it, encoded once."""

    frames: bytes
    ident: bytes
    body: bytes

    def prebuilt(self, count: int) -> list[bytes]:
        """Publish frames with an id of its own in each, CHUNK messages in each element."""
        made = [self.frames.replace(self.ident, str(uuid.uuid4()).encode()) for _ in range(count)]
        return [b"".join(made[start : start + CHUNK]) for start in range(0, count, CHUNK)]


def publish_frames(exchange: str, key: str, properties: pika.BasicProperties, body: bytes) -> bytes:
    return b"".join(
        (
            pika.frame.Method(1, spec.Basic.Publish(exchange=exchange, routing_key=key)).marshal(),
            pika.frame.Header(1, len(body), properties).marshal(),
            pika.frame.Body(1, body).marshal(),
        )
    )


def template(channel: pika.adapters.blocking_connection.BlockingChannel, queue: str) -> Template:
    """Take one message out of a queue and learn its form."""
    # Consumed, not got: what `basic.get` takes out of a quorum queue has one header more, and all of them sorted.
    method, properties, body = next(channel.consume(queue, auto_ack=True, inactivity_timeout=10))
    channel.cancel()
    if method is None or properties is None or body is None:
        raise RuntimeError(f"no message came to {queue}")
    ident = properties.correlation_id or body.partition(b'"message_id":"')[2][:36].decode()
    if properties.reply_to:
        properties.reply_to = REPLIES
    frames = publish_frames(method.exchange or "", method.routing_key or "", properties, body)
    return Template(frames, ident.encode(), body)


def push(url: str, prebuilt: Sequence[bytes], count: int) -> float:
    """Publish, confirmed; seconds until the last confirm."""
    bare = Bare(url)
    bare.ask(spec.Confirm.Select())
    start = time.perf_counter()
    for frames in prebuilt:
        bare.sock.sendall(frames)
    # Tags are not in order across confirms, so messages are counted: a multiple one covers all before it.
    single: set[int] = set()
    upto = 0
    while upto + len(single) < count:
        for _, payload in bare.frames():
            if payload[:4] == _ack:
                (tag, multiple) = struct.unpack_from(">QB", payload, 4)
                if multiple:
                    upto = max(upto, tag)
                    single = {each for each in single if each > upto}
                elif tag > upto:
                    single.add(tag)
    took = time.perf_counter() - start
    bare.close()
    return took


def read(url: str, queue: str, count: int, prefetch: int = 256) -> float:
    """Consume and acknowledge, several at a time; seconds."""
    bare = Bare(url)
    bare.ask(spec.Basic.Qos(prefetch_count=prefetch))
    start = time.perf_counter()
    bare._send(spec.Basic.Consume(queue=queue, consumer_tag="b"), 1)
    seen, acked = 0, 0
    while seen < count:
        seen += sum(1 for kind, payload in bare.frames() if kind == 1 and payload[:4] == _deliver)
        if seen > acked:
            bare._send(spec.Basic.Ack(seen, multiple=True), 1)
            acked = seen
    took = time.perf_counter() - start
    bare.close()
    return took


def echo(url: str, queue: str, count: int) -> list[float]:
    """Round trips over `queue` and a reply queue, two connections, nothing computed; seconds each, sorted."""
    caller, worker = Bare(url), Bare(url)
    reply = "bench.echo"
    caller.ask(spec.Queue.Declare(queue=reply, exclusive=True, arguments={}))
    properties = pika.BasicProperties(delivery_mode=2, reply_to=reply)
    call = publish_frames("", queue, properties, b"x" * 100)
    answer = publish_frames("", reply, pika.BasicProperties(), b"x" * 100)
    worker.ask(spec.Basic.Consume(queue=queue, consumer_tag="b"))
    caller.ask(spec.Basic.Consume(queue=reply, consumer_tag="b", no_ack=True))
    times = []
    for tag in range(1, count + 1):
        start = time.perf_counter()
        caller.sock.sendall(call)
        _until_body(worker)
        worker.sock.sendall(answer + pika.frame.Method(1, spec.Basic.Ack(tag)).marshal())
        _until_body(caller)
        times.append(time.perf_counter() - start)
    caller.close()
    worker.close()
    return sorted(times)


def _until_body(bare: Bare) -> None:
    while not any(kind == 3 for kind, _ in bare.frames()):
        pass


def pika_one_by_one(url: str, queue: str, sample: Template, count: int) -> float:
    """What pika's own confirmed publish takes; seconds."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=2,
        headers={"task": "bench.noop", "id": str(uuid.uuid4())},
    )
    channel.basic_publish("", queue, sample.body, properties, mandatory=True)
    start = time.perf_counter()
    for _ in range(count):
        channel.basic_publish("", queue, sample.body, properties, mandatory=True)
    took = time.perf_counter() - start
    connection.close()
    return took


def broker_version(url: str) -> str:
    """As the broker tells it at the start of a connection."""
    bare = Bare(url)
    bare.close()
    return f"{bare.server['product']} {bare.server['version']}"
