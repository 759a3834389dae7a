"""What a worker has held for too long without starting it goes back, by the ladder, for others to take.

RabbitMQ closes the channel of a consumer that leaves a message unacknowledged for `consumer_timeout` (30 minutes
unless changed), and with it everything else that this worker holds. So at half of that a message that waits behind
long tasks is published anew, confirmed, and acknowledged: unlike a requeue that costs it no delivery of its
`x-delivery-limit`, and it does not come straight back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from amqptasks import delay
from amqptasks.errors import AmqptasksError
from amqptasks.transport import codec
from amqptasks.transport.base import Link
from amqptasks.worker.copies import copied
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.flight import Flight
from amqptasks.worker.outcome import Outcome
from amqptasks.worker.topology import declare

logger = logging.getLogger(__name__)

AWAY = delay.SHORTEST
"""Seconds that an overdue message spends on the ladder: long enough for an idle worker to be the next to get it."""


class Overdue:
    """Looks after what waits. `limit` is the broker's `consumer_timeout` in seconds."""

    def __init__(self, dispatch: Dispatch, link: Callable[[], Link | None], limit: float) -> None:
        self._dispatch = dispatch
        self._link = link
        self._age = limit / 2
        self._told: set[str] = set()

    async def run(self) -> None:
        """Give back what is overdue, until cancelled."""
        while True:
            await asyncio.sleep(min(60.0, self._age / 5))
            link = self._link()
            if link is None or link.lost.done():
                continue
            for flight in self._dispatch.take_overdue(self._age):
                await self._postpone(link, flight)

    async def _postpone(self, link: Link, flight: Flight) -> None:
        try:
            envelope, ladder = delay.delayed(copied(flight.delivery), AWAY, flight.delivery.queue)
            await declare(link, ladder, self._told)
        except AmqptasksError as error:
            logger.warning("%s cannot be given back: %s; it waits on", flight.identity, error)
            self._dispatch.wait_on(flight)
            return
        logger.info("%s has waited here for %d s and is given back", flight.identity, self._age)
        self._dispatch.counters.returned += 1
        self._dispatch.finished(flight.key, Outcome(publish=(codec.pack(envelope),)))
