"""The `x-death` headers that the in-process broker writes on dead letters, as RabbitMQ does. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from amqptasks.amqp import Properties
from amqptasks.transport.codec import decode_header, encode_header
from amqptasks.transport.memory_queue import Reason, Stored


def died(message: Stored, queue: str, reason: Reason) -> bytes:
    """Return the dead letter's header: the event counted first in `x-death`, and no expiration any more."""
    properties = decode_header(message.header)
    headers = {name: value for name, value in (properties.headers or {}).items() if name != "CC"}
    deaths = [dict(each) for each in headers.get("x-death") or ()]
    event = _take(deaths, queue, reason) or _event(message, properties, queue, reason)
    event["count"] += 1
    headers["x-death"] = [event, *deaths]
    for name, value in (("reason", reason), ("queue", queue), ("exchange", message.exchange)):
        headers.setdefault(f"x-first-death-{name}", value)
        headers[f"x-last-death-{name}"] = value
    return encode_header(replace(properties, headers=headers, expiration=None))


def dies_in_circles(header: bytes, queue: str, reason: Reason) -> bool:
    """Whether a dead letter returns to a queue that it left before, with nobody having rejected it since."""
    if reason == "rejected":
        return False
    for event in (decode_header(header).headers or {}).get("x-death") or ():
        if event["reason"] == "rejected":
            return False
        if event["queue"] == queue:
            return True
    return False


def _take(deaths: list[dict[str, Any]], queue: str, reason: Reason) -> dict[str, Any] | None:
    for number, event in enumerate(deaths):
        if (event.get("queue"), event.get("reason")) == (queue, reason):
            return deaths.pop(number)
    return None


def _event(message: Stored, properties: Properties, queue: str, reason: Reason) -> dict[str, Any]:
    event: dict[str, Any] = {
        "count": 0,
        "reason": reason,
        "queue": queue,
        "time": datetime.now(UTC).replace(microsecond=0),
        "exchange": message.exchange,
        "routing-keys": [message.routing_key, *((properties.headers or {}).get("CC") or ())],
    }
    if properties.expiration is not None:
        event["original-expiration"] = properties.expiration
    return event
