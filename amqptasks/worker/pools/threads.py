"""The threads pool: one child with n threads. Its death ends all that they run; there are no time limits."""

from __future__ import annotations

from amqptasks.worker.pools.children import ChildrenPool
from amqptasks.worker.pools.slot import Slot


class ThreadsPool(ChildrenPool):
    """For tasks that wait for others most of the time."""

    name = "threads"

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
