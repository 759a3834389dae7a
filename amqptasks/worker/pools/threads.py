"""The threads pool: one child with n threads. Its death ends all that they run; there are no time limits."""

from __future__ import annotations

import logging

from amqptasks.worker.outcome import Run
from amqptasks.worker.pools.children import ChildrenPool
from amqptasks.worker.pools.slot import Slot

logger = logging.getLogger(__name__)


class ThreadsPool(ChildrenPool):
    """For tasks that wait for others most of the time."""

    name = "threads"
    _keeps_limits = False
    _told_limits = False

    def submit(self, run: Run) -> None:
        if not self._keeps_limits and not self._told_limits and (run.hard or run.soft):
            self._told_limits = True
            logger.warning("the threads pool keeps no time limits, and calls have some; they need prefork")
        super().submit(run)

    async def resize(self, size: int) -> None:
        """Start a child of `size` threads; the one before ends after what it runs."""
        if max(1, size) == self._size:
            return
        self._size = max(1, size)
        for slot in list(self._slots.values()):
            self._dismiss(slot)
        self._top_up()

    @property
    def _processes(self) -> int:
        return 1

    @property
    def _threads(self) -> int:
        return self._size

    def _fills(self, slot: Slot) -> bool:
        return not slot.leaving
