"""From a resolved queue to what a worker declares and consumes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amqptasks.amqp import Exchange
from amqptasks.config import Config
from amqptasks.entities import declaration
from amqptasks.routing import Router
from amqptasks.topology import Queue
from amqptasks.worker.outcome import WorkerQueue

SHAPING = ("task_queues", "task_default_", "task_create_", "task_dead_", "task_queue_")
"""How the settings begin that say what a queue is like."""


def consumed(queue: Queue, conf: Config) -> WorkerQueue:
    """Return what to declare and consume for a resolved queue."""
    return WorkerQueue(
        name=queue.name,
        declare=tuple(declaration(queue, conf)),
        exchange=queue.exchange.name if queue.exchange is not None else "",
        exchange_type=queue.exchange.type if queue.exchange is not None else "direct",
        routing_key=queue.routing_key or "",
        consumer_arguments=dict(queue.consumer_arguments or {}),
    )


def named(
    name: str,
    settings: Mapping[str, Any],
    *,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
) -> WorkerQueue:
    """Return the queue of this name as the settings have it, else a new one, bound as said.

    Raises ImproperlyConfigured, Unroutable when the settings forbid to create it.
    """
    # Given as values, so the environment does not come into it a second time.
    conf = Config({key: value for key, value in settings.items() if key.startswith(SHAPING)}, environ={})
    if exchange:
        key = routing_key or name
        chosen = Queue(name, Exchange(exchange, exchange_type or "direct"), key)
        conf.update(task_queues=[chosen])
    return consumed(Router(conf).queue(name), conf)
