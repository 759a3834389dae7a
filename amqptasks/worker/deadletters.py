"""Dead letters that we publish ourselves: what cannot be run, or cannot be routed, with the reason on it.

A task's own `Reject` is not here: that is a `basic.reject`, and the broker's dead-lettering takes it. Pure: makes
parcels, publishes nothing. `exchange` is the dead-letter exchange (`task_dead_letter_exchange`).
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

from amqptasks import protocol, states
from amqptasks.amqp import Address, Delivery, Envelope, Parcel, Properties
from amqptasks.errors import (
    AmqptasksError,
    ContentDisallowed,
    EncodeError,
    MessageError,
    NotRegistered,
    WorkerLost,
)
from amqptasks.transport import codec

KILLS_TWICE = "children died while they wrote what follows from this task, the last by {}"


def refused(
    delivery: Delivery, exchange: str, *, reason: str, error: str, node: str, crashes: int = 0
) -> Parcel:
    """A copy of `delivery` for the dead-letter queue of the queue that it came from; body untouched."""
    properties = _readable(delivery.header)
    origin = Address(delivery.exchange, delivery.routing_key)
    headers = _reasons(reason, error, node, delivery.queue, origin)
    if crashes:
        headers[protocol.CRASHES] = crashes
    return _dead(properties, delivery.body, headers, Address(exchange, delivery.queue))


def buried(delivery: Delivery, exchange: str, error: str, node: str, serializer: str) -> tuple[Parcel, ...]:
    """Return the dead letter of what kills everybody who reads it; with a `serializer`, WorkerLost for its caller."""
    dead = refused(delivery, exchange, reason="crashed", error=error, node=node)
    answer = told(delivery, WorkerLost(error), serializer) if serializer else None
    return (dead,) if answer is None else (dead, answer)


def reason_of(error: Exception) -> str:
    """Return the word for why a message cannot be run."""
    match error:
        case NotRegistered():
            return "unknown"
        case ContentDisallowed():
            return "forbidden"
        case EncodeError() | MessageError():
            return "undecodable"
    return "refused"


def told(delivery: Delivery, error: Exception, serializer: str) -> Parcel | None:
    """FAILURE for the caller of what is refused without anybody having decoded it; None when it names no caller."""
    properties = _readable(delivery.header)
    if not properties.reply_to or not properties.correlation_id:
        return None
    body = {
        "task_id": properties.correlation_id,
        "status": states.FAILURE,
        "result": error,
        "traceback": None,
        "children": [],
        "date_done": datetime.now(UTC).isoformat(),
    }
    correlation_id = properties.correlation_id
    return codec.pack(
        protocol.encode_result(
            body, properties.reply_to, correlation_id=correlation_id, serializer=serializer
        )
    )


def forwarded(parcel: Parcel, exchange: str, *, reason: str, error: str, node: str) -> Parcel:
    """A parcel that found no queue, for the dead-letter queue named by its routing key."""
    origin = Address(parcel.exchange, parcel.routing_key)
    headers = _reasons(reason, error, node, parcel.routing_key, origin)
    return _dead(_readable(parcel.header), parcel.body, headers, Address(exchange, parcel.routing_key))


def _dead(properties: Properties, body: bytes, reasons: dict[str, object], to: Address) -> Parcel:
    kept = protocol.strip_broker_headers(properties.headers or {})
    reasons[protocol.DEATHS] = protocol.counted(kept, protocol.DEATHS) + 1
    # An expiration would let the dead letter expire as well, and a user id other than ours is refused (406).
    stamped = replace(properties, headers={**kept, **reasons}, expiration=None, user_id=None, delivery_mode=2)
    return codec.pack(Envelope(to, body, stamped, fate="raise"))


def _reasons(reason: str, error: str, node: str, queue: str, origin: Address) -> dict[str, object]:
    return {
        "x-amqptasks-reason": reason,
        "x-amqptasks-error": error[:2000],
        "x-amqptasks-queue": queue,
        "x-amqptasks-exchange": origin.exchange,
        "x-amqptasks-routing-key": origin.routing_key,
        "x-amqptasks-time": int(time.time()),
        "x-amqptasks-node": node,
    }


def _readable(header: bytes) -> Properties:
    """The properties, or none of them when the header itself is what cannot be read."""
    try:
        return codec.decode_header(header)
    except (AmqptasksError, ValueError, IndexError):
        return Properties()
