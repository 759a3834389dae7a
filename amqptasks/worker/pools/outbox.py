"""Messages on their way through a socket that may be full: sent now if it takes them, else when it does.

Knows a loop and an end; nothing of what is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from amqptasks.worker.pools import ends


class Outbox:
    """Sends in order and never blocks. Used in the loop's thread only. `emptied` is called when all has left."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: ends.End, emptied: Callable[[], None] | None = None
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._emptied = emptied
        self._stream = sock if isinstance(sock, ends.Framed) else None
        self._messages: deque[bytes | memoryview] = deque()
        self.blocked = False
        """Whether something waits for room in the socket."""
        sock.settimeout(0)

    def put(self, message: bytes) -> None:
        """Send a message."""
        self._messages.append(message)
        if not self.blocked:
            self._write()

    def extend(self, messages: Iterable[bytes | memoryview]) -> None:
        """Send several, with nothing in between."""
        self._messages.extend(messages)
        if not self.blocked:
            self._write()

    def flush(self) -> None:
        """Send what is left; blocks until the other side has room."""
        self._sock.settimeout(None)
        self._send()

    def close(self) -> None:
        """Forget what is left."""
        if self.blocked:
            self._loop.remove_writer(self._sock.fileno())
            self.blocked = False
        self._messages.clear()

    def _write(self) -> None:
        try:
            self._send()
        except BlockingIOError:
            if not self.blocked:
                self.blocked = True
                self._loop.add_writer(self._sock.fileno(), self._write)
            return
        except (BrokenPipeError, ConnectionResetError):
            self._messages.clear()  # the other side has ended, and whoever watches it knows
        if self.blocked:
            self.blocked = False
            self._loop.remove_writer(self._sock.fileno())
            if self._emptied is not None:
                self._emptied()

    def _send(self) -> None:
        messages = self._messages
        while messages:
            self._sock.send(messages[0])
            messages.popleft()
        if self._stream is not None:
            self._stream.finish()
