"""What a worker has held for too long without starting it goes back, by the ladder, for others to take.

RabbitMQ closes the channel of a consumer that leaves a message unacknowledged for `consumer_timeout` (30 minutes
unless changed), and with it everything else that this worker holds. So at half of that a message that waits behind
long tasks, or for its turn under a rate limit, is published anew, confirmed, and acknowledged: unlike a requeue that
costs it no delivery of its `x-delivery-limit`, and it does not come straight back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from amqptasks import delay
from amqptasks.errors import AmqptasksError
from amqptasks.transport import codec
from amqptasks.transport.base import Link
from amqptasks.worker.admission import fields_of
from amqptasks.worker.copies import climbing
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.outcome import Outcome, Run
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
            for run in self.take():
                await self._postpone(link, run)

    def take(self) -> list[Run]:
        """Take out of the worker what came too long ago and has not started."""
        latest = asyncio.get_running_loop().time() - self._age
        waiting = {
            key
            for key, flight in self._dispatch.flights.items()
            if flight.since < latest and not flight.started and not flight.void
        }
        return self._dispatch.take_back(waiting) if waiting else []

    async def _postpone(self, link: Link, run: Run) -> None:
        name = fields_of(run.delivery).get("id", "a message")
        try:
            envelope, ladder = delay.delayed(climbing(run.delivery), AWAY, run.delivery.queue)
            await declare(link, ladder, self._told)
        except AmqptasksError as error:
            logger.warning("%s cannot be given back: %s; it waits on", name, error)
            self._dispatch.wait_on(run)
            return
        logger.info("%s has waited here for %d s and is given back", name, self._age)
        self._dispatch.counters.returned += 1
        self._dispatch.finished(run.key, Outcome(publish=(codec.pack(envelope),)))
