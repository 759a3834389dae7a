"""What the pools of child processes share: starting, watching, replacing and ending children.

Knows processes; what becomes of runs is the ledger's business, who runs what next is the sharing's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from amqptasks.amqp import Delivery
from amqptasks.backoff import exponential
from amqptasks.errors import PoolFailed
from amqptasks.worker import cpus
from amqptasks.worker.outcome import LoadSpec, Manifest, Run
from amqptasks.worker.pools import control, wire
from amqptasks.worker.pools.base import Pool, Report
from amqptasks.worker.pools.hooks import Hooks
from amqptasks.worker.pools.ledger import Ledger
from amqptasks.worker.pools.slot import Slot, by_load
from amqptasks.worker.pools.spawner import Spawner, describe, open_spawner
from amqptasks.worker.pools.zygotes import GRACE, Zygotes

logger = logging.getLogger(__name__)

FAILED_STARTS = 3
"""Children in a row that may end before they are ready, until `start` gives up."""


class ChildrenPool(Pool):
    """Children forked from a zygote. What is left None comes from the app's settings.

    `load` is what to load, or a zygote that has loaded it (see `opening`). `max_memory_per_child` is in KiB,
    `proc_alive_timeout` in seconds.
    """

    def __init__(
        self,
        load: LoadSpec | Spawner,
        size: int | None = None,
        *,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        proc_alive_timeout: float | None = None,
    ) -> None:
        self._load = load
        self._size = size or 0
        self._max_tasks = max_tasks_per_child
        self._max_memory = max_memory_per_child
        self._alive_timeout = proc_alive_timeout or 0.0
        self._loop: asyncio.AbstractEventLoop
        self._ledger: Ledger
        self._zygotes: Zygotes | None = None
        self._hooks = Hooks(self._spawn_helper)
        self._slots: dict[int, Slot] = {}
        self._numbers = 0
        self._failures = 0
        self._replaced = 0
        self._opening: asyncio.Future[None]
        self._retry: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._stopping = False

    # --- the contract ------------------------------------------------------------------------------------

    async def start(self, report: Report) -> Manifest:
        self._loop = asyncio.get_running_loop()
        self._ledger = self._ledger_class(self._slots, report)
        self._opening = self._loop.create_future()
        spawner = self._load if isinstance(self._load, Spawner) else await open_spawner(self._load)
        self._zygotes = Zygotes(spawner, self)
        self._configure(spawner.manifest)
        try:
            self._top_up()
            await self._opening
        except BaseException:
            await self.stop(0)
            raise
        return spawner.manifest

    def submit(self, run: Run) -> None:
        self._ledger.sharing.submit(run)

    def recall(self) -> list[Run]:
        return self._ledger.sharing.recall()

    def pause(self, paused: bool) -> None:
        self._ledger.sharing.pause(paused)

    def terminate(self, key: int, reason: str) -> bool:
        return self._ledger.terminate(key, reason)

    async def resize(self, size: int) -> None:
        self._size = max(1, size)
        staying = sorted((slot for slot in self._slots.values() if not slot.leaving), key=by_load)
        for slot in staying[: max(0, len(staying) - self._processes)]:
            self._dismiss(slot)
        self._top_up()
        self._ledger.sharing.fill()

    async def restart(self, modules: Sequence[str] = ()) -> Manifest | None:
        """Raises what `start` raises, and goes on with the old one then."""
        manifest = None if self._zygotes is None else await self._zygotes.replace(modules)
        if manifest is None:
            return None
        for slot in list(self._slots.values()):
            self._dismiss(slot)
        self._hooks.dismiss(manifest.hooks)
        self._close_unused()
        self._top_up()
        return manifest

    async def stop(self, timeout: float | None) -> bool:
        self._stopping = True
        zygotes, self._zygotes = self._zygotes, None
        if zygotes is None:
            return True
        zygotes.stop()
        self._hooks.dismiss()
        if self._retry is not None:
            self._retry.cancel()
        self._ledger.sharing.close()
        for slot in list(self._slots.values()):
            self._dismiss(slot)
        await self._emptied(timeout)
        busy = [slot for slot in self._slots.values() if slot.active]
        for slot in busy:
            slot.kill()
        await self._emptied(GRACE)
        for slot in self._slots.values():
            slot.kill()
        self._hooks.kill()
        await self._emptied(GRACE)
        await zygotes.close()
        return not busy

    def hook(self, signal: str, delivery: Delivery | None = None) -> None:
        self._hooks.send(signal, delivery)

    async def command(self, name: str, arguments: bytes, limit: float) -> bytes:
        return await self._hooks.ask(name, arguments, limit)

    def dump(self) -> None:
        for place, slot in enumerate(self._slots.values()):
            slot.dump(place)

    @property
    def size(self) -> int:
        return self._size

    @property
    def running(self) -> dict[int, float]:
        return self._ledger.running

    @property
    def waiting(self) -> int:
        return self._ledger.sharing.waiting

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the children that are ready."""
        return tuple(slot.pid for slot in self._slots.values() if slot.ready)

    @property
    def zygote_pid(self) -> int | None:
        """Of the process that forks children now; None while there is none."""
        return self._zygotes.current.pid if self._zygotes and self._zygotes.current else None

    @property
    def replaced(self) -> int:
        """Children that ended without having been told to."""
        return self._replaced

    def __repr__(self) -> str:
        kind, busy = type(self).__name__, sum(1 for slot in self._slots.values() if slot.active)
        return f"<{kind} {len(self._slots)} children | {busy} busy | {self._replaced} replaced>"

    # --- the shape: what prefork, threads and asyncio differ in ------------------------------------------

    _slot_class, _ledger_class, _coroutines = Slot, Ledger, False

    @property
    def _processes(self) -> int:
        return self._size

    @property
    def _threads(self) -> int:
        return 1

    def _fills(self, slot: Slot) -> bool:
        """Whether there is no child in place of this one before it has ended."""
        return True

    def _configure(self, manifest: Manifest) -> None:
        settings = manifest.settings
        concurrency = settings.get("worker_concurrency")
        self._size = self._size or (concurrency if isinstance(concurrency, int) else 0) or cpus.available()
        self._max_tasks = self._max_tasks or settings.get("worker_max_tasks_per_child")
        self._max_memory = self._max_memory or settings.get("worker_max_memory_per_child")
        self._hooks.known = manifest.hooks
        self._alive_timeout = self._alive_timeout or settings.get("worker_proc_alive_timeout") or 4.0

    # --- what children say -------------------------------------------------------------------------------

    def _read(self, slot: Slot) -> None:
        messages = slot.receive()
        if not slot.ready:
            messages = self._came_up(slot, messages)
        self._ledger.hear(slot, messages)
        self._ledger.sharing.refill(slot)

    def _came_up(self, slot: Slot, messages: list[bytes]) -> list[bytes]:
        """A child's first words: that it is ready, or why it cannot be."""
        if not messages:
            return messages
        if messages[0][0] & wire.FAILED:
            slot.complaint = wire.decode_failed(messages[0])
            return []
        slot.came_up(wire.decode_ready(messages[0]))
        self._failures = 0
        ready = sum(1 for other in self._slots.values() if other.ready)
        if not self._opening.done() and ready >= self._processes:
            self._opening.set_result(None)
        return messages[1:]

    # --- what becomes of children ------------------------------------------------------------------------

    def _top_up(self) -> None:
        self._retry = None
        zygotes = self._zygotes
        if zygotes is None or zygotes.current is None:
            return
        living = sum(1 for slot in self._slots.values() if self._fills(slot))
        for _ in range(living, self._processes):
            settings = control.ChildSettings(
                zygotes.spec.node, 0, self._threads, self._max_tasks, self._max_memory, self._coroutines
            )
            slot = self._spawn(zygotes.current, settings, self._read)
            self._slots[slot.number] = slot

    def _spawn_helper(self, read: Callable[[Slot], None]) -> Slot | None:
        zygotes = self._zygotes
        if zygotes is None or zygotes.current is None:
            return None
        return self._spawn(zygotes.current, control.ChildSettings(zygotes.spec.node), read)

    def _spawn(self, spawner: Spawner, settings: control.ChildSettings, read: Callable[[Slot], None]) -> Slot:
        self._numbers += 1
        kind = self._slot_class if settings.coroutines else Slot
        slot = kind(self._numbers, spawner, settings.threads, read)
        slot.timer = self._loop.call_later(self._alive_timeout, self._too_late, slot)
        slot.order(replace(settings, number=slot.number))
        return slot

    def _too_late(self, slot: Slot) -> None:
        slot.timer = None
        slot.complaint = f"it was not ready after {self._alive_timeout:g} s (`worker_proc_alive_timeout`)"
        slot.kill()

    def born(self, number: int, pidfd: int | None) -> None:
        slot = self._slots.get(number)
        if slot is not None:
            slot.pidfd = pidfd
        elif self._hooks.owns(number):
            self._hooks.born(pidfd)
        elif pidfd is not None:
            os.close(pidfd)

    def not_born(self, number: int, reason: str) -> None:
        self._ended(number, f"the system cannot fork: {reason}")

    def died(self, number: int, status: int) -> None:
        self._ended(number, describe(status))

    def _ended(self, number: int, reason: str) -> None:
        if self._hooks.owns(number):
            self._hooks.died(reason)
            self._changed.set()
            return
        slot = self._slots.pop(number, None)
        if slot is None:
            return
        if not slot.ready:
            self._came_up(slot, slot.receive())
        barren = not slot.ready and not slot.leaving
        self._bury(slot, reason)
        self._close_unused()
        if barren and not self._stopping:
            self._try_later(slot.complaint or reason)
        else:
            self._top_up()
            self._ledger.sharing.fill()

    def _bury(self, slot: Slot, reason: str, *, innocent: bool = False) -> None:
        self._ledger.bury(slot, reason, innocent=innocent)
        if not slot.leaving:
            self._replaced += 1
            why = slot.complaint or (slot.sentence[1].name.lower() if slot.sentence else reason)
            logger.error("child %d (pid %d) ended: %s", slot.number, slot.pid, why)
        self._changed.set()

    def _try_later(self, reason: str) -> None:
        """Children end before they are ready: slower and slower, and at the start not for ever."""
        self._failures += 1
        if not self._opening.done() and self._failures >= FAILED_STARTS:
            self._opening.set_exception(PoolFailed(f"children end before they are ready: {reason}"))
        elif self._retry is None:
            delay = exponential(self._failures, factor=0.05, maximum=10)
            self._retry = self._loop.call_later(delay, self._top_up)

    def _dismiss(self, slot: Slot) -> None:
        if not slot.leaving:
            self._ledger.sharing.put_back(slot.dismiss())
            self._ledger.sharing.forget(slot)

    async def _emptied(self, timeout: float | None) -> None:
        """Wait until no child is left, or for `timeout` seconds."""
        deadline = None if timeout is None else self._loop.time() + timeout
        while self._slots or self._hooks.alive:
            self._changed.clear()
            rest = None if deadline is None else deadline - self._loop.time()
            try:
                await asyncio.wait_for(self._changed.wait(), rest)
            except TimeoutError:
                return

    # --- what becomes of zygotes -------------------------------------------------------------------------

    def orphaned(self, spawner: Spawner, reason: str) -> None:
        if not self._stopping:
            logger.error("the process that forks children ended: %s; starting another", reason)
        orphans = [slot for slot in self._slots.values() if slot.spawner is spawner]
        for slot in orphans:
            slot.ensure_dead()
            del self._slots[slot.number]
        if self._hooks.spawner is spawner:
            self._hooks.died(reason)
        if self._zygotes is not None:
            self._zygotes.lose(spawner, self._top_up)
        for slot in orphans:
            self._bury(slot, f"the process that forked it ended: {reason}", innocent=True)

    def _close_unused(self) -> None:
        if self._zygotes is not None:
            self._zygotes.close_unused(
                [self._hooks.spawner, *(slot.spawner for slot in self._slots.values())]
            )
