"""A shared counter that every worker process marks with each task it runs: one method of measuring for all.

A file of slots (count, first, last), mapped into each process that runs tasks; times are the machine's monotonic
clock, so that they compare between processes. Imported by the measured apps: it must import next to nothing.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time

VARIABLE = "BENCH_SLOTS"
SLOTS = 128

_SLOT = struct.Struct("<Qdd")
_SIZE = _SLOT.size * (SLOTS + 1)  # the first one holds how many are taken
_lock = threading.Lock()
_page: mmap.mmap | None = None
_owner = _at = _count = 0
_first = 0.0


def mark() -> None:
    """Count one task, in this process's slot."""
    global _count
    with _lock:
        now = time.monotonic()
        page = _page if _owner == os.getpid() and _page is not None else _claim(now)
        _count += 1
        _SLOT.pack_into(page, _at, _count, _first, now)


def _claim(now: float) -> mmap.mmap:
    """Take the next free slot: a process is known by its own file lock, not by a number that may come again."""
    global _page, _owner, _at, _count, _first
    with open(os.environ[VARIABLE], "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        page = _page = mmap.mmap(file.fileno(), _SIZE)
        taken = _SLOT.unpack_from(page)[0] + 1
        _SLOT.pack_into(page, 0, taken, 0.0, 0.0)
        fcntl.flock(file, fcntl.LOCK_UN)  # the map keeps a duplicate of the descriptor, and the lock with it
    _owner, _at, _count, _first = os.getpid(), taken * _SLOT.size, 0, now
    return page


def record(wait: float) -> None:
    """Add how long one task waited, in seconds."""
    descriptor = os.open(os.environ[VARIABLE] + ".waits", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, struct.pack("<d", wait))
    os.close(descriptor)


class Counter:
    """The reader's side. Makes an empty file at `path`; one worker at a time may mark in it."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "wb") as file:
            file.write(b"\0" * _SIZE)
        if os.path.exists(path + ".waits"):
            os.unlink(path + ".waits")
        self._file = open(path, "rb")  # noqa: SIM115  (read a hundred times a second until `close`)

    def read(self) -> tuple[int, float, float]:
        """Tasks counted, and when the first and the last of them ran."""
        data = os.pread(self._file.fileno(), _SIZE, _SLOT.size)
        rows = [row for row in _SLOT.iter_unpack(data) if row[0]]
        if not rows:
            return 0, 0.0, 0.0
        return sum(row[0] for row in rows), min(row[1] for row in rows), max(row[2] for row in rows)

    def waits(self) -> list[float]:
        """Seconds, as they were recorded."""
        try:
            with open(self.path + ".waits", "rb") as file:
                return [wait for (wait,) in struct.iter_unpack("<d", file.read())]
        except FileNotFoundError:
            return []

    def close(self) -> None:
        self._file.close()
