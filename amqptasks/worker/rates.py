"""Rate limits: how many runs of a task a worker starts in a second, a minute or an hour.

A token bucket that holds one, for each task. A run takes its token when the pool gets it; until then it waits in the
parent: no slot is taken, and what waits is bounded by the prefetch. Knows runs and the clock; nothing of tasks,
pools or brokers.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Collection
from itertools import chain

from amqptasks.errors import ImproperlyConfigured
from amqptasks.worker.outcome import Run

LATE = 0.25
"""Seconds by which a turn may come late and the next ones still come when they were due. What is lost beyond that,
as while the machine sleeps, is not made up for by a burst."""
AGAIN = 0.02
"""Seconds until another look whether the pool has started what it got."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*([smh]))?\s*")


def per_second(rate: str | float | None) -> float:
    """Runs a second; 0: no limit. A number is for a second, as "10" and "10/s" are; then "10/m" and "10/h".

    Raises ImproperlyConfigured.
    """
    if rate is None:
        return 0.0
    if isinstance(rate, int | float) and not isinstance(rate, bool) and 0 <= rate < float("inf"):
        return float(rate)
    found = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    if found is None:
        raise ImproperlyConfigured(f'{rate!r} is no rate; a rate is like "10/s", "100/m", "1000/h" or 10')
    number, unit = found.groups()
    return float(number) / _UNITS[unit or "s"]


def told(rate: float) -> str:
    """Return the rate a second in the unit in which it is a whole number, as whoever set it will have written it."""
    for unit, seconds in _UNITS.items():
        if abs(rate * seconds - round(rate * seconds)) < 1e-6 * rate * seconds:
            return f"{round(rate * seconds)}/{unit}"
    return f"{rate:g}/s"


class Turns:
    """The runs of one task that wait for their turn. Used in the loop only.

    `go` gets each run when its turn has come. `started` says of a key whether that run has started, or is over: what
    the pool holds without having started it holds the next ones up, so that they do not all start at once when a long
    task makes room.
    """

    def __init__(self, rate: float, go: Callable[[Run], None], started: Callable[[int], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._go = go
        self._started = started
        self._waiting: deque[Run] = deque()
        self._gone: deque[int] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._last = float("-inf")
        self._next = float("-inf")
        self._set(rate)

    def _set(self, rate: float) -> None:
        self.rate = rate
        self._interval = 1.0 / rate
        self._most_gone = max(1, int(rate * LATE))

    def change(self, rate: float) -> None:
        """Another rate, which counts from the last run on."""
        self._set(rate)
        self._next = max(self._last + self._interval, self._loop.time())
        self._arm()

    def add(self, run: Run) -> None:
        """Take a run: it goes at once if a turn is free and no other waits."""
        now = self._loop.time()
        if not self._waiting and self._next < now and not self._is_crowded():
            self._next = now
            self._let_go(run)
        else:
            self._waiting.append(run)
            if self._timer is None:
                self._arm()

    def take_back(self, keys: Collection[int] | None = None) -> list[Run]:
        """Take out those that wait; only those in `keys`, if given."""
        taken = [run for run in self._waiting if keys is None or run.key in keys]
        self._waiting = deque(run for run in self._waiting if keys is not None and run.key not in keys)
        self._arm()
        return taken

    def __len__(self) -> int:
        return len(self._waiting)

    def _turn(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._waiting and self._next <= now:
            if self._is_crowded():
                self._next = now + min(AGAIN, self._interval)
                break
            self._next = max(self._next, now - LATE)
            self._let_go(self._waiting.popleft())
        self._arm()

    def _let_go(self, run: Run) -> None:
        """Its turn was due at `_next`: the one after follows from that, so that small delays do not add up."""
        self._last = self._next
        self._next += self._interval
        self._gone.append(run.key)
        self._go(run)

    def _is_crowded(self) -> bool:
        gone = self._gone
        while gone and self._started(gone[0]):
            gone.popleft()
        return len(gone) >= self._most_gone

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._timer = self._loop.call_at(self._next, self._turn)


class Rates:
    """The turns of every task that has a rate limit, by the task's name."""

    def __init__(self, go: Callable[[Run], None], started: Callable[[int], bool]) -> None:
        self._go = go
        self._started = started
        self.turns: dict[str, Turns] = {}

    def change(self, task: str, rate: float) -> None:
        """Limit a task to `rate` runs a second; 0 lifts its limit, and what waited goes at once."""
        turns = self.turns.get(task)
        if rate > 0 and turns is not None:
            turns.change(rate)
        elif rate > 0:
            self.turns[task] = Turns(rate, self._go, self._started)
        elif turns is not None:
            del self.turns[task]
            for run in turns.take_back():
                self._go(run)

    def add(self, task: str, run: Run) -> None:
        self.turns[task].add(run)

    def take_back(self, keys: Collection[int] | None = None) -> list[Run]:
        """Take out those that wait for their turn; only those in `keys`, if given."""
        return list(chain.from_iterable(turns.take_back(keys) for turns in self.turns.values()))

    def __contains__(self, task: str) -> bool:
        return task in self.turns

    def __len__(self) -> int:
        """Runs that wait."""
        return sum(map(len, self.turns.values()))
