"""A chord on the broker: its queue, its plan, and the parts that its members leave there.

A chord is a queue, named after its header's group. The first message in it is the *plan*: the body, and how many
parts there will be. Each member of the header adds its *part*: its state, under its index. After each part a call
of `amqptasks.chord_unlock` asks the broker how many there are; see `joining`.

A member knows of its chord by one callback and one errback, calls of `amqptasks.chord_part`. A worker of ours does
not send them, it publishes the part itself; Celery's send them, addressed by exchange and routing key, and a worker
of ours makes the part of what they say. Knows messages; knows nothing of workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from amqptasks import delay, protocol
from amqptasks.amqp import PERSISTENT, Address, Entity, Envelope, Exchange, Properties, Queue
from amqptasks.backends import result_format
from amqptasks.backends.base import Meta
from amqptasks.backends.wire import ResultFormat, from_body, read_body, result_envelope
from amqptasks.entities import declaration, resolve
from amqptasks.errors import InvalidMessage
from amqptasks.ids import new_id
from amqptasks.protocol import TaskMessage
from amqptasks.serialization import accept_set, dumps
from amqptasks.settings import Settings
from amqptasks.signatures import Signature
from amqptasks.topology import Queue as TaskQueue
from amqptasks.wire_fields import body_of

PART = "amqptasks.chord_part"
UNLOCK = "amqptasks.chord_unlock"
EXPIRED = "amqptasks.chord_expired"
INTERNAL = "amqptasks.internal"
"""The exchange, and the usual queue, of the calls by which workers do their own work."""

LEASE = 7 * 86400.0
"""Seconds that a chord's queue outlives its last count: after them nobody will ever fill it."""
LONGEST_LEASE = 49 * 86400.0
"""RabbitMQ takes no longer `x-expires`: it is 32 bits of milliseconds."""

_INDEX = "chord_index"
_EXTRA = "chord_extra"
_SIZE = "chord_size"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a chord does when all its parts are there."""

    body: Mapping[str, Any]
    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one member of the header left: `index` orders the parts, `extra` more are to come on its account."""

    index: tuple[int, ...]
    extra: int
    meta: Meta
    size: int
    """Of the chord, as the member knew it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member's part belongs; its wire form is the keyword arguments of `chord_part`."""

    chord: str
    index: tuple[int, ...]
    size: int
    extra: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Place:
        return cls(given["chord"], tuple(given["index"]), int(given["size"]), int(given.get("extra") or 0))

    def kwargs(self) -> dict[str, Any]:
        named: dict[str, Any] = {"chord": self.chord, "index": list(self.index), "size": self.size}
        return {**named, "extra": self.extra} if self.extra else named


def queue_of(chord: str) -> str:
    return f"{protocol.CHORDS}{chord}"


def entity_of(chord: str, wait: float = 0.0) -> Queue:
    """Return the chord's queue to declare; `wait` is how many seconds its members may lie before they start."""
    lease = min(LEASE + wait, LONGEST_LEASE)
    return Queue(queue_of(chord), arguments={"x-queue-type": "classic", "x-expires": int(lease * 1000)})


def internal_key(conf: Settings) -> str:
    """Return the name of the queue of the workers' own calls, which every worker of an app consumes.

    Apps that share a virtual host are told apart by their default queue: a join needs its app's routes and tasks.
    """
    default = conf.task_default_queue
    return INTERNAL if default == "amqptasks" else f"{INTERNAL}.{default}"


def internal_queue(conf: Settings) -> TaskQueue:
    """Return the queue of the workers' own calls, resolved."""
    key = internal_key(conf)
    return resolve(TaskQueue(key, Exchange(INTERNAL, "direct"), key), conf)


def internal_entities(conf: Settings) -> tuple[Entity, ...]:
    return declaration(internal_queue(conf), conf)


