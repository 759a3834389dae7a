"""The delay ladder: how the broker holds a message until its time, by quorum queues that let it expire. Pure.

A delay is written in decimal, lowest digit first: 90 s to the queue `mail` is the key `0.9.x.mail`. The
exchange `amqptasks.delay.<level>` reads the word of its level: a digit leads to the queue that holds a
message for digit * 10**level seconds and dead-letters it to the next level's exchange, 0 goes on at once,
`x` ends at `amqptasks.delay.out`, which knows the destinations by their last word. So each hop has exactly
one route, no queue is visited twice, and the longest hold comes last, where it absorbs what a restart cost.

The ladder counts whole seconds. What a delay has beyond them is waited for by whoever receives the message, which
therefore never starts early; but what lacks at most `LATE` of a second more is rounded up, so that a countdown of
whole seconds is held by the broker to its end. What is longer than the ladder goes on it again (`remaining`).
Nothing here knows settings, connections or tasks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from urllib.parse import unquote

from amqptasks import amqp
from amqptasks.amqp import Address, Binding, Entity, Envelope, Exchange
from amqptasks.entities import KEEP, LOST

PREFIX = "amqptasks.delay"
OUT = f"{PREFIX}.out"

LEVELS = 6
LONGEST: int = 10**LEVELS - 1
"""Seconds that one climb of the ladder can hold: 11.5 days."""

LATE = 0.2
"""Seconds by which a message may come late, for the sake of a whole number of them."""

SHORTEST = 1.0 - LATE
"""Seconds below which a message is not worth the ladder: the worker waits."""

HIGHEST_PRIORITY = 4
"""Above it quorum queues (4.0 and later) let messages overtake others, and a rung must expire in order."""

_LONGEST_WORD = 200
_END = "x"


def remaining(eta: datetime, now: datetime) -> float:
    """Return the seconds until `eta`, not below 0. Both have a zone."""
    return max(0.0, (eta - now).total_seconds())


def held(seconds: float) -> int:
    """Return how many seconds one climb of the ladder takes for a delay."""
    return min(int(seconds + LATE), LONGEST)


def ladder_route(seconds: float, to: str | Address) -> tuple[Address, tuple[Entity, ...]]:
    """Return where to publish, and what must exist before, for a delay to a queue or to any address.

    A queue, given by its name, must exist already: it is bound to the ladder, and its message arrives with
    the ladder's routing key. An address keeps exchange and routing key, of whatever exchange type, at the
    cost of one hop more. The entities are equal for equal delays, so they can be remembered as declared.
    Raises ValueError for less than `SHORTEST`: such a message is published as it is.
    """
    if seconds < SHORTEST:
        raise ValueError(f"a delay of {seconds} s is shorter than the ladder's shortest, {SHORTEST} s")
    return _way(held(seconds), to)


@lru_cache(maxsize=4096)
def _way(whole: int, to: str | Address) -> tuple[Address, tuple[Entity, ...]]:
    digits = _digits(whole)
    entry = next(level for level, digit in enumerate(digits) if digit)
    word = _word(to)
    key = ".".join([*map(str, digits), _END, word])
    return Address(f"{PREFIX}.{entry}", key), (*_core(), *_path(digits), *_exit(to, word))


def delayed(
    envelope: Envelope, seconds: float, queue: str | None = None
) -> tuple[Envelope, tuple[Entity, ...]]:
    """Return the envelope as it climbs the ladder to `queue`, or to its own address, and what must exist.

    It loses `expiration`, which would cut a rung short (the header `expires` still counts), and priorities
    above `HIGHEST_PRIORITY`. Below `SHORTEST` it comes back as it is, and nothing need exist.
    """
    if seconds < SHORTEST:
        return envelope, ()
    address, entities = ladder_route(seconds, envelope.address if queue is None else queue)
    properties = envelope.properties
    priority = None if properties.priority is None else min(properties.priority, HIGHEST_PRIORITY)
    changed = replace(properties, expiration=None, priority=priority)
    return replace(envelope, address=address, properties=changed), entities


def ladder_topology() -> tuple[Entity, ...]:
    """Return the whole ladder, in order, for export; `ladder_route` asks only for the rungs that it needs."""
    rungs = (_rung(level, digit) for level in range(LEVELS) for digit in range(1, 10))
    return (*_core(), *(entity for rung in rungs for entity in rung))


def destination(queue: str) -> Binding:
    """Return the binding by which the ladder reaches a queue."""
    return Binding(OUT, queue, f"#.{_END}.{_word(queue)}")


def bound_for(key: str) -> str | Address:
    """Return the queue or the address that a routing key of the ladder leads to; "" when the key does not spell it."""
    word = key.rpartition(f".{_END}.")[2]
    if word.startswith("~"):
        return ""
    exchange, colon, routing_key = map(unquote, word.partition(":"))
    return Address(exchange, routing_key) if colon else exchange


def _digits(whole: int) -> tuple[int, ...]:
    """Return the decimal digits, lowest first: the ladder is climbed in this order."""
    return tuple(int(digit) for digit in reversed(str(whole)))


@lru_cache(maxsize=1)
def _core() -> tuple[Entity, ...]:
    """Return what every delay needs. Each exchange stands before what is bound to it, the lost queue first.

    Without the alternate exchange a message whose destination is gone would be kept and tried again by the
    rung that holds it, 32 of which stop that rung for everybody.
    """
    exchanges = [Exchange(f"{PREFIX}.{level}", "topic") for level in range(LEVELS)]
    return (
        Exchange(LOST, "fanout"),
        amqp.Queue(LOST, arguments=dict(KEEP)),
        Binding(LOST, LOST),
        Exchange(OUT, "topic", arguments={"alternate-exchange": LOST}),
        *exchanges,
        *(binding for level in range(LEVELS) for binding in _onward(level)),
    )


def _onward(level: int) -> Iterator[Binding]:
    source, skipped = f"{PREFIX}.{level}", "*." * level
    yield Binding(source, _above(level), f"{skipped}0.#", "exchange")
    yield Binding(source, OUT, f"{skipped}{_END}.#", "exchange")


def _above(level: int) -> str:
    return f"{PREFIX}.{level + 1}" if level + 1 < LEVELS else OUT


def _path(digits: tuple[int, ...]) -> tuple[Entity, ...]:
    rungs = (_rung(level, digit) for level, digit in enumerate(digits) if digit)
    return tuple(entity for rung in rungs for entity in rung)


@lru_cache(maxsize=LEVELS * 9)
def _rung(level: int, digit: int) -> tuple[Entity, ...]:
    name = f"{PREFIX}.{level}.{digit}"
    queue = amqp.Queue(
        name,
        arguments={
            "x-queue-type": "quorum",
            "x-message-ttl": digit * 10**level * 1000,
            "x-dead-letter-exchange": _above(level),
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    return queue, Binding(f"{PREFIX}.{level}", name, f"{'*.' * level}{digit}.#")


@lru_cache(maxsize=1024)
def _exit(to: str | Address, word: str) -> tuple[Entity, ...]:
    """Return how the ladder reaches its destination.

    A topic exchange would match the ladder's own routing key, and a direct one would not match it at all, so
    an address has a queue that holds nothing back: whatever arrives expires at once, and dead-lettering gives
    it the exchange and routing key that it was meant for.
    """
    if isinstance(to, str):
        return (destination(to),)
    name = f"{PREFIX}.to.{word}"
    queue = amqp.Queue(
        name,
        arguments={
            "x-queue-type": "quorum",
            "x-message-ttl": 0,
            "x-dead-letter-exchange": to.exchange,
            "x-dead-letter-routing-key": to.routing_key,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    return queue, Binding(OUT, name, f"#.{_END}.{word}")


@lru_cache(maxsize=1024)
def _word(to: str | Address) -> str:
    """Return the destination as one word of a routing key. An address has a ':', as no queue's word has."""
    text = _escaped(to) if isinstance(to, str) else f"{_escaped(to.exchange)}:{_escaped(to.routing_key)}"
    if len(text) <= _LONGEST_WORD:
        return text
    kind = "" if isinstance(to, str) else ":"
    return f"~{kind}{hashlib.blake2b(text.encode(), digest_size=20).hexdigest()}"


def _escaped(name: str) -> str:
    """Percent-encode all but letters, digits, _ and -: above all what topic patterns read."""
    return re.sub(rb"[^A-Za-z0-9_-]", lambda found: b"%%%02X" % found.group()[0], name.encode()).decode()
