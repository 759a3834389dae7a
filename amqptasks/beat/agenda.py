"""What is due next: all entries in the order of their due times. Pure but for the log; told the time by its caller."""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

from amqptasks.beat.entries import Entry
from amqptasks.beat.planning import plan
from amqptasks.beat.sending import Run
from amqptasks.beat.state import AHEAD, State

log = logging.getLogger(__name__)

AGAIN, RARELY = 1.0, 60.0
"""Seconds after a run that could not be sent; doubled each time up to the second."""
AT_A_TIME = 50_000
"""Due times that are let go in one turn; counting them takes half a second, in which nothing else happens."""


class Agenda:
    """The entries that are not paused, in a heap. A later `State` wants another agenda."""

    def __init__(
        self,
        entries: Mapping[str, Entry],
        state: State,
        zone: tzinfo | None,
        deadline: float | None,
        now: datetime,
    ) -> None:
        self.entries = entries
        self._state = state
        self._zone = zone
        self._deadline = deadline
        self._heap: list[tuple[datetime, str]] = []
        self._let_go: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        for name in entries:
            if name not in state.paused:
                self._push(name)
        ahead = [name for name in entries if state.records[name].last > now + AHEAD]
        if ahead:
            log.warning(
                "beat: the clock went back; %s ran later already and waits until then", ", ".join(ahead[:5])
            )

    def wait(self, now: datetime) -> float:
        """Seconds until something is due."""
        return max(0.0, (self._heap[0][0] - now).total_seconds()) if self._heap else float("inf")

    def overdue(self, now: datetime) -> int:
        """Entries that are due."""
        return sum(1 for due, _ in self._heap if due <= now)

    def due(self, now: datetime, most: int) -> tuple[list[Run], int]:
        """Take out what is due, about `most` runs; and say how many were let go. `sent` puts the entries back.

        Not all of what is due, if there is very much of it.
        """
        runs: list[Run] = []
        gone = 0
        while self._heap and self._heap[0][0] <= now and len(runs) < most and gone < AT_A_TIME:
            _, name = heapq.heappop(self._heap)
            entry, record = self.entries[name], self._state.records[name]
            planned = plan(entry, record.last, now, self._zone, self._deadline)
            gone += planned.dropped
            self._let_go[name] += planned.dropped
            runs += [Run(entry, each) for each in planned.send]
            if not planned.send:
                record.last = planned.last
                self._push(name)
            if planned.complete and (missed := self._let_go.pop(name)):
                log.warning("beat: %s missed %d runs, let go (catch_up: %s)", name, missed, entry.catch_up)
        return runs, gone

    def sent(self, runs: Sequence[Run], failed: Collection[str], now: datetime) -> None:
        """These runs were published, but for those of the entries that failed, which have another try."""
        for name in dict.fromkeys(run.entry.name for run in runs):
            if name in failed:
                pause = min(RARELY, AGAIN * 2.0 ** self._failures[name])
                self._failures[name] += 1
                heapq.heappush(self._heap, (now + timedelta(seconds=pause), name))
            else:
                self._failures.pop(name, None)
                self._push(name)

    def table(self) -> list[dict[str, Any]]:
        """Return all entries as JSON values, for people."""
        rows = []
        for name, entry in sorted(self.entries.items()):
            record = self._state.records[name]
            following = entry.schedule.next_after(record.last, self._zone)
            rows.append(
                {
                    "name": name,
                    "task": entry.task,
                    "schedule": repr(entry.schedule),
                    "last": None if record.sent is None else record.sent.isoformat(),
                    "next": None if following is None else following.isoformat(),
                    "paused": name in self._state.paused,
                    "added": name in self._state.added,
                    "catch_up": entry.catch_up,
                }
            )
        return rows

    def _push(self, name: str) -> None:
        entry = self.entries[name]
        following = entry.schedule.next_after(self._state.records[name].last, self._zone)
        if following is not None:
            heapq.heappush(self._heap, (following, name))
