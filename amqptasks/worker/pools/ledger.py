"""Which run is where, and what is reported of it.

The exact rule: a run that was handed over and has not started never ran, and goes to another child; one
that has started and left no outcome is lost. Knows what children say; nothing of how they live.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from amqptasks.amqp import Parcel
from amqptasks.worker.outcome import Cause, Outcome, Run
from amqptasks.worker.pools import wire
from amqptasks.worker.pools.base import Report
from amqptasks.worker.pools.sharing import Sharing
from amqptasks.worker.pools.slot import Slot

ATTEMPTS = 5
"""Children that may die on one run before it starts; then it is lost."""


class Ledger:
    """Reads what children say and tells the report. Used in the loop only."""

    def __init__(self, slots: Mapping[int, Slot], report: Report) -> None:
        self.running: dict[int, float] = {}
        self.sharing = Sharing(slots, self.look)
        self._slots = slots
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._attempts: dict[int, int] = {}

    def hear(self, slot: Slot, messages: Sequence[bytes]) -> None:
        """Take what a child has said of its runs, in the order it was said: who is told of one may ask for the next."""
        inbox = slot.inbox
        inbox.extend(messages)
        if slot.is_telling:
            return
        slot.is_telling = True
        try:
            while inbox:
                self._take(slot, inbox.popleft())
        finally:
            slot.is_telling = False
        if slot.leaving and not slot.held:
            slot.expect_end()

    def _take(self, slot: Slot, message: bytes) -> None:
        flags, finished, started = wire.decode_report(message)
        if finished is not None:
            self._finished(slot, *finished)
        elif started is not None:
            self._started(slot, *started)
        if flags & wire.RETIRING:
            slot.leaving = True
            self.sharing.put_back(slot.take_back())
            self.sharing.fill()

    def look(self, slot: Slot) -> None:
        """Take what a child has said without ringing for it."""
        messages = slot.look()
        if messages:
            self.hear(slot, messages)
            self.sharing.note(slot)

    def _started(self, slot: Slot, key: int, parcels: Sequence[Parcel], at: float) -> None:
        slot.heard = self.running[key] = at
        slot.started(key)
        hard = slot.held[key].hard
        if hard is not None and slot.threads == 1:
            slot.timer = self._loop.call_at(at + hard, self.condemn, slot, key, Cause.TIMEOUT, f"{hard:g}")
        self._report.started(key, slot.pid, parcels)

    def _finished(self, slot: Slot, key: int, outcome: Outcome, at: float) -> None:
        slot.heard = self._report.ended = at
        began = self._report.began = self.running.pop(key, 0.0)
        slot.finished(key)
        if began:
            self.sharing.took(at - began)
        if self._attempts:
            self._attempts.pop(key, None)
        self._report.finished(key, outcome)

    def terminate(self, key: int, reason: str) -> bool:
        """Kill the child that runs `key`; False when it does not run."""
        for slot in self._slots.values():
            self.look(slot)
            if key in slot.active:
                return self.condemn(slot, key, Cause.TERMINATED, reason)
        return False

    def condemn(self, slot: Slot, key: int, cause: Cause, reason: str) -> bool:
        """Kill a child for what it runs; False when that run is over. Nothing else is hit."""
        self.look(slot)
        if slot.threads > 1 or key not in slot.active or slot.sentence is not None:
            return False
        self.sharing.put_back(slot.take_back())
        # What is left besides is taken already, and a child takes the next only when this one has ended.
        ended = len(slot.held) > 1
        if not ended:
            slot.sentence = (key, cause, reason)
            slot.kill()
        self.sharing.fill()
        return not ended

    def bury(self, slot: Slot, reason: str, *, innocent: bool = False) -> None:
        """Settle what a dead child held. It is no longer among the slots."""
        self.sharing.forget(slot)
        self.hear(slot, slot.receive(burst=1 << 30))
        unread = slot.close()
        lost = [key for key in slot.held if key in slot.active]
        again = [run for key, run in slot.held.items() if key not in slot.active]
        hopeless = [run for run in again if self._is_hopeless(run)]
        self.sharing.put_back([run for run in again if run not in hopeless] + unread)
        for key in lost:
            del self.running[key]
        for key in lost:
            self._lose(slot, key, reason, innocent or len(lost) > 1)
        for run in hopeless:
            self._report.lost(run.key, f"{reason}, before the task started, {ATTEMPTS} times", innocent=False)

    def _lose(self, slot: Slot, key: int, reason: str, innocent: bool) -> None:
        if slot.sentence is not None:
            _, cause, reason = slot.sentence
            self._report.lost(key, reason, innocent=False, cause=cause)
        else:
            self._report.lost(key, reason, innocent)

    def _is_hopeless(self, run: Run) -> bool:
        """It was taken and had not started when its child died: a few times that may be chance."""
        attempts = self._attempts[run.key] = self._attempts.get(run.key, 0) + 1
        if attempts < ATTEMPTS:
            return False
        del self._attempts[run.key]
        return True
