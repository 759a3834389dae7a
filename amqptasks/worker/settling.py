"""Settling deliveries: acks gathered for a moment, `multiple` for the contiguous prefix, single acks for the rest.

Knows tags and one transport consumer; knows nothing of tasks, pools or results. Prefix acks alone would let short
tasks wait behind one long one (their prefetch slots stay taken); single acks alone cost a frame each, and RabbitMQ a
quorum queue's log entry. Used from the loop's thread only.
"""

from __future__ import annotations

import asyncio

from amqptasks.transport.base import Consumer

PATIENCE = 0.001
"""Seconds that acks are gathered where the prefetch leaves room for it; else they go at the end of the loop turn."""
PART = 4
"""The part of the prefetch, one in so many, at which they go at once: the broker must not run out of credit."""
MOST = 64
"""Acks that are gathered at most."""
ROOMY = 32
"""The prefetch from which gathering costs nobody a message."""


class Settler:
    """Settles the deliveries of one consumer (one channel, one generation)."""

    def __init__(self, consumer: Consumer, loop: asyncio.AbstractEventLoop) -> None:
        self._consumer = consumer
        self._loop = loop
        self._prefix = 0  # every tag up to here is settled
        self._beyond: set[int] = set()  # settled tags above the prefix
        self._fresh: list[int] = []  # to be acknowledged soon
        self._scheduled = False

    def ack(self, tag: int) -> None:
        """Acknowledge soon: at the latest after `PATIENCE` seconds."""
        fresh = self._fresh
        fresh.append(tag)
        prefetch = self._consumer.prefetch
        if prefetch < ROOMY:
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._flush_in_time)
            return
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_later(PATIENCE, self._flush_in_time)
        if len(fresh) >= MOST or len(fresh) * PART >= prefetch:
            self.flush()

    def reject(self, tag: int) -> None:
        """`basic.reject` without requeue, now: the queue's dead-letter exchange takes the message."""
        self._consumer.reject(tag, requeue=False)
        self._beyond.add(tag)

    def requeue(self, tag: int, failed: bool) -> None:
        """Give back, now: `basic.reject` counts as a failed delivery, `basic.nack` (RabbitMQ 4.3) does not."""
        if failed:
            self._consumer.reject(tag, requeue=True)
        else:
            self._consumer.nack(tag)
        self._beyond.add(tag)

    @property
    def gathered(self) -> int:
        """Deliveries that are settled here and not yet on the broker."""
        return len(self._fresh)

    def _flush_in_time(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Send what is gathered."""
        fresh, self._fresh = self._fresh, []
        if not fresh:
            return
        beyond, prefix = self._beyond, self._prefix
        beyond.update(fresh)
        while prefix + 1 in beyond:
            prefix += 1
            beyond.discard(prefix)
        self._prefix = prefix
        # `multiple` must name a tag that is still unacknowledged, else RabbitMQ closes the channel (406); tags
        # between it and the prefix's end were acknowledged singly before.
        covered = [tag for tag in fresh if tag <= prefix]
        if covered:
            self._consumer.ack(max(covered), multiple=True)
        for tag in fresh:
            if tag > prefix:
                self._consumer.ack(tag)
