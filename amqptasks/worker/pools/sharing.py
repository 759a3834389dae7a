"""Who runs what next: shares the waiting runs among the slots, takes back what waits behind something long.

Nothing waits behind a long run while a child is idle; short runs are handed over some at a time, so that a
child need not wait for the parent between two of them. Knows slots and runs; nothing of processes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from amqptasks.worker.outcome import Run
from amqptasks.worker.pools import ends, wire
from amqptasks.worker.pools.slot import Slot, by_load

HANDED_WORK = 0.02
"""Seconds of typical work that a child may hold: a run that takes as long comes alone."""

SLOW = 0.02
"""Seconds after which what waits behind a run is taken back."""

LOOK = 0.005
"""Seconds after which a child that was handed something is looked after, whether it rings or not."""


class Sharing:
    """The runs that no child holds yet. O(1) for each run; used in the loop only."""

    def __init__(self, slots: Mapping[int, Slot], look: Callable[[Slot], None]) -> None:
        self._slots = slots
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Run] = deque()
        self._idle: dict[Slot, None] = {}
        self._paused = False
        self._fill_due = False
        self._tick_due: asyncio.TimerHandle | None = None
        self._typical = 0.0
        self._most = self._window = ends.window()

    # --- in ----------------------------------------------------------------------------------------------

    def submit(self, run: Run) -> None:
        """An idle child gets it at once; otherwise it waits for this turn of the loop to be shared out."""
        if self._idle and not self._waiting and not self._paused:
            slot = next(iter(self._idle))
            if slot.is_free or not wire.is_large(run):
                self._hand(slot, run)
                return
        self._waiting.append(run)
        if not self._fill_due and not self._paused:
            self._fill_due = True
            self._loop.call_soon(self.fill)

    def put_back(self, runs: list[Run]) -> None:
        """These come before all that wait."""
        self._waiting.extendleft(reversed(runs))

    def pause(self, paused: bool) -> None:
        self._paused = paused
        if not paused:
            self.fill()

    def recall(self) -> list[Run]:
        """Everything that has not started, oldest first, as far as no child has taken it."""
        for slot in self._slots.values():
            self.put_back(slot.take_back())
        runs = sorted(self._waiting, key=_by_key)
        self._waiting.clear()
        for slot in self._slots.values():
            self.note(slot)
        return runs

    @property
    def waiting(self) -> int:
        held = sum(len(slot.held) - len(slot.active) for slot in self._slots.values())
        return len(self._waiting) + held

    # --- out ---------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Give what waits to whoever has room, the least loaded first, in turn."""
        self._fill_due = False
        for slot in self._slots.values():
            self._look(slot)
        if self._paused:
            return
        window = self._window
        roomy = deque(sorted((slot for slot in self._slots.values() if slot.has_room(window)), key=by_load))
        while self._waiting and roomy:
            slot = roomy.popleft()
            if wire.is_large(self._waiting[0]) and not slot.is_free:
                break
            self._hand(slot, self._waiting.popleft())
            if slot.has_room(window):
                roomy.append(slot)
        if self._idle and not self._waiting:
            self._level()

    def refill(self, slot: Slot) -> None:
        """A child has said something, so it may have room. Others had none, or nothing waits."""
        if self._waiting and not self._paused:
            while self._waiting and slot.has_room(self._window):
                if wire.is_large(self._waiting[0]) and not slot.is_free:
                    break
                self._hand(slot, self._waiting.popleft())
        self.note(slot)
        if self._idle and not self._waiting and not self._paused:
            self._level()

    def forget(self, slot: Slot) -> None:
        self._idle.pop(slot, None)

    def took(self, seconds: float) -> None:
        """A run has taken so long: how many a child may hold follows from what is typical."""
        self._typical += (min(seconds, 0.1) - self._typical) * 0.1
        typical = self._typical
        most = self._most
        self._window = most if typical * most <= HANDED_WORK else max(1, int(HANDED_WORK / typical))

    def _hand(self, slot: Slot, run: Run) -> None:
        if not slot.held:
            slot.heard = self._loop.time()
        slot.hand(run)
        self.note(slot)
        if self._tick_due is None and not (slot.is_heard and slot.excess <= 0):
            self._tick_due = self._loop.call_later(LOOK, self._tick)

    def note(self, slot: Slot) -> None:
        """Remember whether it could take a run."""
        if slot.has_room(1):
            self._idle[slot] = None
        else:
            self._idle.pop(slot, None)

    # --- taking back -------------------------------------------------------------------------------------

    def _level(self) -> None:
        """A child is idle and nothing waits: it gets half of what waits behind others."""
        if len(self._slots) < 2:
            return
        fullest = max(self._slots.values(), key=by_load)
        self._look(fullest)
        if fullest.excess <= 0:
            return
        runs = fullest.take_back((fullest.excess + 1) // 2)
        if runs:
            self.put_back(runs)
            self.fill()

    def _tick(self) -> None:
        """What children have not rung for is heard; what waits behind a run that turns out long is shared anew."""
        self._tick_due = None
        now = self._loop.time()
        quiet = True
        for slot in self._slots.values():
            self._look(slot)
            if slot.excess > 0 and now - slot.heard >= SLOW and len(self._slots) > 1:
                slot.slow = True
                self.put_back(slot.take_back())
            quiet &= slot.is_heard and slot.excess <= 0
        if not quiet:
            self._tick_due = self._loop.call_later(LOOK, self._tick)
        if self._waiting:
            self.fill()

    def close(self) -> None:
        self._paused = True
        if self._tick_due is not None:
            self._tick_due.cancel()
            self._tick_due = None


def _by_key(run: Run) -> int:
    return run.key
