"""Entities as AMQP methods. Pure."""

from __future__ import annotations

from typing import Any

from pika import spec

from amqptasks.amqp import Binding, Entity, Exchange, Queue


def declaration(entity: Entity, *, passive: bool) -> Any:
    """Return the method that declares `entity`; a binding cannot be asked for passively."""
    arguments = dict(entity.arguments)
    match entity:
        case Exchange():
            return spec.Exchange.Declare(
                exchange=entity.name,
                type=entity.type,
                passive=passive,
                durable=entity.durable,
                auto_delete=entity.auto_delete,
                internal=entity.internal,
                arguments=arguments,
            )
        case Queue():
            return spec.Queue.Declare(
                queue=entity.name,
                passive=passive,
                durable=entity.durable,
                exclusive=entity.exclusive,
                auto_delete=entity.auto_delete,
                arguments=arguments,
            )
        case Binding(kind="queue"):
            return spec.Queue.Bind(
                queue=entity.destination,
                exchange=entity.source,
                routing_key=entity.routing_key,
                arguments=arguments,
            )
        case _:
            return spec.Exchange.Bind(
                destination=entity.destination,
                source=entity.source,
                routing_key=entity.routing_key,
                arguments=arguments,
            )


def label(entity: Entity) -> str:
    """Return what an error calls it."""
    if isinstance(entity, Binding):
        return f"the binding of {entity.destination!r} to {entity.source!r}"
    return f"{'exchange' if isinstance(entity, Exchange) else 'queue'} {entity.name!r}"
