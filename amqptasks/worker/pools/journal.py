"""A child's journal: shared memory in which it writes what becomes of its runs, and the parent reads.

It costs neither side a system call, and outlives the child: what is written counts, however the child ends. A bell on
the socket tells the parent to look; it may look at any time besides. One child writes, one parent reads; only whole
messages are ever read. Where there are no memory files, children send every message over the socket.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from zlib import crc32

SIZE = 64 * 1024
"""Bytes of messages that may wait to be read."""

LARGEST = SIZE // 8
"""Bytes of the largest message that is written here; larger ones go over the socket."""

_WRITTEN, _READ, _PASSED = 0, 1, 2
"""Words of the head: bytes written so far, by the child; bytes read, and messages taken from the socket, by the
parent."""

_HEAD = 64
_RECORD = struct.Struct("<II")
_SKIP = 0xFFFF_FFFF
"""The length of a record that is none: the next one is at the beginning."""


def open_journal() -> int | None:
    """The descriptor of a new, empty journal; None where the system has no memory files."""
    if sys.platform != "linux":
        return None
    descriptor = os.memfd_create("amqptasks-journal")
    os.ftruncate(descriptor, _HEAD + SIZE)
    return descriptor


class _Pages:
    """Both sides' view."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _HEAD + SIZE)
        self._head = memoryview(self._map)[:_HEAD].cast("Q")
        self._page = memoryview(self._map)[_HEAD:]

    def close(self) -> None:
        self._head.release()
        self._page.release()
        self._map.close()


class Writing(_Pages):
    """The child's side; closes the descriptor."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        os.close(descriptor)
        self._written = 0
        self._passing = 0

    def write(self, message: bytes) -> bool:
        """Add a message. False when it must go over the socket: it is too large, there is no room, or one that went
        there has not been taken yet and would come after this."""
        length = len(message)
        head, page, written = self._head, self._page, self._written
        if length > LARGEST or head[_PASSED] != self._passing:
            return False
        at = written % SIZE
        start = at + _RECORD.size
        rest = SIZE - at
        skipped = rest if rest < _RECORD.size + length else 0
        if written + skipped + _RECORD.size + length - head[_READ] > SIZE:
            return False
        if skipped:
            if rest >= _RECORD.size:
                _RECORD.pack_into(page, at, _SKIP, 0)
            at, start = 0, _RECORD.size
        # A reader on another processor may see these in another order; the sum tells it what is whole.
        _RECORD.pack_into(page, at, length, crc32(message))
        page[start : start + length] = message
        self._written = head[_WRITTEN] = written + skipped + _RECORD.size + length
        return True

    def passes(self) -> None:
        """A message goes over the socket."""
        self._passing += 1

    @property
    def unread(self) -> bool:
        """Whether the parent has yet to look at something."""
        return self._head[_READ] != self._written


class Reading(_Pages):
    """The parent's side; the descriptor stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._read = 0

    def read(self) -> list[bytes]:
        """What was written since the last look."""
        head, page, read = self._head, self._page, self._read
        written = head[_WRITTEN]
        messages: list[bytes] = []
        while read != written:
            at = read % SIZE
            if SIZE - at < _RECORD.size:
                read += SIZE - at
                continue
            length, checksum = _RECORD.unpack_from(page, at)
            if length == _SKIP:
                read += SIZE - at
                continue
            start = at + _RECORD.size
            message = bytes(page[start : start + length])
            if crc32(message) != checksum:
                break  # not here yet as a whole; the next look finds it
            messages.append(message)
            read = read + _RECORD.size + length
        if read != self._read:
            self._read = head[_READ] = read
        return messages

    def passed(self) -> None:
        """A message that went over the socket was taken: the child may write here again."""
        self._head[_PASSED] += 1
