"""A TCP proxy that misbehaves on request, to stand between a client and the broker.

    with Proxy(node.port) as proxy:
        connect(proxy.url("/"))
        proxy.blackhole("c2s")
        ...
        proxy.restore()

It runs in a thread of its own; each call returns once it holds. Directions: c2s, s2c, both.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, Self, TypeVar
from urllib.parse import quote

from broker import free_ports

from .waiting import PATIENCE, wait_until

Direction = Literal["c2s", "s2c", "both"]
T = TypeVar("T")

BASIC_ACK = struct.pack(">HH", 60, 80)
BASIC_NACK = struct.pack(">HH", 60, 120)


class _Way:
    """One direction, shared by all connections."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.delay = 0.0
        self.left: int | None = None  # bytes until the cut
        self.passed = 0


class _Link:
    """One client and its connection to the broker."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)

    def fin(self) -> None:
        for writer in self.writers:
            writer.close()

    def rst(self) -> None:
        for writer in self.writers:
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                # A linger of zero makes close() send RST instead of FIN.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    def __init__(self, upstream: int, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = free_ports(1)[0]
        self.accepted = 0  # connections since the start
        self.swallowed = 0  # confirms that the client never saw
        self._upstream = upstream
        self._links: set[_Link] = set()
        self._serving = 0  # clients, also those whose connection to the broker is being opened
        self._swallow = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._ways: dict[str, _Way] = {}

    def url(self, vhost: str = "/") -> str:
        return f"amqp://guest:guest@{self.host}:{self.port}/{quote(vhost, safe='')}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(lambda: self._ways.update(c2s=_Way(), s2c=_Way()))
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        self.refuse()
        self.restore()

        def ended() -> bool:
            self.rst()  # once more: a client that was let in a moment ago has its connection only now
            return self._serving == 0

        wait_until(ended, 5, "the proxy's connections end")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5 * PATIENCE)
        self._loop.close()

    # --- faults ---

    def restore(self) -> None:
        """Pass everything on again; what a black hole held back comes now, as TCP would deliver it."""

        def clean() -> None:
            self._swallow = False
            for way in self._ways.values():
                way.delay, way.left = 0.0, None
                way.open.set()

        self._do(clean)

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        """Every read is passed on this much later."""
        self._each(direction, lambda way: setattr(way, "delay", seconds))

    def blackhole(self, direction: Direction = "both") -> None:
        """Nothing passes, nothing is closed: a pulled cable."""
        self._each(direction, lambda way: way.open.clear())

    def cut_after(self, count: int, direction: Direction = "s2c") -> None:
        """Reset the connection that passes the count-th byte from now, behind that byte."""
        self._each(direction, lambda way: setattr(way, "left", count))

    def swallow_confirms(self) -> None:
        """Drop the broker's Basic.Ack and Basic.Nack: published, but the client never learns it."""
        self._do(lambda: setattr(self, "_swallow", True))

    def rst(self) -> None:
        self._do(lambda: [link.rst() for link in list(self._links)])

    def fin(self) -> None:
        self._do(lambda: [link.fin() for link in list(self._links)])

    def refuse(self) -> None:
        """New connections are refused; those that exist stay."""

        def close() -> None:
            if self._server is not None:
                self._server.close()
                self._server = None

        self._do(close)

    def accept(self) -> None:
        async def listen() -> None:
            if self._server is None:
                self._server = await asyncio.start_server(self._serve, self.host, self.port, limit=1 << 20)

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(5 * PATIENCE)

    # --- looking ---

    @property
    def connections(self) -> int:
        return len(self._links)

    def passed(self, direction: Literal["c2s", "s2c"]) -> int:
        """Bytes passed on since the start."""
        return self._ways[direction].passed

    # --- the loop's side ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving += 1
        try:
            await self._connect(reader, writer)
        finally:
            self._serving -= 1

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream_reader, upstream = await asyncio.open_connection(
                self.host, self._upstream, limit=1 << 20
            )
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, upstream)
        self._links.add(link)
        self.accepted += 1
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(link, reader, upstream, self._ways["c2s"], None))
                group.create_task(self._pump(link, upstream_reader, writer, self._ways["s2c"], _Frames()))
        finally:
            link.fin()
            self._links.discard(link)

    async def _pump(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: _Way,
        frames: "_Frames | None",
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if way.delay:
                    await asyncio.sleep(way.delay)
                await way.open.wait()
                if frames is not None:
                    data = b"".join(self._keep(frame) for frame in frames.feed(data))
                if way.left is not None:
                    data, way.left = data[: way.left], max(0, way.left - len(data))
                way.passed += len(data)  # before the receiver can have them, for who counts when it answers
                writer.write(data)
                if way.left == 0:
                    way.left = None
                    await asyncio.wait_for(writer.drain(), PATIENCE)
                    link.rst()
                    return
                await writer.drain()
            await way.open.wait()  # a FIN does not get through a black hole either
        except (OSError, TimeoutError):
            link.rst()
        else:
            link.fin()

    def _keep(self, frame: bytes) -> bytes:
        if self._swallow and frame[0] == 1 and frame[7:11] in (BASIC_ACK, BASIC_NACK):
            self.swallowed += 1
            return b""
        return frame

    def _do(self, change: Callable[[], T]) -> T:
        async def within() -> T:
            return change()

        return asyncio.run_coroutine_threadsafe(within(), self._loop).result(5 * PATIENCE)

    def _each(self, direction: Direction, change: Callable[[_Way], object]) -> None:
        names = ("c2s", "s2c") if direction == "both" else (direction,)
        self._do(lambda: [change(self._ways[name]) for name in names])


class _Frames:
    """Cuts a broker's byte stream into whole AMQP frames."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= 8:
            # "AMQP" is the answer to a protocol header that it does not speak: eight bytes and no frame.
            is_frame = self._buffer[at : at + 4] != b"AMQP"
            end = at + 8 + (int.from_bytes(self._buffer[at + 3 : at + 7]) if is_frame else 0)
            if end > len(self._buffer):
                break
            yield self._buffer[at:end]
            at = end
        self._buffer = self._buffer[at:]
