"""Settling deliveries: acks gathered per loop turn, `multiple` for the contiguous prefix, single acks for the rest.

Knows tags and one transport consumer; knows nothing of tasks, pools or results. Prefix acks alone would let short
tasks wait behind one long one (their prefetch slots stay taken); single acks alone cost a frame each. Used from the
loop's thread only.
"""

from __future__ import annotations

import asyncio

from amqptasks.transport.base import Consumer


class Settler:
    """Settles the deliveries of one consumer (one channel, one generation)."""

    def __init__(self, consumer: Consumer, loop: asyncio.AbstractEventLoop) -> None:
        self._consumer = consumer
        self._loop = loop
        self._prefix = 0  # every tag up to here is settled
        self._beyond: set[int] = set()  # settled tags above the prefix
        self._fresh: list[int] = []  # to be acknowledged at the end of this loop turn
        self._scheduled = False

    def ack(self, tag: int) -> None:
        """Acknowledge at the end of this loop turn."""
        self._fresh.append(tag)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

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

    def flush(self) -> None:
        """Send what is gathered."""
        self._scheduled = False
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
