"""Revocations as they are kept on the broker: a stream that every worker reads from its start. Pure values.

A record names ids and stamps, and when they were revoked. A mark names nothing: it is written to an empty stream, from
which a reader is told nothing, so that something comes.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amqptasks.amqp import PERSISTENT, Address, Envelope, Properties, Queue
from amqptasks.errors import InvalidMessage

NAME = "amqptasks.revokes"
BACK = 10.0
"""Seconds within which the broker's streams have leaders after its start: it lets clients in before."""
SEGMENT = 1_000_000
"""Bytes; what is too old goes by whole segments."""
MOST = 100_000_000
"""Bytes that the stream may take on the broker's disk."""


@dataclass(frozen=True, slots=True)
class Record:
    """`since` is seconds since the epoch. `mark` is empty unless this is one."""

    ids: tuple[str, ...] = ()
    stamps: Mapping[str, Any] = field(default_factory=dict)
    since: float = 0.0
    mark: str = ""


def stream(retention: float) -> Queue:
    """Return the stream, which keeps records for `retention` seconds."""
    return Queue(
        NAME,
        arguments={
            "x-queue-type": "stream",
            "x-max-age": f"{max(1, round(retention))}s",
            "x-max-length-bytes": MOST,
            "x-stream-max-segment-size-bytes": SEGMENT,
        },
    )


def record(ids: Iterable[str] = (), stamps: Mapping[str, Any] | None = None, mark: str = "") -> Envelope:
    """Return the message that revokes these as of now."""
    body = {"ids": list(ids), "stamps": dict(stamps or {}), "since": time.time(), "mark": mark}
    properties = Properties(content_type="application/json", delivery_mode=PERSISTENT)
    return Envelope(Address("", NAME), json.dumps(body, default=str).encode(), properties, "drop")


def read(body: bytes) -> Record:
    """Raises InvalidMessage."""
    try:
        said = json.loads(body)
        return Record(
            ids=tuple(map(str, said.get("ids", ()))),
            stamps=dict(said.get("stamps", {})),
            since=float(said.get("since", 0.0)),
            mark=str(said.get("mark", "")),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise InvalidMessage(f"a record of {NAME} cannot be read: {error}") from error


def signal_name(said: Any) -> str:
    """Return what `terminate` is to send: "SIGTERM" for None; "KILL", "sigkill" and 9 are all SIGKILL.

    Raises ValueError.
    """
    if not said:
        return "SIGTERM"
    try:
        if str(said).isdigit():
            return signal.Signals(int(said)).name
        return signal.Signals[f"SIG{str(said).upper().removeprefix('SIG')}"].name
    except (KeyError, ValueError):
        raise ValueError(f"there is no signal {said!r}; write SIGTERM, KILL or a number") from None


def stamps(words: Iterable[str]) -> dict[str, Any]:
    """Return what `name=value` words say, as command lines have them; a name may come again. Raises ValueError."""
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is no stamp; write name=value")
        found.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in found.items()}
