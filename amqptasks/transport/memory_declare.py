"""Declaring on the in-process broker, with RabbitMQ's refusals. Call under the broker's lock."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from amqptasks.amqp import Binding, Entity, Exchange, Queue, QueueInfo
from amqptasks.errors import AccessRefused, NotFound, QueueDown, ResourceLocked, TopologyMismatch
from amqptasks.transport.memory_broker import BrokerLink, MemoryBroker
from amqptasks.transport.memory_queue import MemoryQueue
from amqptasks.transport.memory_routing import TYPES, MemoryExchange

CLASSIC_ONLY = ("x-max-priority",)
QUORUM_ONLY = ("x-delivery-limit", "x-dead-letter-strategy")
COMPARED = (
    "x-queue-type",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-message-ttl",
    "x-overflow",
    "x-single-active-consumer",
)
"""The arguments whose difference is a mismatch; RabbitMQ compares those it knows, and keeps others unread."""


def declare(broker: MemoryBroker, link: BrokerLink, entity: Entity, *, passive: bool) -> QueueInfo | None:
    """Declare one entity for `link`; return the info if it is a queue."""
    match entity:
        case Queue():
            return _declare_queue(broker, link, entity, passive)
        case Exchange():
            _declare_exchange(broker, entity, passive)
        case Binding():
            if not passive:
                _bind(broker, entity)
    return None


def find(broker: MemoryBroker, link: BrokerLink, name: str) -> MemoryQueue:
    """Return a queue that `link` may use."""
    queue = broker.queues.get(name)
    if queue is None:
        raise NotFound(f"no queue {name!r} on memory://{broker.name}; declare it first", 404)
    if name in broker.down:
        raise QueueDown(f"the node of queue {name!r} is down (asked for by a test); call bring_up()", 404)
    if queue.owner not in (None, link):
        raise ResourceLocked(
            f"queue {name!r} is exclusive to another connection; use a name of your own", 405
        )
    return queue


def _declare_queue(broker: MemoryBroker, link: BrokerLink, spec: Queue, passive: bool) -> QueueInfo:
    if passive or spec.name in broker.queues:
        queue = find(broker, link, spec.name)
        if not passive:
            _compare("queue", spec.name, _traits(queue.spec), _traits(spec))
        queue.used_at = broker.now()
        broker.settle(queue)
        return info(queue)
    if spec.name.startswith("amq."):
        raise AccessRefused(f"queue {spec.name!r}: names that begin with 'amq.' belong to the broker (403)")
    _check_type(spec)
    named = spec if spec.name else replace(spec, name=f"amq.gen-{uuid.uuid4().hex}")
    queue = MemoryQueue(named, link if spec.exclusive else None, broker.discard, broker.now())
    broker.queues[queue.name] = queue
    broker.settle(queue)
    broker.retry_dead_letters()
    return info(queue)


def info(queue: MemoryQueue) -> QueueInfo:
    return QueueInfo(queue.name, len(queue), len(queue.subscriptions))


def _check_type(spec: Queue) -> None:
    quorum = spec.arguments.get("x-queue-type", "classic") == "quorum"
    foreign = [name for name in (CLASSIC_ONLY if quorum else QUORUM_ONLY) if name in spec.arguments]
    if quorum:
        foreign += [name for name in ("exclusive", "auto_delete") if getattr(spec, name)]
        foreign += [] if spec.durable else ["durable=False"]
    if foreign:
        kind = "quorum" if quorum else "classic"
        raise TopologyMismatch(f"queue {spec.name!r}: {foreign[0]} is not possible on a {kind} queue", 406)


def _traits(spec: Queue) -> Mapping[str, Any]:
    plain = {
        each.name: getattr(spec, each.name) for each in fields(spec) if each.name not in ("name", "arguments")
    }
    known = {name: spec.arguments.get(name) for name in COMPARED}
    return plain | known | {"x-queue-type": known["x-queue-type"] or "classic"}


def _compare(kind: str, name: str, has: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for trait, value in asked.items():
        if has[trait] != value:
            raise TopologyMismatch(
                f"{kind} {name!r} exists with {trait}={has[trait]!r}, and {trait}={value!r} was asked for; "
                f"declare it as it is, or delete it first",
                406,
            )


def _declare_exchange(broker: MemoryBroker, spec: Exchange, passive: bool) -> None:
    existing = broker.exchanges.get(spec.name)
    if existing is not None:
        if not passive:
            _compare("exchange", spec.name, _exchange_traits(existing.spec), _exchange_traits(spec))
        return
    if passive:
        raise NotFound(f"no exchange {spec.name!r} on memory://{broker.name}; declare it first", 404)
    if not spec.name or spec.name.startswith("amq."):
        raise AccessRefused(f"exchange {spec.name!r}: this name belongs to the broker (403)")
    if spec.type not in TYPES:
        raise TopologyMismatch(
            f"exchange {spec.name!r}: unknown type {spec.type!r}; use one of {', '.join(TYPES)}", 406
        )
    broker.exchanges[spec.name] = MemoryExchange(spec)
    broker.retry_dead_letters()


def _exchange_traits(spec: Exchange) -> Mapping[str, Any]:
    plain = {name: getattr(spec, name) for name in ("type", "durable", "auto_delete", "internal")}
    return plain | {"alternate-exchange": spec.arguments.get("alternate-exchange")}


def _bind(broker: MemoryBroker, binding: Binding) -> None:
    source = broker.exchanges.get(binding.source)
    if source is None:
        raise NotFound(
            f"no exchange {binding.source!r} to bind {binding.destination!r} to; declare it first", 404
        )
    known: Mapping[str, object] = broker.queues if binding.kind == "queue" else broker.exchanges
    if binding.destination not in known:
        raise NotFound(f"no {binding.kind} {binding.destination!r} to bind; declare it first", 404)
    source.bind(binding)
    broker.retry_dead_letters()
