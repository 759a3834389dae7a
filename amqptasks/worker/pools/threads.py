"""The threads pool: one child with n threads. Its death ends all that they run; there are no time limits."""

from __future__ import annotations

from amqptasks.worker.pools.children import ChildrenPool


class ThreadsPool(ChildrenPool):
    """For tasks that wait for others most of the time."""

    name = "threads"

    @property
    def _processes(self) -> int:
        return 1

    @property
    def _threads(self) -> int:
        return self._size