def internal_options(conf: Settings) -> dict[str, Any]:
    """Return the options of a call to the workers themselves, by whomever it is sent.

    A worker of Celery's would declare a `queue`, with arguments of its own; an exchange it only publishes to.
    """
    return {"exchange": INTERNAL, "routing_key": internal_key(conf), "ignore_result": True}


def callbacks(place: Place, conf: Settings) -> tuple[Signature, Signature]:
    """Return the callback and the errback by which a member knows its chord."""
    options, kwargs = internal_options(conf), place.kwargs()
    return (
        Signature(PART, (), kwargs, dict(options)),
        Signature(PART, (), {**kwargs, "failed": True}, dict(options)),
    )


def place_in(linked: Sequence[Mapping[str, Any]] | None) -> Place | None:
    """Return the place that a request's callbacks name; None when it is in no chord."""
    for callback in linked or ():
        if callback.get("task") == PART:
            return Place.of(callback["kwargs"])
    return None


# --- messages -------------------------------------------------------------------------------------------------


def plan_message(chord: str, plan: Plan, conf: Settings) -> Envelope:
    """Return the chord's first message. Raises EncodeError."""
    content = {"plan": {"body": plan.body, "size": plan.size}}
    encoded = dumps(content, conf.task_serializer, conf.task_compression)
    headers = {"compression": encoded.compression} if encoded.compression else None
    properties = Properties(
        content_type=encoded.content_type,
        content_encoding=encoded.content_encoding,
        headers=headers,
        delivery_mode=PERSISTENT,
        message_id=chord,
    )
    return Envelope(Address("", queue_of(chord)), encoded.body, properties)


def part_message(place: Place, meta: Meta, conf: Settings) -> Envelope:
    extended: dict[str, Any] = {_INDEX: list(place.index), _SIZE: place.size}
    if place.extra:
        extended[_EXTRA] = place.extra
    said = replace(meta, extended=extended, reply_to=None, correlation_id=meta.task_id)
    envelope = result_envelope(said, queue_of(place.chord), _format(conf))
    return replace(envelope, fate="part", properties=replace(envelope.properties, message_id=new_id()))


def unlock_message(place: Place, conf: Settings) -> Envelope:
    message = TaskMessage(
        id=f"{place.chord}.{new_id()}",
        task=UNLOCK,
        kwargs={"group_id": place.chord, "size": place.size},
        ignore_result=True,
        argsrepr="",
        kwargsrepr="",
    )
    return replace(protocol.encode(message, Address(INTERNAL, internal_key(conf))), fate="count")


def expiry_message(chord: str, seconds: float, conf: Settings) -> tuple[Envelope, tuple[Entity, ...]]:
    """Return the call that gives a chord up, held by the ladder until then, and what the ladder needs."""
    message = TaskMessage(
        id=new_id(),
        task=EXPIRED,
        kwargs={"group_id": chord, "seconds": seconds},
        eta=datetime.now(UTC) + timedelta(seconds=seconds),
        ignore_result=True,
    )
    envelope = protocol.encode(message, Address(INTERNAL, internal_key(conf)))
    return delay.delayed(envelope, seconds, internal_key(conf))


def read(envelope: Envelope, conf: Settings) -> Plan | Part:
    """Return what a message of a chord's queue says. Raises MessageError."""
    accept = accept_set(conf.accept_content)
    format = _format(conf)
    content = body_of(envelope, accept | format.accept, conf.message_inflate_limit)
    if isinstance(content, dict) and "plan" in content:
        return Plan(content["plan"]["body"], int(content["plan"]["size"]))
    body = read_body(envelope, format)
    if _INDEX not in body:
        raise InvalidMessage("neither a plan nor a part of a chord")
    extra, size = int(body.get(_EXTRA) or 0), int(body.get(_SIZE) or 0)
    return Part(tuple(body[_INDEX]), extra, from_body(body), size)


def _format(conf: Settings) -> ResultFormat:
    return replace(result_format(conf), persistent=True)
