"""Events on the wire of Celery's monitors: their exchange, their fields, their message. Pure."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from amqptasks.amqp import TRANSIENT, Address, Binding, Entity, Envelope, Exchange, Properties, Queue
from amqptasks.errors import InvalidMessage


def utcoffset() -> float:
    """Hours west of Greenwich, now."""
    return -time.localtime().tm_gmtoff / 3600


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who sends: what every event of a process has in common."""

    hostname: str
    pid: int

    def event(self, kind: str, clock: int, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return an event that happens now."""
        return {
            "type": kind,
            "timestamp": time.time(),
            "hostname": self.hostname,
            "pid": self.pid,
            "clock": clock,
            "utcoffset": utcoffset(),
            **fields,
        }


def exchange(settings: Mapping[str, Any]) -> Exchange:
    return Exchange(settings["event_exchange"], "topic")


def receiving(
    oid: str, settings: Mapping[str, Any], routing_key: str = "#"
) -> tuple[Exchange, Queue, Entity]:
    """What a receiver declares. Its queue goes with it, and holds events for a few seconds only."""
    queue = Queue(
        f"{settings['event_queue_prefix']}.{oid}",
        durable=settings["event_queue_durable"],
        exclusive=settings["event_queue_exclusive"],
        auto_delete=True,
        arguments={
            "x-message-ttl": int(settings["event_queue_ttl"] * 1000),
            "x-expires": int(settings["event_queue_expires"] * 1000),
        },
    )
    source = exchange(settings)
    return source, queue, Binding(source.name, queue.name, routing_key)


def envelope(routing_key: str, body: bytes, hostname: str, settings: Mapping[str, Any]) -> Envelope:
    """Return the message of an event, or of a list of them: transient, and dropped if nobody listens."""
    properties = Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers={"hostname": hostname},
        delivery_mode=TRANSIENT,
        priority=0,
    )
    address = Address(settings["event_exchange"], routing_key)
    return Envelope(address, body, properties, "event")


def encoded(body: Any) -> bytes:
    """Return it as JSON, whatever it holds."""
    try:
        return orjson.dumps(body, default=repr)
    except TypeError:  # a number beyond 64 bits, a key that is no text
        return json.dumps(body, default=repr).encode()


def read(envelope: Envelope) -> Iterator[dict[str, Any]]:
    """Yield the events of a message. Raises InvalidMessage."""
    if envelope.properties.content_type != "application/json":
        raise InvalidMessage("an event is not JSON; set event_serializer to json where it comes from")
    try:
        body = json.loads(envelope.body)
    except ValueError as error:
        raise InvalidMessage(f"an event is no JSON: {error}") from error
    for event in body if isinstance(body, list) else [body]:
        if isinstance(event, dict) and isinstance(event.get("type"), str):
            yield event


def settings_of(conf: Any) -> Mapping[str, Any]:
    """Return the settings that this module reads, as they are now."""
    names = ("exchange", "queue_prefix", "queue_durable", "queue_exclusive", "queue_ttl", "queue_expires")
    return {f"event_{name}": conf[f"event_{name}"] for name in names}
