"""How many messages a consumer may hold: fixed by a number, or adapted to how long tasks run.

Pure arithmetic over counts and seconds; the consumer applies it. RabbitMQ fixes a consumer's prefetch when it starts
to consume (per-consumer `basic.qos`), so a change costs a cancel and a consume, and must be worth it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WORK_AHEAD = 0.1
"""Seconds of work a worker wants to hold: enough to hide the broker's round trip, too little to hoard."""
MOST = 1000
"""Messages; beyond a few hundred RabbitMQ delivers no faster (docs/explanation/prefetch.md)."""
LONG = 0.5
"""Seconds of run time from which a task's messages are better left on the broker."""
CALM = 2.0
"""Seconds in which far too much must be held before it is less."""


@dataclass(slots=True)
class Prefetch:
    """The prefetch of one queue. `multiplier` None adapts; a number means `slots * multiplier` for ever (0: no limit).

    `observe` is told every `interval` seconds what happened since the last time and answers the value to use.
    """

    slots: int
    multiplier: int | None = None
    value: int = 0
    _calm: float = 0.0

    def __post_init__(self) -> None:
        self.value = self.initial()

    def initial(self) -> int:
        """What to consume with before anything is known: one for each slot and one to hand over next."""
        if self.multiplier is not None:
            return self.slots * self.multiplier
        return self.slots * 2 if self.slots < MOST else self.slots

    def resize(self, slots: int) -> bool:
        """There are so many slots now; True when `value` has changed with them."""
        before, self.slots = self.value, slots
        self.value = self.initial() if self.multiplier is not None else max(before, slots)
        return self.value != before

    def observe(
        self, *, finished: int, interval: float, full: bool, longest_running: float, early: int = 0
    ) -> int:
        """`finished` runs in `interval` seconds; `full`: held as many as allowed; `longest_running` in seconds.

        `early` are held without work, for the rest of a second: they must not keep those away that are due.
        """
        if self.multiplier is not None:
            return self.value
        if longest_running >= LONG and finished * LONG <= self.slots * interval * 2:
            return self._with_long_tasks(early)
        work = max(self.slots * 2, math.ceil(finished / interval * WORK_AHEAD * 2))
        wanted = min(MOST, work + early * 2)
        if full and wanted > self.value:
            self._calm = 0.0
            # What is held bounds what is seen; so grow at least fourfold toward what may be possible.
            return self._set(min(MOST, max(wanted, self.value * 4)))
        if finished and wanted * 8 < self.value:
            self._calm += interval
            if self._calm >= CALM:
                return self._set(wanted * 2)
        else:
            self._calm = 0.0
        return self.value

    def _with_long_tasks(self, early: int) -> int:
        if early and self.slots + early <= self.value <= self.slots + early * 8:
            return self.value  # each change costs a consumer
        return self._set(min(MOST, self.slots + early * 2))

    def _set(self, value: int) -> int:
        self._calm = 0.0
        self.value = value
        return value
