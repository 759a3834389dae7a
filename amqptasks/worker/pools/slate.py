"""A page that outlives its child: there it notes an outcome that travels with the next report.

Without it, what kills a child between two runs would make the finished one look lost. Written by the child,
read by the parent after the child's death. On systems without memory files children send every outcome at
once instead.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys

SIZE = 16 * 1024

_LENGTH = struct.Struct("<Q")


def open_slate() -> int | None:
    """The parent's descriptor of a new slate; None where there are none."""
    if sys.platform != "linux":
        return None
    descriptor = os.memfd_create("amqptasks-slate")
    os.ftruncate(descriptor, SIZE)
    return descriptor


def read(descriptor: int) -> bytes:
    """What was noted last; empty if nothing was, or if the child died while it wrote."""
    (length,) = _LENGTH.unpack(os.pread(descriptor, _LENGTH.size, 0))
    return os.pread(descriptor, length, _LENGTH.size)


class Slate:
    """The child's side."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, SIZE)
        os.close(descriptor)

    def note(self, message: bytes) -> bool:
        """Keep a message in place of the one before; False when it is too long."""
        length = len(message)
        if length > SIZE - _LENGTH.size:
            return False
        page = self._page
        # The length is valid only while the message is: a child can be killed between any two of these lines.
        _LENGTH.pack_into(page, 0, 0)
        page[_LENGTH.size : _LENGTH.size + length] = message
        _LENGTH.pack_into(page, 0, length)
        return True
