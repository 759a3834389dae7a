"""What parent and asyncio child say besides runs and reports: end this one coroutine, it has been ended.

Orders have a socket of their own, since the child leaves runs unread when it has enough. That a coroutine was ended
travels as an outcome, in order with all other reports. Bytes and values.
"""

from __future__ import annotations

import struct

from amqptasks.worker.outcome import Cause, Outcome

ROOM, CANCEL = 1, 2
"""How many runs at a time; end the one with this key."""

_ORDER = struct.Struct("<BBQ")
_STOPPED = "stopped:"


def encode_room(room: int) -> bytes:
    return _ORDER.pack(ROOM, 0, room)


def encode_cancel(key: int, cause: Cause, reason: str) -> bytes:
    return _ORDER.pack(CANCEL, cause, key) + reason.encode("utf-8", "replace")[:1024]


def decode(data: bytes) -> tuple[int, int, Cause, str]:
    """ROOM or CANCEL, the number, and for CANCEL the cause and the reason."""
    kind, cause, number = _ORDER.unpack_from(data)
    return kind, number, Cause(cause), data[_ORDER.size :].decode("utf-8", "replace")


def stopped(cause: Cause, reason: str) -> Outcome:
    """What a child reports of a run that it ended; what follows from that is for the parent to ask."""
    return Outcome(state=f"{_STOPPED}{cause:d}:{reason}"[:200])


def why_stopped(outcome: Outcome) -> tuple[Cause, str] | None:
    """Cause and reason, if the run was ended before its outcome."""
    if not outcome.state.startswith(_STOPPED):
        return None
    cause, _, reason = outcome.state.removeprefix(_STOPPED).partition(":")
    return Cause(int(cause)), reason
