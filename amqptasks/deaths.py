"""A dead letter as it is read off a message: why, when and where it died, how often, and how it would live again.

Pure. Ours say it in headers of their own (`worker.deadletters` writes them), the broker's in `x-death`. A body is
never decoded here: it may be what killed its reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from amqptasks import delay, protocol
from amqptasks.amqp import Address, Delivery, Envelope, Parcel, Properties
from amqptasks.entities import LOST
from amqptasks.errors import AmqptasksError
from amqptasks.topology import DEAD_SUFFIX
from amqptasks.transport import codec

_OURS = "x-amqptasks-"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One dead letter. What nobody wrote on it is None, or empty."""

    id: str = ""
    """The call's id; without one, the message's."""
    task: str = ""
    reason: str = ""
    """Ours: unknown, undecodable, forbidden, crashed, outcome, unroutable. RabbitMQ's: rejected, expired, maxlen,
    delivery_limit. Where neither says any: lost."""
    error: str = ""
    queue: str = ""
    """The queue that it died in."""
    lies_in: str = ""
    """The queue that it lies in now."""
    exchange: str = ""
    routing_key: str = ""
    """How it came to the queue that it died in."""
    died_at: datetime | None = None
    node: str = ""
    times: int = 1
    """How often it has died so far; replays count on."""
    crashes: int = 0
    args: str = ""
    """The arguments as the sender shows them, shortened; so are `kwargs`."""
    kwargs: str = ""
    retries: int = 0
    size: int = 0
    """Bytes of its body."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant: those that fit everything that is said here. Nothing said: all."""

    ids: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    tasks: tuple[str, ...] = ()
    """Names, or patterns as in a shell: `shop.*`."""
    limit: int | None = None
    """At most so many, over all queues."""
    look: int = 10_000
    """Messages of each queue that are looked at, the oldest: the broker keeps every one of them in hand meanwhile."""

    def takes(self, letter: DeadLetter) -> bool:
        return (
            (not self.ids or letter.id in self.ids)
            and (not self.reasons or letter.reason in self.reasons)
            and (not self.tasks or any(fnmatchcase(letter.task, pattern) for pattern in self.tasks))
        )


def properties_of(delivery: Delivery) -> Properties:
    """The properties, or none of them when the header itself cannot be read."""
    try:
        return codec.decode_header(delivery.header)
    except (AmqptasksError, ValueError, IndexError):
        return Properties()


def read(delivery: Delivery) -> DeadLetter:
    """Return what a message of a dead-letter queue says of itself. Never raises."""
    properties = properties_of(delivery)
    headers = properties.headers or {}
    text = _texts(headers)
    letter = DeadLetter(
        id=text("id") or properties.correlation_id or properties.message_id or "",
        task=text("task"),
        lies_in=delivery.queue,
        crashes=protocol.counted(headers, protocol.CRASHES),
        args=text("argsrepr"),
        kwargs=text("kwargsrepr"),
        retries=protocol.counted(headers, "retries"),
        size=len(delivery.body),
    )
    deaths = protocol.counted(headers, protocol.DEATHS)
    ours, theirs = _written_by_us(headers), _written_by_broker(headers)
    if ours and (not theirs or _later(ours["died_at"], theirs["died_at"])):
        return replace(letter, **ours, times=max(deaths, 1))
    if theirs:
        times = theirs.pop("times")
        return replace(letter, **theirs, times=deaths + times)
    return replace(letter, **_astray(delivery), times=deaths + 1)


def _written_by_us(headers: Mapping[str, Any]) -> dict[str, Any]:
    text = _texts(headers)
    if not text(f"{_OURS}reason"):
        return {}
    return {
        "reason": text(f"{_OURS}reason"),
        "error": text(f"{_OURS}error"),
        "queue": text(f"{_OURS}queue"),
        "exchange": text(f"{_OURS}exchange"),
        "routing_key": text(f"{_OURS}routing-key"),
        "node": text(f"{_OURS}node"),
        "died_at": _moment(headers.get(f"{_OURS}time")),
    }


def _written_by_broker(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The last event of `x-death` that is no rung of the delay ladder, where messages expire to go on."""
    events = headers.get("x-death")
    for event in events if isinstance(events, Sequence) and not isinstance(events, str | bytes) else ():
        if not isinstance(event, Mapping) or str(event.get("queue", "")).startswith(f"{delay.PREFIX}."):
            continue
        keys = event.get("routing-keys")
        key = keys[0] if isinstance(keys, Sequence) and keys else ""
        text = _texts(event)
        return {
            "reason": text("reason"),
            "queue": text("queue"),
            "exchange": text("exchange"),
            "routing_key": key if isinstance(key, str) else "",
            "died_at": _moment(event.get("time")),
            "times": protocol.counted(event, "count") or 1,
        }
    return {}


def _astray(delivery: Delivery) -> dict[str, Any]:
    """What nobody says anything of: its address is all there is. The ladder's key ends with the destination."""
    key = delivery.routing_key
    found = delay.bound_for(key) if delivery.exchange.startswith(delay.PREFIX) else key
    if isinstance(found, Address) and found.exchange:
        return {"reason": "unroutable", "exchange": found.exchange, "routing_key": found.routing_key}
    queue = found.routing_key if isinstance(found, Address) else found
    if queue == delivery.queue:  # somebody put it here by hand
        queue = "" if queue == LOST else queue.removesuffix(DEAD_SUFFIX)
    return {"reason": "lost", "queue": queue, "exchange": delivery.exchange, "routing_key": key}


def _texts(table: Mapping[str, Any]) -> Any:
    def text(name: str) -> str:
        value = table.get(name)
        return value if isinstance(value, str) else ""

    return text


def _moment(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        return datetime.fromtimestamp(value, UTC) if isinstance(value, int) else None
    except (OverflowError, OSError, ValueError):
        return None


def _later(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and (other is None or one >= other)


# --- and back --------------------------------------------------------------------------------------------


def address_of(letter: DeadLetter, to: str | None = None) -> Address | None:
    """Return where a dead letter belongs: `to`, else the queue that it died in; None when nothing says which.

    The queue rather than the exchange that it came by: that may feed other queues too, whose copies were not dead,
    or be the delay ladder. Only what never reached a queue goes to its exchange.
    """
    if to:
        return Address("", to)
    if letter.reason == "unroutable" and letter.exchange and not letter.exchange.startswith(delay.PREFIX):
        return Address(letter.exchange, letter.routing_key)
    return Address("", letter.queue) if letter.queue else None


def alive(delivery: Delivery, letter: DeadLetter, to: Address) -> Parcel:
    """Return the message as it was before it died: without what ours and the broker wrote on it, but with the number
    of its deaths, and a mark by which a worker knows a copy of this very replay. Raises TooLarge, EncodeError.
    """
    properties = properties_of(delivery)
    kept = {
        name: value
        for name, value in protocol.strip_broker_headers(properties.headers or {}).items()
        if name not in protocol.DEAD_HEADERS and name not in protocol.COUNTS and name != protocol.REPLAYED
    }
    kept[protocol.DEATHS] = letter.times
    if letter.died_at is not None:
        kept[protocol.REPLAYED] = int(letter.died_at.timestamp())
    # A user id of another connection would be refused (406).
    again = replace(properties, headers=kept, user_id=None)
    return codec.pack(Envelope(to, delivery.body, again))


def dead_queue(name: str) -> str:
    """Return the queue of the dead letters of a queue; what is one itself stays as it is."""
    return name if name == LOST or name.endswith(DEAD_SUFFIX) else name + DEAD_SUFFIX
