"""What to do with a delivery, decided from its headers alone. Pure: reads a clock value, touches nothing.

The parent decodes six headers and never a body; whatever needs the body is left to a child.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from amqptasks import delay
from amqptasks.amqp import Delivery
from amqptasks.errors import AmqptasksError
from amqptasks.protocol import COUNTS, JOINED, REPLAYED
from amqptasks.transport import codec, plain
from amqptasks.worker.outcome import Cause, TaskOptions

WATCHED = ("root_id", "parent_id", "argsrepr", "kwargsrepr")
COMES_AGAIN = (*COUNTS, REPLAYED)
KEYS = ("task", "id", "eta", "expires", "retries", "timelimit")
REPLAYED_BYTES, JOINED_BYTES = REPLAYED.encode(), JOINED.encode()
OURS_BYTES = b"x-amqptasks-"
SCHEDULED_BYTES = b"x-amqptasks-due"
"""Header of what beat sent: its id is that of its due time, and another beat may have sent it too."""
AT_ONCE = 1.0
"""Seconds up to which an eta is waited for here; the ladder's unit."""


@dataclass(frozen=True, slots=True)
class Admission:
    """`cause` says run it or why not; `wait` is how many seconds to hold it first."""

    cause: Cause = Cause.RUN
    detail: str = ""
    wait: float = 0.0
    soft: float | None = None
    hard: float | None = None


PLAIN = Admission()
REVOKED = Admission(Cause.REVOKED)
NO_LIMITS = (None, [None, None])


def admit(fields: Mapping[str, Any], options: TaskOptions, now: float) -> Admission:
    """Decide. `now` is seconds since the epoch; a header that cannot be read is left to the child to refuse."""
    eta, expires, limits = fields.get("eta"), fields.get("expires"), fields.get("timelimit")
    if (
        eta is None
        and expires is None
        and limits in NO_LIMITS
        and options.time_limit is options.soft_time_limit is None
    ):
        return PLAIN
    due = epoch(eta)
    end = epoch(expires)
    if end is not None and end <= now:
        return Admission(Cause.EXPIRED)
    wait = 0.0 if due is None else due - now
    if wait > AT_ONCE:
        return Admission(Cause.EARLY, detail=repr(wait))
    hard, soft = _limits(limits)
    return Admission(
        wait=max(0.0, wait),
        soft=options.soft_time_limit if soft is None else soft,
        hard=options.time_limit if hard is None else hard,
    )


def epoch(moment: Any) -> float | None:
    """An ISO 8601 header as seconds since the epoch; naive means UTC (Celery, message protocol 2)."""
    if not isinstance(moment, str):
        return None
    try:
        parsed = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _limits(pair: Any) -> tuple[float | None, float | None]:
    """`timelimit` is [hard, soft] on the wire."""
    match pair:
        case [hard, soft]:
            return _seconds(hard), _seconds(soft)
    return None, None


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _selected(delivery: Delivery, keys: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        return codec.select(delivery.header, keys)
    except (AmqptasksError, ValueError, IndexError):
        return {}


def fields_of(delivery: Delivery) -> Mapping[str, Any]:
    """The headers that admission reads; nothing when they are not those of a call in protocol 2: then a child
    translates the message, or refuses it."""
    fields = plain.peek(delivery.header) or _selected(delivery, KEYS)
    if not isinstance(fields.get("task"), str) or not isinstance(fields.get("id"), str):
        return {}
    return fields if isinstance(fields.get("retries"), int | float | None) else {}


def watched_of(delivery: Delivery) -> tuple[Any, Any, Any, Any]:
    """What an event tells of a call besides: root_id, parent_id, argsrepr, kwargsrepr."""
    found = _selected(delivery, WATCHED)
    return tuple(map(found.get, WATCHED))  # type: ignore[return-value]


def came_by_ladder(delivery: Delivery) -> bool:
    """Whether a rung of the ladder passed it on."""
    return delivery.exchange.startswith(delay.PREFIX)


def may_be_there_twice(delivery: Delivery) -> bool:
    """Whether its copy may come without being a redelivery: by the ladder, a replay or join cut short, or two beats."""
    # By an exchange of its own it may have gone to two queues, both meant. A false alarm is told by the identity.
    if came_by_ladder(delivery) or (not delivery.exchange and REPLAYED_BYTES in delivery.header):
        return True
    # One search for what nearly every message has not: each costs a quarter of a microsecond.
    header = delivery.header
    return OURS_BYTES in header and (JOINED_BYTES in header or SCHEDULED_BYTES in header)


def identity_of(delivery: Delivery, fields: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What a redelivery shares with no other message; None without an id, so that nothing is taken for a double.

    The same call comes anew, and is to run, after a crash, or replayed from the dead letters (by the default exchange,
    with one crash or death more), and from the ladder (by an exchange of its own, and sent back once more).
    """
    if not fields:
        return None
    exchange = delivery.exchange
    # Only there can they differ: what comes straight from its sender need not be searched for them.
    again = not exchange or exchange.startswith(delay.PREFIX)
    # Two calls may have one id, if their caller gave it to both; not for one moment.
    counts = repr((fields.get("eta"), _selected(delivery, COMES_AGAIN))) if again else ""
    return (fields["id"], fields.get("retries"), counts, exchange, delivery.routing_key)
