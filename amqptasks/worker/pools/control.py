"""The talk between parent and zygote: load this, fork a child for this socket, it was born, it died.

Datagrams on one socket pair; values that may be large (what to load, the manifest, an error) go in pieces.
"""

from __future__ import annotations

import pickle
import socket
import struct
from dataclasses import dataclass
from typing import Any

from amqptasks import errors
from amqptasks.errors import AmqptasksError, AppImportFailed
from amqptasks.worker.outcome import LoadSpec

PIECE = 64 * 1024

FORK, KILL = 1, 2
"""Orders to the zygote, with the child's number. FORK carries its socket, and its `ChildSettings` follow."""
BORN, DIED, NOT_BORN = 3, 4, 5
"""News from it: with the pid (and a pidfd where the system has them), the exit code, the errno."""

_NEWS = struct.Struct("<BIi")
_SIZE = struct.Struct("<Q")
NEWS_SIZE = _NEWS.size


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """How a child lives."""

    node: str = ""
    number: int = 0
    threads: int = 1
    max_tasks: int | None = None
    max_memory: int | None = None
    """KiB, resident."""
    coroutines: bool = False
    """Whether `threads` are coroutines; its second descriptor is then the socket that brings orders."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a zygote is told first."""

    spec: LoadSpec
    path: tuple[str, ...]
    """`sys.path` of the parent."""
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception that cannot travel itself: its class, if it is ours, its message, its traceback."""

    type: str
    message: str
    traceback: str

    def error(self) -> AmqptasksError:
        """The exception to raise in the parent."""
        known = getattr(errors, self.type, None)
        if not (isinstance(known, type) and issubclass(known, AmqptasksError)):
            return AppImportFailed(f"{self.type}: {self.message}", self.traceback)
        if issubclass(known, AppImportFailed):
            return known(self.message, self.traceback)
        error: AmqptasksError = known(self.message)
        return error


def encode(kind: int, number: int, value: int = 0) -> bytes:
    return _NEWS.pack(kind, number, value)


def decode(data: bytes) -> tuple[int, int, int]:
    kind, number, value = _NEWS.unpack_from(data)
    return kind, number, value


def send_value(sock: socket.socket, value: Any) -> None:
    """Pickle `value` and send it in pieces; blocks, if the socket does."""
    data = pickle.dumps(value)
    sock.sendall(_SIZE.pack(len(data)))
    for at in range(0, len(data), PIECE):
        sock.sendall(data[at : at + PIECE])


class Receiving:
    """A pickled value on its way: pieces in, a value out."""

    def __init__(self) -> None:
        self._size = -1
        self._data = bytearray()

    def add(self, piece: bytes) -> None:
        if self._size < 0:
            (self._size,) = _SIZE.unpack(piece)
        else:
            self._data += piece

    @property
    def next(self) -> int:
        """Bytes to receive next: a piece, or on a stream at most that."""
        return _SIZE.size if self._size < 0 else min(PIECE, self._size - len(self._data))

    @property
    def complete(self) -> bool:
        return len(self._data) == self._size

    def value(self) -> Any:
        return pickle.loads(self._data)


def receive_value(sock: socket.socket) -> Any:
    """The value that the other side sends; blocks. None when it is gone."""
    received = Receiving()
    while not received.complete:
        piece = sock.recv(received.next)
        if not piece:
            return None
        received.add(piece)
    return received.value()
