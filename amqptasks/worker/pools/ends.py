"""The two ends of a child's socket: datagrams where the system has them, else a stream of framed messages.

On a stream nothing can be read back, since the child may have read half of it: so there a child holds one run
at a time.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Protocol

KIND = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM
"""SEQPACKET keeps datagrams apart, in order, and sees the other side's end; macOS lacks it."""

_LENGTH = struct.Struct("<I")
_READ = 64 * 1024


class End(Protocol):
    """What parent and child use of a socket."""

    def send(self, message: bytes | memoryview, flags: int = 0, /) -> object:
        """Send a whole message, or raise BlockingIOError."""

    def recv(self, limit: int, flags: int = 0, /) -> bytes:
        """A whole message; empty when the other side is gone; BlockingIOError when there is none yet."""

    def fileno(self) -> int: ...

    def shutdown(self, how: int, /) -> None: ...

    def settimeout(self, value: float | None, /) -> None: ...

    def close(self) -> None: ...


def pair() -> tuple[End, End]:
    near, far = socket.socketpair(socket.AF_UNIX, KIND)
    return _end(near), _end(far)


def adopt(descriptor: int) -> End:
    """The end that a process was given."""
    return _end(socket.socket(fileno=descriptor))


def _end(sock: socket.socket) -> End:
    return Framed(sock) if sock.type == socket.SOCK_STREAM else sock


def window() -> int:
    """Runs that a child may hold at most."""
    return 32 if KIND == socket.SOCK_SEQPACKET else 1


class Framed:
    """Messages on a stream."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._received = bytearray()
        self._unsent = b""

    def send(self, message: bytes | memoryview, flags: int = 0, /) -> None:
        """All or nothing: what the socket took in part is finished first by the next call."""
        if self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
            if self._unsent:
                raise BlockingIOError
        framed = _LENGTH.pack(len(message)) + message
        if self._sock.gettimeout() is None:
            self._sock.sendall(framed)
            return
        self._unsent = framed[self._sock.send(framed) :]

    def finish(self) -> None:
        """Send the rest of the last message; BlockingIOError while it does not fit."""
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]

    def recv(self, limit: int, flags: int = 0, /) -> bytes:
        received = self._received
        while len(received) < _LENGTH.size or len(received) < self._due():
            more = self._sock.recv(_READ, flags)
            if not more:
                return b""
            received += more
        due = self._due()
        message = bytes(received[_LENGTH.size : due])
        del received[:due]
        return message

    def _due(self) -> int:
        (length,) = _LENGTH.unpack_from(self._received)
        return int(length) + _LENGTH.size

    def fileno(self) -> int:
        return self._sock.fileno()

    def shutdown(self, how: int, /) -> None:
        self._sock.shutdown(how)

    def settimeout(self, value: float | None, /) -> None:
        self._sock.settimeout(value)

    def close(self) -> None:
        self._sock.close()
