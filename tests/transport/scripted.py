"""The broker's side of a stream, played by the test: it hears methods and says bytes. No socket, no broker."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pika
import pika.frame
from pika import spec

from amqptasks.amqp import Parcel, Properties
from amqptasks.transport.codec import encode_header
from amqptasks.transport.stream import Stream


class Peer(asyncio.Transport):
    """Stands in for asyncio's transport under a `Stream`; `stuck` bytes are never taken by the other side."""

    def __init__(self, heartbeat: int = 0, frame_max: int = 131_072) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.stuck = 0
        self.gone = False
        self.ended: list[BaseException] = []
        self.stream = Stream(
            pika.ConnectionParameters(heartbeat=heartbeat, frame_max=frame_max), self.ended.append
        )
        self._read = 0
        self.stream.connection_made(self)

    # --- asyncio.Transport -------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.stuck

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.gone:
            self.gone = True
            asyncio.get_running_loop().call_soon(self.stream.connection_lost, None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    # --- the broker's side -------------------------------------------------------------------------------

    def open(self) -> Peer:
        """Play the handshake."""
        properties: dict[str, Any] = {
            "product": "RabbitMQ",
            "version": "3.10.8",
            "capabilities": {"basic.nack": True},
        }
        start = spec.Connection.Start(0, 9, properties, "PLAIN AMQPLAIN", "en_US")
        tune = spec.Connection.Tune(2047, 131_072, 60)
        self.say(0, start, tune, spec.Connection.OpenOk())
        self.heard()
        return self

    def say(self, channel: int, *methods: Any) -> None:
        self.stream.data_received(methods_bytes(channel, *methods))

    def say_message(self, channel: int, method: Any, header: bytes, body: bytes) -> None:
        self.stream.data_received(message_bytes(channel, method, header, body))

    def heard(self) -> list[tuple[int, Any]]:
        """Return what was written since the last call: (channel, method), or the frame of a content."""
        self.stream.flush()
        data = b"".join(self.writes)[self._read :]
        self._read += len(data)
        found: list[tuple[int, Any]] = []
        while data:
            consumed, frame = pika.frame.decode_frame(data)
            assert frame is not None, "half a frame was written"
            found.append((getattr(frame, "channel_number", 0), getattr(frame, "method", frame)))
            data = data[consumed:]
        return found

    def names(self) -> list[str]:
        """Return the names of the methods written since the last call, contents left out."""
        return [
            type(method).__qualname__
            for _, method in self.heard()
            if isinstance(method, pika.amqp_object.Method)
        ]


def methods_bytes(channel: int, *methods: Any) -> bytes:
    return b"".join(pika.frame.Method(channel, method).marshal() for method in methods)


def message_bytes(channel: int, method: Any, header: bytes, body: bytes, frame_max: int = 131_072) -> bytes:
    """A method with its content, the body cut into frames of at most `frame_max` bytes."""
    content = struct.pack(">HHQ", 60, 0, len(body)) + header
    frames = [
        methods_bytes(channel, method),
        struct.pack(">BHI", 2, channel, len(content)) + content + b"\xce",
    ]
    step = frame_max - 8
    for start in range(0, len(body), step):
        part = body[start : start + step]
        frames.append(struct.pack(">BHI", 3, channel, len(part)) + part + b"\xce")
    return b"".join(frames)


def deliver(
    tag: int, exchange: str = "", key: str = "tasks", consumer: str = "c", *, again: bool = False
) -> Any:
    return spec.Basic.Deliver(consumer, tag, again, exchange, key)


def parcel(message_id: str, exchange: str = "e", routing_key: str = "k", body: bytes = b"{}") -> Parcel:
    return Parcel(exchange, routing_key, encode_header(Properties(message_id=message_id)), body, message_id)
