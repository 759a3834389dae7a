"""The asyncio pool: one child with n coroutines on a loop of its own, so that they cannot delay heartbeats.

Its death ends all that they run; a single one is ended by cancelling it. The child's side is `coroutines`.
"""

from __future__ import annotations

from collections.abc import Callable

from amqptasks.worker.outcome import Cause, Manifest, Outcome, Run
from amqptasks.worker.pools import control, ends, orders
from amqptasks.worker.pools.ledger import Ledger
from amqptasks.worker.pools.outbox import Outbox
from amqptasks.worker.pools.slot import Slot
from amqptasks.worker.pools.spawner import Spawner
from amqptasks.worker.pools.threads import ThreadsPool

CONCURRENCY = 100
"""Coroutines at a time where nobody says how many: they wait for others, so the CPUs say nothing about it."""


class CoroutineSlot(Slot):
    """A child that can be told to end one of its runs."""

    def __init__(self, number: int, spawner: Spawner, threads: int, read: Callable[[Slot], None]) -> None:
        super().__init__(number, spawner, threads, read)
        self._tells, self._told = ends.pair()
        self._orders = Outbox(self._loop, self._tells)

    def order(self, settings: control.ChildSettings) -> None:
        self.spawner.fork(settings, [self._far.fileno(), self._told.fileno()])

    def make_room(self, room: int) -> None:
        """Run so many at a time."""
        self.threads = room
        self._orders.put(orders.encode_room(room))

    def cancel(self, key: int, cause: Cause, reason: str) -> None:
        """End the coroutine of `key`; the child reports it as stopped, or as finished if that came first."""
        self._orders.put(orders.encode_cancel(key, cause, reason))

    def close(self) -> list[Run]:
        self._orders.close()
        self._tells.close()
        self._told.close()
        return super().close()


class CoroutineLedger(Ledger):
    """Ends a run without ending its child."""

    def condemn(self, slot: Slot, key: int, cause: Cause, reason: str) -> bool:
        """Ask the child to end it. Hard limits the child keeps itself, in the loop that they are about."""
        if not isinstance(slot, CoroutineSlot) or key not in slot.active:
            return False
        if cause is not Cause.TIMEOUT:
            slot.cancel(key, cause, reason)
        return True

    def _finished(self, slot: Slot, key: int, outcome: Outcome, at: float) -> None:
        why = orders.why_stopped(outcome)
        if why is None:
            super()._finished(slot, key, outcome, at)
            return
        cause, reason = why
        self.running.pop(key, None)
        slot.finished(key)
        self._report.lost(key, reason, innocent=False, cause=cause)


class AsyncioPool(ThreadsPool):
    """For tasks that are `async def`."""

    name = "asyncio"
    elastic = True
    _keeps_limits = True
    _slot_class = CoroutineSlot
    _ledger_class = CoroutineLedger
    _coroutines = True

    async def resize(self, size: int) -> None:
        """Have `size` coroutines at a time; those above that end by themselves."""
        self._size = max(1, size)
        for slot in self._slots.values():
            if isinstance(slot, CoroutineSlot):
                slot.make_room(self._size)
        self._ledger.sharing.fill()

    def _configure(self, manifest: Manifest) -> None:
        if not self._size and not manifest.settings.get("worker_concurrency"):
            self._size = CONCURRENCY
        super()._configure(manifest)
