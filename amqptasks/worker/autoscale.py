"""Growing and shrinking the pool with its work: `worker --autoscale MAX,MIN`.

Reads how much runs and waits off the pool, now and then, so that a message costs nothing more. Knows neither queues
nor messages. What a worker holds is sized for MAX: were it sized for the children that there are, the messages that
call for more of them would never be seen.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from amqptasks.errors import ImproperlyConfigured
from amqptasks.worker.pools.base import Pool

logger = logging.getLogger(__name__)

LOOK = 0.1
"""Seconds between two looks at the pool."""
KEEPALIVE = 30.0
"""Seconds in which some slot must always have been free before the first one goes."""
STEP = 1.0
"""Seconds from one slot that goes to the next; less where the keepalive is shorter."""
VARIABLE = "AUTOSCALE_KEEPALIVE"
"""Celery's way to say how long, where the settings say nothing."""


class Autoscaler:
    """Keeps the pool between `least` and `most` slots. Used in the loop only.

    It grows at once by as much as waits; it shrinks by one slot at a time, and a slot that is busy ends after its run.
    """

    def __init__(
        self,
        pool: Pool,
        most: int,
        least: int,
        keepalive: float = KEEPALIVE,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.least = _checked(most, least)
        self.keepalive = keepalive
        self._pool = pool
        self._now = now
        self._shrink_at = now() + keepalive

    @classmethod
    def of(cls, limits: tuple[int, int] | None, settings: Mapping[str, Any], pool: Pool) -> Autoscaler | None:
        """Return the autoscaler of a pool that has started; None without limits.

        Raises ImproperlyConfigured for a pool that cannot, and for a keepalive that is no number.
        """
        if limits is None:
            return None
        if not pool.elastic:
            raise ImproperlyConfigured(
                "--autoscale is for the pools prefork and asyncio, whose slots come and go one by one; the "
                f"{pool.name} pool has a fixed size: leave it out, and say -c N"
            )
        return cls(pool, *limits, keepalive=_keepalive(settings))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self.look()
            except OSError as error:
                logger.error("the pool cannot have the size that its work asks for: %s", error)

    async def look(self) -> None:
        """Have as many slots as the work asks for now."""
        size, wanted, now = self._pool.size, self.wanted, self._now()
        if wanted >= size:
            self._shrink_at = now + self.keepalive
            grown = min(wanted, self.most)
            if grown > size:
                logger.info("Scaling up %d slots, to %d.", grown - size, grown)
                await self._pool.resize(grown)
        elif size > self.least and now >= self._shrink_at:
            self._shrink_at = now + min(STEP, self.keepalive)
            logger.info("Scaling down 1 slot, to %d.", size - 1)
            await self._pool.resize(size - 1)

    async def update(self, most: int | None, least: int | None) -> None:
        """Set other limits; None leaves one as it is. Raises ImproperlyConfigured, and changes nothing then."""
        self.most, self.least = _checked(
            self.most if most is None else most, self.least if least is None else least
        )
        size = min(max(self._pool.size, self.least), self.most)
        if size != self._pool.size:
            await self._pool.resize(size)

    @property
    def wanted(self) -> int:
        """Slots for all that runs and waits for one; calls that are not due, or over their rate, ask for none."""
        return len(self._pool.running) + self._pool.waiting

    def info(self) -> dict[str, int]:
        """Return what `stats` shows, with Celery's keys."""
        return {"max": self.most, "min": self.least, "current": self._pool.size, "qty": self.wanted}


def read_limits(text: str) -> tuple[int, int]:
    """Return (most, least) of "MAX,MIN" or "MAX"; a MIN of 0, as Celery's users write it, is 1. Raises ValueError."""
    most, _, least = text.partition(",")
    return _checked(int(most), int(least or 0))


def _checked(most: int, least: int) -> tuple[int, int]:
    least = max(1, least)
    if most < least:
        raise ImproperlyConfigured(
            f"at most {most} and at least {least}: MAX comes first, and is the larger one"
        )
    return most, least


def _keepalive(settings: Mapping[str, Any]) -> float:
    seconds = settings.get("worker_autoscale_keepalive")
    if seconds is not None:
        return float(seconds)
    text = os.environ.get(VARIABLE) or str(KEEPALIVE)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ImproperlyConfigured(f"{VARIABLE} is {text!r}; it must be a number of seconds above 0")
    return seconds
