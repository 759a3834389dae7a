"""A small HTTP server in a thread of its own, for probes: it answers also when the worker's loop does not.

Knows sockets and requests, and one function that answers them; knows nothing of workers. Whoever is slow, talks too
much or comes in a crowd is cut off: a request has a few seconds and a few kilobytes, and there are few at a time.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from amqptasks.errors import WorkerError

logger = logging.getLogger(__name__)

LARGEST = 8192
"""Bytes that a request may have."""
PATIENCE = 10.0
"""Seconds from the connection to the end of the answer."""
CROWD = 32
"""Connections at a time."""
JSON, TEXT = "application/json", "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets."""

    status: HTTPStatus
    kind: str = TEXT
    body: bytes = b""


Respond = Callable[[str, str], Awaitable[Answer]]
"""From a path and the header Accept to the answer; awaited in the server's own loop."""


class HealthServer:
    """Serves from `start` until `close`; both are called by the owner's thread."""

    def __init__(self, host: str, port: int, respond: Respond) -> None:
        self._host, self._port = host, port
        self._respond = respond
        self._clients = 0
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread: threading.Thread | None = None

    def start(self) -> tuple[str, int]:
        """Listen; return address and port. Raises WorkerError when that cannot be."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        both = family is socket.AF_INET6 and socket.has_dualstack_ipv6()
        try:
            listening = socket.create_server(
                (self._host, self._port), family=family, backlog=CROWD, dualstack_ipv6=both
            )
        except OSError as error:
            raise WorkerError(
                f"the health port {self._port} on {self._host} cannot be opened: {error.strerror or error}; "
                "give another --health-port or --health-host, 0 for any free port"
            ) from error
        # Made here, so that `close` finds it however soon it comes.
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop, self._stop = runner.get_loop(), asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, args=(runner, listening), name="health", daemon=True
        )
        self._thread.start()
        host, port = listening.getsockname()[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Stop listening, and cut off who is being answered."""
        if self._thread is None:
            return
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(2.0)
        self._thread = None

    def _run(self, runner: asyncio.Runner, listening: socket.socket) -> None:
        with runner:
            runner.run(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        server = await asyncio.start_server(self._client, sock=listening, limit=LARGEST)
        try:
            await self._stop.wait()
        finally:
            server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._clients >= CROWD:
            writer.transport.abort()
            return
        self._clients += 1
        try:
            async with asyncio.timeout(PATIENCE):
                answer, with_body = await self._answer(reader)
                writer.write(_encoded(answer, with_body=with_body))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._clients -= 1

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Answer, bool]:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), True
        line, *fields = head.decode("latin-1").split("\r\n")
        match line.split(" "):
            case ["GET" | "HEAD" as method, target, "HTTP/1.0" | "HTTP/1.1"]:
                pass
            case [_, _, "HTTP/1.0" | "HTTP/1.1"]:
                return Answer(HTTPStatus.METHOD_NOT_ALLOWED), True
            case _:
                return Answer(HTTPStatus.BAD_REQUEST), True
        said = (field.partition(":") for field in fields)
        accept = ",".join(value.strip() for name, _, value in said if name.lower() == "accept")
        try:
            return await self._respond(target.partition("?")[0], accept), method == "GET"
        except Exception:
            logger.exception("a health request could not be answered: %s", target)
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR), method == "GET"


def _encoded(answer: Answer, *, with_body: bool) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.kind}\r\nContent-Length: {len(answer.body)}\r\n"
        f"{'Allow: GET, HEAD' + chr(13) + chr(10) if answer.status is HTTPStatus.METHOD_NOT_ALLOWED else ''}"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (answer.body if with_body else b"")
