"""A lane: one queue this worker consumes, with its consumer, its settler and its prefetch.

Lives as long as its channel; after a loss there is a new lane for the same queue. Knows no tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from amqptasks.amqp import Delivery, Queue
from amqptasks.errors import AmqptasksError, TransportError
from amqptasks.transport import codec
from amqptasks.transport.base import Consumer
from amqptasks.worker.outcome import WorkerQueue
from amqptasks.worker.prefetch import Prefetch
from amqptasks.worker.settling import Settler

DELIVERIES = "x-delivery-count"
"""The broker's header: how often a message of a quorum queue has come back to it."""


class Lane:
    """`held` counts unsettled deliveries, `finished` the runs that ended since the last look."""

    def __init__(
        self, queue: WorkerQueue, prefetch: Prefetch, receive: Callable[[Lane, Delivery], None]
    ) -> None:
        self.queue = queue
        self._receive = receive
        self._early: list[Delivery] | None = []
        self.prefetch = prefetch
        self.consumer: Consumer | None = None
        self.settler: Settler
        self.held = 0
        self.finished = 0
        self.was_full = False
        self.renewing = False
        self.ended: TransportError | None = None
        """Why the broker ended its consumer, once it has."""
        self.limit = _delivery_limit(queue)
        """How often the broker delivers a message again; None: nobody here knows."""

    def take(self, delivery: Delivery) -> None:
        """The consumer's callback. The broker may deliver before `consume` has returned: those wait for `attach`."""
        if self._early is None:
            self._receive(self, delivery)
        else:
            self._early.append(delivery)

    def attach(self, consumer: Consumer, loop: asyncio.AbstractEventLoop) -> None:
        self.consumer = consumer
        self.settler = Settler(consumer, loop)
        early, self._early = self._early or [], None
        for delivery in early:
            self._receive(self, delivery)

    def spent(self, delivery: Delivery) -> str:
        """Say that the broker would not deliver this once more; empty while it would, or nobody knows."""
        if self.limit is None or not delivery.redelivered:
            return ""
        try:
            count = codec.select(delivery.header, (DELIVERIES,)).get(DELIVERIES)
        except (AmqptasksError, ValueError, IndexError):
            return ""
        if not isinstance(count, int) or count < self.limit:
            return ""
        return (
            f"it came back {count} times, from workers that died or gave it back, and the broker would not deliver "
            f"it again (x-delivery-limit {self.limit})"
        )

    def took(self) -> None:
        self.held += 1
        if self.held + self.settler.gathered >= self.prefetch.value:
            self.was_full = True

    def released(self) -> None:
        self.held -= 1

    async def adapt(self, interval: float, longest_running: float, early: int) -> int | None:
        """Look at the last `interval` seconds; consume anew with another prefetch if that pays. Returns it then.

        `early` deliveries are held until they are due.
        """
        finished, self.finished = self.finished, 0
        full, self.was_full = self.was_full, self.prefetch.value > 0 and self.held >= self.prefetch.value
        before = self.prefetch.value
        value = self.prefetch.observe(
            finished=finished, interval=interval, full=full, longest_running=longest_running, early=early
        )
        if value == before or self.consumer is None or self.renewing:
            return None
        self.renewing = True
        try:
            await self.consumer.renew(value)
        finally:
            self.renewing = False
        return value

    def __repr__(self) -> str:
        return f"<Lane {self.queue.name} | holds {self.held} of {self.prefetch.value}>"


def _delivery_limit(queue: WorkerQueue) -> int | None:
    for entity in queue.declare:
        if isinstance(entity, Queue) and entity.name == queue.name:
            limit = entity.arguments.get("x-delivery-limit")
            return limit if isinstance(limit, int) and limit >= 0 else None
    return None
