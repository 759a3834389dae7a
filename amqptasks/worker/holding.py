"""What waits in the parent before the pool gets it: for its last second until it is due, and for its rate limit's turn.

Holds no slot of the pool, but a place in the prefetch. Knows runs and times; settles nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from amqptasks.worker.outcome import Cause, Run
from amqptasks.worker.rates import Rates


class Holding:
    """Runs on their way to `go`. `started` says of a key whether that run has started, or is over.

    Used in the loop only.
    """

    def __init__(self, go: Callable[[Run], None], started: Callable[[int], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._go = go
        self._due: dict[int, tuple[str, Run, asyncio.TimerHandle]] = {}
        self.rates = Rates(go, started)

    def add(self, task: str, run: Run, wait: float = 0.0) -> None:
        """Hold a run of `task` for `wait` seconds, then until the task's rate limit lets it go."""
        if wait > 0:
            timer = self._loop.call_later(wait, self._is_due, run.key)
            self._due[run.key] = (task, run, timer)
        elif task in self.rates and run.cause is Cause.RUN:
            self.rates.add(task, run)
        else:
            self._go(run)

    @property
    def due(self) -> Collection[int]:
        """The keys of what waits until it is due."""
        return self._due.keys()

    def _is_due(self, key: int) -> None:
        task, run, _ = self._due.pop(key)
        self.add(task, run)

    def take_back(self, keys: Collection[int] | None = None) -> list[Run]:
        """Take out what is held; only those in `keys`, if given."""
        taken = [key for key in self._due if keys is None or key in keys]
        return [self._cancelled(key) for key in taken] + self.rates.take_back(keys)

    def _cancelled(self, key: int) -> Run:
        _, run, timer = self._due.pop(key)
        timer.cancel()
        return run
