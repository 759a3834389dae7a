"""One queue of the in-process broker: its messages in order, its limits, and the consumers that it serves.

Pure bookkeeping under the broker's lock: routes nothing, knows neither exchanges nor event loops. What leaves
the queue other than by delivery is handed to `discard`, which dead-letters it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from amqptasks.amqp import Queue

Reason = str
"""Why a message left its queue undelivered: rejected, expired, maxlen, delivery_limit (RabbitMQ's words)."""


@dataclass(slots=True, eq=False)
class Stored:
    """A message in a queue. `place` orders it among its equals and is kept when it is given back."""

    exchange: str
    routing_key: str
    header: bytes
    body: bytes
    priority: int = 0
    expires_at: float | None = None
    place: int = 0
    returned: int = 0
    redelivered: bool = False

    @property
    def size(self) -> int:
        return len(self.body)


class Receiver(Protocol):
    """The channel end that a subscription writes to."""

    def deliver(self, subscription: Subscription, message: Stored) -> None: ...


@dataclass(slots=True, eq=False)
class Subscription:
    """One consumer of one queue. `held` counts what it was given and has not settled."""

    queue: MemoryQueue
    receiver: Receiver
    prefetch: int
    no_ack: bool
    exclusive: bool
    priority: int
    cancelled: Callable[[], None]
    held: int = 0

    @property
    def has_room(self) -> bool:
        return self.no_ack or not self.prefetch or self.held < self.prefetch


@dataclass(slots=True, eq=False)
class MemoryQueue:
    """A declared queue. `owner` is the link that an exclusive queue belongs to."""

    spec: Queue
    owner: object | None
    discard: Callable[[MemoryQueue, Stored, Reason], None]
    used_at: float
    subscriptions: list[Subscription] = field(default_factory=list)
    stuck: list[tuple[Stored, Reason]] = field(default_factory=list)
    """Dead letters that found no queue under `at-least-once`; tried again when the topology changes."""
    wake_at: float | None = None
    _ready: list[tuple[int, int, Stored]] = field(default_factory=list)
    _places: int = 0
    _bytes: int = 0

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def arguments(self) -> Mapping[str, Any]:
        return self.spec.arguments

    @property
    def quorum(self) -> bool:
        return self.arguments.get("x-queue-type") == "quorum"

    def __len__(self) -> int:
        return len(self._ready)

    def head(self) -> Stored | None:
        return self._ready[0][2] if self._ready else None

    # --- in ------------------------------------------------------------------------------------------

    def refuses(self, size: int) -> bool:
        """Whether `reject-publish` holds now for a message of `size` bytes."""
        if not str(self.arguments.get("x-overflow", "drop-head")).startswith("reject-publish"):
            return False
        return self._exceeds(len(self._ready) + len(self.stuck) + 1, self._bytes + size)

    def push(self, message: Stored) -> None:
        """Append behind its equals in priority."""
        self._places += 1
        message.place = self._places
        self._put(message)

    def give_back(self, message: Stored, *, counts: bool = True) -> None:
        """Requeue at its old place; over the delivery limit it becomes a dead letter."""
        message.redelivered = True
        message.returned += counts
        limit = self.arguments.get("x-delivery-limit")
        if self.quorum and limit is not None and message.returned > limit:
            self.discard(self, message, "delivery_limit")
            return
        self._put(message)

    def _put(self, message: Stored) -> None:
        heapq.heappush(self._ready, (-message.priority, message.place, message))
        self._bytes += message.size

    # --- out -----------------------------------------------------------------------------------------

    def pop(self) -> Stored:
        message = heapq.heappop(self._ready)[2]
        self._bytes -= message.size
        return message

    def purge(self) -> int:
        count = len(self._ready)
        self._ready.clear()
        self._bytes = 0
        return count

    def expire(self, now: float, *, inclusive: bool) -> None:
        """Drop what has expired at the head: as RabbitMQ, never from behind a message that has not."""
        while self._ready:
            due = self._ready[0][2].expires_at
            if due is None or due > now or (due == now and not inclusive):
                return
            self.discard(self, self.pop(), "expired")

    def trim(self) -> None:
        """`drop-head`: what is over the limits leaves at the head."""
        while self._ready and self._exceeds(len(self._ready), self._bytes):
            self.discard(self, self.pop(), "maxlen")

    def _exceeds(self, count: int, size: int) -> bool:
        arguments = self.arguments
        most, most_bytes = arguments.get("x-max-length"), arguments.get("x-max-length-bytes")
        return (most is not None and count > most) or (most_bytes is not None and size > most_bytes)

    # --- consumers -----------------------------------------------------------------------------------

    def serve(self, now: float) -> None:
        """Deliver while somebody has room, dropping what expired on the way."""
        while True:
            self.expire(now, inclusive=False)
            if not self._ready:
                return
            chosen = self._choose()
            if chosen is None:
                return
            message = self.pop()
            chosen.held += not chosen.no_ack
            chosen.receiver.deliver(chosen, message)

    def _choose(self) -> Subscription | None:
        """The next in turn, among those with room of the highest consumer priority."""
        candidates = self.subscriptions
        if self.arguments.get("x-single-active-consumer"):
            candidates = candidates[:1]
        best: Subscription | None = None
        for each in candidates:
            if each.has_room and (best is None or each.priority > best.priority):
                best = each
        if best is not None and len(candidates) > 1:
            self.subscriptions.remove(best)
            self.subscriptions.append(best)
        return best

    def next_due(self) -> float | None:
        """When this queue needs a look without being touched: its head expires, or its own lease ends."""
        head = self.head()
        times = [head.expires_at] if head is not None and head.expires_at is not None else []
        lease = self.arguments.get("x-expires")
        if lease is not None and not self.subscriptions:
            times.append(self.used_at + lease / 1000)
        return min(times, default=None)
