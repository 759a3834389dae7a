"""AMQP 0-9-1 as frozen values: what is declared, where a message goes, what is in it, what came out of a queue.

Knows nothing of tasks and does no I/O. Terms are those of the AMQP 0-9-1 specification and of RabbitMQ's
documentation. Every value may be shared between threads and pickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from amqptasks.values import quick

Arguments = Mapping[str, Any]
NO_ARGUMENTS: Arguments = MappingProxyType({})

TRANSIENT = 1
PERSISTENT = 2


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange to declare. The empty name is the default exchange, which is never declared."""

    name: str
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Binding:
    """`destination` receives what arrives at `source` and matches `routing_key` (or `arguments`, for headers)."""

    source: str
    destination: str
    routing_key: str = ""
    kind: Literal["queue", "exchange"] = "queue"
    arguments: Arguments = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue to declare, exactly as it goes over the wire; `arguments` includes `x-queue-type`."""

    name: str
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Arguments = field(default_factory=dict)


Entity = Exchange | Queue | Binding


@quick
@dataclass(frozen=True, slots=True)
class Address:
    """Where a message is published: an exchange (empty: the default one) and a routing key."""

    exchange: str
    routing_key: str

    def __str__(self) -> str:
        return f"{self.exchange or '(default)'}/{self.routing_key}"


@quick
@dataclass(frozen=True, slots=True)
class Properties:
    """The basic class's properties (AMQP 0-9-1, 1.8.3). `expiration` is milliseconds as text, `timestamp` seconds."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


Fate = Literal["raise", "drop", "dead", "count", "event", "part"]
"""What becomes of an unroutable message: tell the caller, forget it (a result whose client is gone), put it into
the dead-letter queue, or publish it again until there is a queue (a count of a chord, which others may stand
for). Of a chord's part it must be asked why: see `late_parts`.
The broker is not even asked to send back an event that nobody listens to: it would come back as a whole."""


@quick
@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its address, ready to be published. Always confirmed, and `mandatory` unless it is an event."""

    address: Address
    body: bytes
    properties: Properties
    fate: Fate = "raise"


@quick
@dataclass(frozen=True, slots=True)
class Parcel:
    """An envelope encoded once, by whoever made it, so that the I/O side only frames bytes.

    `header` is the content header's payload after class, weight and body size: property flags and property list.
    `message_id` matches a returned message to its publish.
    """

    exchange: str
    routing_key: str
    header: bytes
    body: bytes
    message_id: str
    fate: Fate = "raise"

    @property
    def size(self) -> int:
        """Bytes that this message occupies while it waits for its confirm."""
        return len(self.header) + len(self.body)


@quick
@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it came out of a queue; `header` is undecoded (see `Parcel`), so the parent never pays for it.

    `tag` is valid only on the channel, of the `generation`, that delivered it.
    """

    queue: str
    tag: int
    generation: int
    redelivered: bool
    exchange: str
    routing_key: str
    header: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """What a (passive) declare answers: ready messages and consumers; unacknowledged messages are not counted."""

    name: str
    messages: int
    consumers: int
