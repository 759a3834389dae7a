"""Task ids: random UUIDs (version 4) as text, and this process's own, made cheaply. Thread-safe and fork-safe."""

from __future__ import annotations

import os
from collections import deque

_AT_ONCE = 128
"""One system call for so many ids: it costs ten times what the rest of an id does."""
_VARIANT = "89ab"

_random: deque[bytes] = deque()
# A child that went on with its parent's random bytes would make its parent's ids.
os.register_at_fork(after_in_child=_random.clear)

_pid = os.getpid()


def process() -> int:
    """Return this process's id, without the system call that asking for it costs."""
    return _pid


def _forked() -> None:
    global _pid
    _pid = os.getpid()


os.register_at_fork(after_in_child=_forked)


def new_id() -> str:
    """Return a new id."""
    try:
        random = _random.pop()
    except IndexError:
        fresh = os.urandom(16 * _AT_ONCE)
        random = fresh[:16]
        _random.extend(fresh[start : start + 16] for start in range(16, len(fresh), 16))
    text = random.hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[random[8] & 3]}{text[17:20]}-{text[20:]}"
