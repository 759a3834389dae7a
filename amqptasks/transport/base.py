"""The transport contracts: one live connection on an event loop (`Link`), and the blocking client (`Connection`).

A `Link` lives once: when it is lost it stays lost, and its consumers' tags are void. Reconnecting is the
business of those who hold one (`Publisher`, `BlockingConnection`, the worker's consumer). Knows AMQP and bytes;
knows nothing of tasks, serializers or results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from amqptasks.amqp import Arguments, Delivery, Entity, Envelope, Parcel, QueueInfo
from amqptasks.errors import TransportError

Done = Callable[[TransportError | None], None]
"""Called once a message's fate is known: None when the broker has it in a queue, else the reason."""

OnDelivery = Callable[[Delivery], None]
OnCancel = Callable[[TransportError], None]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the broker said of itself when the connection opened."""

    product: str = ""
    version: str = ""
    host: str = ""
    port: int = 0
    capabilities: Mapping[str, Any] = field(default_factory=dict)

    @property
    def version_tuple(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split("-")[0].split(".") if part.isdigit())


class Consumer(Protocol):
    """One consumer on a channel of its own. Tags belong to this channel; `generation` tells channels apart."""

    queue: str
    generation: int
    prefetch: int

    def ack(self, tag: int, multiple: bool = False) -> None:
        """Acknowledge `tag`, with `multiple` also every earlier one. Does nothing once the channel is gone."""

    def reject(self, tag: int, requeue: bool) -> None:
        """`basic.reject`: requeue, or give to the queue's dead-letter exchange. Nothing once the channel is gone."""

    def nack(self, tag: int) -> None:
        """Give back what never ran: `basic.nack` with requeue, which RabbitMQ 4.3 does not count as a failure."""

    async def renew(self, prefetch: int) -> None:
        """Consume with another prefetch: cancel and consume again on the same channel; unacked tags stay valid."""

    async def fence(self) -> None:
        """Return once everything has been taken that the broker had sent before: one round trip on this channel."""

    async def cancel(self) -> None:
        """Deliver nothing more. What is unacknowledged stays with this consumer and may still be settled."""

    async def close(self) -> None:
        """Close the channel; the broker takes back what is unacknowledged."""


class Link(Protocol):
    """One live connection, used from its event loop's thread only.

    Every call that waits takes at most the connection's timeout and raises `ConnectionLost` when the link ends.
    """

    server: ServerInfo
    lost: asyncio.Future[TransportError]
    """Done, with the reason as its *result*, when the connection has ended, whoever ended it."""

    blocked: str | None
    """The broker's reason while `connection.blocked` is in force, else None."""

    on_blocked: Callable[[str | None], None] | None
    """Called from the loop each time `blocked` has changed; for whoever posts, to set."""

    def post(self, parcel: Parcel, done: Done) -> None:
        """Publish with `mandatory` on the confirm channel; written once per loop turn. Never blocks.

        `done` is called from the loop, once: with None, or with Unroutable, Nacked, TooLarge, NotFound,
        AccessRefused, or ConnectionLost when the link ended first (then the message may or may not be there).
        A channel error is the offender's alone: its neighbours are published again on a new channel.
        """

    def flush(self) -> None:
        """Write what is posted now, rather than at the end of the loop turn: for who has posted all there is."""

    async def declare(self, *entities: Entity, passive: bool = False) -> list[QueueInfo]:
        """Declare in order on a disposable channel; return an info for each queue among `entities`.

        Raises NotFound, TopologyMismatch, ResourceLocked, AccessRefused, ChannelClosed.
        """

    async def purge(self, queue: str) -> int:
        """Remove the ready messages; return how many. Raises NotFound."""

    async def delete_queue(self, queue: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue; return how many messages went with it. A missing queue is no error (0)."""

    async def get(self, queue: str) -> Delivery | None:
        """`basic.get` without ack; None when empty. For tools, never for consuming."""

    async def consume(
        self,
        queue: str,
        on_delivery: OnDelivery,
        on_cancel: OnCancel,
        *,
        prefetch: int,
        tag: str = "",
        no_ack: bool = False,
        exclusive: bool = False,
        arguments: Arguments | None = None,
    ) -> Consumer:
        """Start a consumer on a channel of its own, with per-consumer `basic.qos`.

        `on_cancel` is called once when the broker cancels it or closes its channel (queue deleted, consumer
        timeout), not when the whole link is lost: that is what `lost` is for.
        """

    async def close(self) -> None:
        """Close cleanly, within the timeout; `lost` is done afterwards."""

    def fileno(self) -> int:
        """The socket's descriptor, which a forked child closes without a word to the broker; -1 without one."""


Connect = Callable[[], Awaitable[Link]]
"""Opens a link to the first host that answers; raises the tree below BrokerUnavailable."""


class Connection(Protocol):
    """The blocking side, for clients: thread-safe, opened on first use, reopened after a loss and after fork."""

    def publish(self, envelopes: Sequence[Envelope], timeout: float | None = None) -> None:
        """Return when ALL are confirmed and routed: a batch costs one round trip.

        Raises Unroutable, Nacked, TooLarge, BrokerBlocked, PublishTimeout, BrokerUnavailable, ConnectionLost.
        """

    def declare(self, *entities: Entity, passive: bool = False) -> list[QueueInfo]:
        """As `Link.declare`, blocking."""

    def close(self, timeout: float | None = None) -> None:
        """Wait for what is unconfirmed, then close."""
