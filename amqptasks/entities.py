"""From queues and settings to what the broker must hold: arguments, dead letters, their order. Pure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from amqptasks import amqp
from amqptasks.amqp import Arguments, Binding, Entity, Exchange
from amqptasks.errors import ImproperlyConfigured
from amqptasks.settings import Settings
from amqptasks.topology import DEAD_SUFFIX, Queue, QueueType

LOST = "amqptasks.lost"
EXCHANGE_TYPES = ("direct", "topic", "fanout", "headers")

# RabbitMQ 4 drops a message after 20 deliveries unless told otherwise; whoever looks into a dead-letter queue
# and requeues must not lose what it holds. (-1, "no limit", loses it at once before 4.0.)
KEEP: Arguments = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}


def resolve(queue: Queue, conf: Settings, exchanges: Mapping[str, Exchange] | None = None) -> Queue:
    """Return the queue with all that the settings decide. `exchanges` are those known by name."""
    kind, priority = _kind(queue, conf)
    filled = replace(
        queue,
        exchange=_filled_exchange(queue, conf, exchanges or {}),
        routing_key=queue.name if queue.routing_key is None else queue.routing_key,
        type=kind,
        priority=priority,
        bindings=tuple(
            (_typed(exchange, conf, exchanges or {}), key, arguments)
            for exchange, key, arguments in queue.bindings
        ),
    )
    for exchange in (filled.exchange, *(bound for bound, _, _ in filled.bindings)):
        if exchange is not None:
            _check_type(exchange, queue.name)
    if conf.queue_arguments == "minimal" or queue.exclusive or queue.auto_delete:
        return filled
    return replace(filled, arguments={**safety(filled, conf), **queue.arguments})


def _check_type(exchange: Exchange, queue: str) -> None:
    """The broker would close the whole connection, each time that a worker declares it."""
    if exchange.type in EXCHANGE_TYPES or exchange.type.startswith("x-"):
        return
    near = difflib.get_close_matches(exchange.type, EXCHANGE_TYPES, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ImproperlyConfigured(
        f"exchange {exchange.name!r} of queue {queue!r} cannot be of type {exchange.type!r}; {hint}"
        f"there are {', '.join(EXCHANGE_TYPES)}, and those of plugins, which begin with x-"
    )


def safety(queue: Queue, conf: Settings) -> dict[str, Any]:
    """Return the arguments that keep the messages of a resolved queue from being lost."""
    arguments: dict[str, Any] = {
        "x-dead-letter-exchange": conf.task_dead_letter_exchange,
        "x-dead-letter-routing-key": queue.name,
        "x-overflow": "reject-publish",
    }
    if queue.type == "quorum":
        arguments["x-delivery-limit"] = conf.task_queue_delivery_limit
        # The broker grants at-least-once only to queues that refuse rather than drop.
        if queue.arguments.get("x-overflow", "reject-publish") == "reject-publish":
            arguments["x-dead-letter-strategy"] = "at-least-once"
    return arguments


def _kind(queue: Queue, conf: Settings) -> tuple[QueueType, int | None]:
    if queue.type == "quorum":
        return "quorum", None
    priority = queue.priority or conf.task_queue_max_priority or None
    if queue.type is not None:
        return queue.type, priority
    temporary = not queue.durable or queue.exclusive or queue.auto_delete
    return ("classic" if priority or temporary else conf.task_default_queue_type), priority


def _filled_exchange(queue: Queue, conf: Settings, exchanges: Mapping[str, Exchange]) -> Exchange:
    given = queue.exchange or Exchange(conf.task_default_exchange or queue.name, "")
    return _typed(given, conf, exchanges)


def _typed(exchange: Exchange, conf: Settings, exchanges: Mapping[str, Exchange]) -> Exchange:
    """Give an exchange that is known by name alone its declaration elsewhere, or the default type."""
    if exchange.type:
        return exchange
    return exchanges.get(exchange.name) or replace(exchange, type=conf.task_default_exchange_type)


# --- what to declare -------------------------------------------------------------------------------------


def dead_letters(queue: str, conf: Settings) -> tuple[Entity, ...]:
    """Return what holds the dead letters of one queue, in order; also for a queue that others declare.

    A dead letter of a queue whose `.dead` queue is missing goes to `amqptasks.lost` rather than nowhere.
    """
    exchange, dead = conf.task_dead_letter_exchange, f"{queue}{DEAD_SUFFIX}"
    return (
        Exchange(LOST, "fanout"),
        amqp.Queue(LOST, arguments=dict(KEEP)),
        Binding(LOST, LOST),
        Exchange(exchange, "direct", arguments={"alternate-exchange": LOST}),
        amqp.Queue(dead, arguments=dict(KEEP)),
        Binding(exchange, dead, queue),
    )


def declaration(queue: Queue, conf: Settings) -> tuple[Entity, ...]:
    """Return what to declare for a resolved queue, in order: its dead letters are ready before it is."""
    before = dead_letters(queue.name, conf)
    if queue.no_declare:
        return before
    assert queue.exchange is not None
    bound = ((queue.exchange, queue.routing_key or "", queue.binding_arguments), *queue.bindings)
    entities: list[Entity] = [exchange for exchange, _, _ in bound if _declarable(exchange)]
    entities.append(queue.entity())
    entities += [
        Binding(exchange.name, queue.name, key, arguments=arguments)
        for exchange, key, arguments in bound
        if exchange.name  # every queue is bound to the default exchange, by the broker
    ]
    return (*before, *entities)


def _declarable(exchange: Exchange) -> bool:
    return bool(exchange.name) and not exchange.name.startswith("amq.")


def identity(entity: Entity) -> tuple[str, ...]:
    """Return what tells this entity from others: a key for "declared already"."""
    if isinstance(entity, Binding):
        arguments = (
            json.dumps(dict(entity.arguments), sort_keys=True, default=str) if entity.arguments else ""
        )
        return ("binding", entity.kind, entity.source, entity.destination, entity.routing_key, arguments)
    return ("exchange" if isinstance(entity, Exchange) else "queue", entity.name)


# --- for other tools -------------------------------------------------------------------------------------


def policies(queues: Iterable[Queue], conf: Settings) -> tuple[dict[str, Any], ...]:
    """Return one policy a resolved queue that gives it what `queue_arguments="minimal"` leaves out."""
    return tuple(
        {
            "name": f"amqptasks:{queue.name}",
            "pattern": f"^{re.escape(queue.name)}$",
            "apply-to": "queues",
            "priority": 1,
            "definition": {
                key.removeprefix("x-"): value
                for key, value in safety(queue, conf).items()
                if key not in queue.arguments
            },
        }
        for queue in queues
    )


def export(
    entities: Iterable[Entity], policies: Sequence[Mapping[str, Any]] = (), vhost: str = "/"
) -> dict[str, Any]:
    """Return RabbitMQ definitions (`rabbitmqctl import_definitions`), each entity once, ready for JSON."""
    once = {identity(entity): entity for entity in entities}.values()
    return {
        "exchanges": [_exchange_definition(one, vhost) for one in once if isinstance(one, Exchange)],
        "queues": [_queue_definition(one, vhost) for one in once if isinstance(one, amqp.Queue)],
        "bindings": [_binding_definition(one, vhost) for one in once if isinstance(one, Binding)],
        "policies": [{"vhost": vhost, **policy} for policy in policies],
    }


def _exchange_definition(exchange: Exchange, vhost: str) -> dict[str, Any]:
    return {
        "name": exchange.name,
        "vhost": vhost,
        "type": exchange.type,
        "durable": exchange.durable,
        "auto_delete": exchange.auto_delete,
        "internal": exchange.internal,
        "arguments": dict(exchange.arguments),
    }


def _queue_definition(queue: amqp.Queue, vhost: str) -> dict[str, Any]:
    return {
        "name": queue.name,
        "vhost": vhost,
        "durable": queue.durable,
        "auto_delete": queue.auto_delete,
        "arguments": dict(queue.arguments),
    }


def _binding_definition(binding: Binding, vhost: str) -> dict[str, Any]:
    return {
        "source": binding.source,
        "vhost": vhost,
        "destination": binding.destination,
        "destination_type": binding.kind,
        "routing_key": binding.routing_key,
        "arguments": dict(binding.arguments),
    }


def celery_task_queues(queues: Iterable[Queue]) -> str:
    """Return Python text that gives Celery these resolved queues, argument by argument as we declare them."""
    lines = ["from kombu import Exchange, Queue, binding", "", "task_queues = ["]
    for queue in queues:
        assert queue.exchange is not None
        lines += [
            "    Queue(",
            f"        {queue.name!r},",
            *([f"        {_kombu_exchange(queue.exchange)},"] if not queue.bindings else []),
            *([f"        routing_key={queue.routing_key!r},"] if not queue.bindings else []),
            *_kombu_bindings(queue),
            *([f"        durable={queue.durable},"] if not queue.durable else []),
            f"        queue_arguments={dict(queue.entity().arguments)!r},",
            "    ),",
        ]
    return "\n".join([*lines, "]"])


def _kombu_exchange(exchange: Exchange) -> str:
    arguments: Arguments = exchange.arguments
    extra = f", arguments={dict(arguments)!r}" if arguments else ""
    durable = "" if exchange.durable else ", durable=False"
    return f"Exchange({exchange.name!r}, type={exchange.type!r}{durable}{extra})"


def _kombu_bindings(queue: Queue) -> list[str]:
    """kombu binds a queue either by its own exchange or by its list, so with a list all stand there."""
    if not queue.bindings:
        return (
            [f"        binding_arguments={dict(queue.binding_arguments)!r},"]
            if queue.binding_arguments
            else []
        )
    assert queue.exchange is not None
    bound = ((queue.exchange, queue.routing_key or "", queue.binding_arguments), *queue.bindings)
    return [
        "        bindings=[",
        *(
            f"            binding({_kombu_exchange(exchange)}, {key!r}"
            + (f", arguments={dict(arguments)!r})," if arguments else "),")
            for exchange, key, arguments in bound
        ),
        "        ],",
    ]
