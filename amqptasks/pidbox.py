"""Remote control on the wire of Celery's workers: the exchanges and queues, a command, its reply, the logical clock.

Pure: makes and reads values, does no I/O. Knows no command by name.
"""

from __future__ import annotations

import fnmatch
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amqptasks.amqp import (
    PERSISTENT,
    TRANSIENT,
    Address,
    Binding,
    Entity,
    Envelope,
    Exchange,
    Properties,
    Queue,
)
from amqptasks.errors import InvalidMessage

MATCHERS = ("glob", "pcre")


class Clock:
    """A Lamport clock: grows with every message sent, and beyond whatever is received."""

    def __init__(self) -> None:
        self.value = 0

    def forward(self) -> int:
        self.value += 1
        return self.value

    def adjust(self, other: Any) -> None:
        """Take in the clock of a message; what is no number is ignored."""
        if isinstance(other, int) and not isinstance(other, bool):
            self.value = max(self.value, other) + 1


@dataclass(frozen=True, slots=True)
class Request:
    """A command as it came: for whom, what, and where the reply goes."""

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    destination: tuple[str, ...] | None = None
    pattern: str | None = None
    matcher: str | None = None
    ticket: str = ""
    reply_to: Address | None = None
    clock: Any = None

    def is_for(self, node: str) -> bool:
        """Whether a node is meant: by its name, by the pattern, or because nobody is named."""
        if self.destination:
            return node in self.destination
        if self.pattern and self.matcher:
            return _matches(node, self.pattern, self.matcher)
        return True


def _matches(node: str, pattern: str, matcher: str) -> bool:
    if matcher == "glob":
        return fnmatch.fnmatchcase(node, pattern)
    try:
        return matcher == "pcre" and re.match(pattern, node) is not None
    except re.error:
        return False


# --- names -----------------------------------------------------------------------------------------------


def commands_exchange(settings: Mapping[str, Any]) -> Exchange:
    """The fanout that every worker's mailbox is bound to."""
    return Exchange(f"{settings['control_exchange']}.pidbox", "fanout", durable=False)


def replies_exchange(settings: Mapping[str, Any]) -> Exchange:
    return Exchange(f"reply.{settings['control_exchange']}.pidbox", "direct", durable=False)


def mailbox(node: str, settings: Mapping[str, Any]) -> tuple[Entity, ...]:
    """What a worker declares for its commands; the queue comes last but one."""
    exchange = commands_exchange(settings)
    queue = _queue(f"{node}.{exchange.name}", settings)
    return exchange, queue, Binding(exchange.name, queue.name)


def reply_box(oid: str, settings: Mapping[str, Any]) -> tuple[Exchange, Queue, Binding]:
    """What a client declares for the replies to it."""
    exchange = replies_exchange(settings)
    queue = _queue(f"{oid}.{exchange.name}", settings)
    return exchange, queue, Binding(exchange.name, queue.name, oid)


def _queue(name: str, settings: Mapping[str, Any]) -> Queue:
    return Queue(
        name,
        durable=settings["control_queue_durable"],
        exclusive=settings["control_queue_exclusive"],
        auto_delete=True,
        arguments={
            "x-message-ttl": int(settings["control_queue_ttl"] * 1000),
            "x-expires": int(settings["control_queue_expires"] * 1000),
        },
    )


# --- messages --------------------------------------------------------------------------------------------


def command(request: Request, settings: Mapping[str, Any], *, clock: int, timeout: float) -> Envelope:
    """Return the message of a command. It may find no worker, which is no error: the reply is missing then."""
    body: dict[str, Any] = {
        "method": request.method,
        "arguments": dict(request.arguments),
        "destination": list(request.destination) if request.destination is not None else None,
        "pattern": request.pattern,
        "matcher": request.matcher,
    }
    if request.reply_to is not None:
        reply_to = {"exchange": request.reply_to.exchange, "routing_key": request.reply_to.routing_key}
        body |= {"ticket": request.ticket, "reply_to": reply_to}
    headers = {"clock": clock, "expires": time.time() + timeout if timeout else 0}
    address = Address(commands_exchange(settings).name, "")
    return _json(address, body, headers, PERSISTENT)


def reply(node: str, answer: Any, request: Request, *, clock: int) -> Envelope:
    """Return the message of a node's answer; it is dropped if the client is gone."""
    assert request.reply_to is not None
    return _json(request.reply_to, {node: answer}, {"ticket": request.ticket, "clock": clock}, TRANSIENT)


def _json(address: Address, body: Any, headers: Mapping[str, Any], mode: int) -> Envelope:
    properties = Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers=headers,
        delivery_mode=mode,
        priority=0,
    )
    return Envelope(address, json.dumps(body, default=repr).encode(), properties, "drop")


def read_command(envelope: Envelope) -> Request:
    """Raises InvalidMessage for what is no command."""
    body = read_json(envelope)
    if not isinstance(body, Mapping) or not isinstance(body.get("method"), str):
        raise InvalidMessage("a message of remote control names no method")
    arguments, destination = body.get("arguments") or {}, body.get("destination")
    if not isinstance(arguments, Mapping):
        raise InvalidMessage(f"the arguments of the command {body['method']} are no mapping")
    return Request(
        method=body["method"],
        arguments=dict(arguments),
        destination=_names(destination),
        pattern=body.get("pattern"),
        matcher=body.get("matcher"),
        ticket=str(body.get("ticket") or ""),
        reply_to=_address(body.get("reply_to")),
        clock=(envelope.properties.headers or {}).get("clock"),
    )


def _names(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,)
    return tuple(map(str, value)) if isinstance(value, Sequence) else None


def _address(value: Any) -> Address | None:
    if not isinstance(value, Mapping) or not value.get("routing_key"):
        return None
    return Address(str(value.get("exchange") or ""), str(value["routing_key"]))


def read_json(envelope: Envelope) -> Any:
    """Return the body. Raises InvalidMessage; only JSON is accepted, which cannot run anything."""
    kind = envelope.properties.content_type
    if kind != "application/json":
        raise InvalidMessage(f"a message of remote control has the content type {kind!r}; only JSON is read")
    try:
        return json.loads(envelope.body)
    except ValueError as error:
        raise InvalidMessage(f"a message of remote control is no JSON: {error}") from error
