"""What a beat must know to go on where another stopped: the last run of each entry, what was paused or added.

It lives on the broker as messages of one queue: a snapshot, and what has happened since. Pure; see `lease`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from amqptasks.beat.entries import Entry
from amqptasks.schedules import schedule

AHEAD = timedelta(seconds=60)
"""A last run that far in the future was sent before the clock was put back."""
KEPT = timedelta(days=7)
"""How long the last run of an entry is remembered that the schedule does not have any more."""


@dataclass(slots=True)
class Record:
    """Where an entry stands."""

    last: datetime
    """Its last due time that was dealt with, or the moment it was first seen."""
    schedule: str = ""
    """Its schedule then: another one begins anew."""
    sent: datetime | None = None
    """Its last due time that was sent, for people."""


@dataclass(slots=True)
class State:
    """All entries of a beat's name. Times are aware, in UTC."""

    number: int = 0
    """Of the snapshot that it was read from: each one has a higher one."""
    records: dict[str, Record] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    added: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entries added at run time, as JSON values."""

    @classmethod
    def load(cls, read: Mapping[str, Any]) -> State:
        """Return what `dump` wrote."""
        sent = {name: datetime.fromisoformat(at) for name, at in read.get("sent", {}).items()}
        records = {
            name: Record(datetime.fromisoformat(last), schedule, sent.get(name))
            for name, (last, schedule) in read["records"].items()
        }
        return cls(read["number"], records, set(read["paused"]), dict(read["added"]))

    def dump(self, number: int) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "number": number,
            "records": {name: [each.last.isoformat(), each.schedule] for name, each in self.records.items()},
            "sent": {name: each.sent.isoformat() for name, each in self.records.items() if each.sent},
            "paused": sorted(self.paused),
            "added": self.added,
        }

    def sent(self, entry: str, due: datetime) -> None:
        """A run was published. Told twice, or late, it changes nothing."""
        record = self.records.get(entry)
        if record is None:
            record = self.records[entry] = Record(due)
        record.last = max(record.last, due)
        record.sent = due if record.sent is None else max(record.sent, due)

    def command(self, name: str, entry: str, given: Mapping[str, Any]) -> bool:
        """Do what an operator wants; told again it changes nothing. False: it cannot be done to this entry."""
        if name == "add":
            self.added[entry] = dict(given)
            self.paused.discard(entry)
            return True
        if name == "remove":
            if self.added.pop(entry, None) is None:
                return False
            self.records.pop(entry, None)  # added again, it begins anew
            return True
        if name == "pause":
            self.paused.add(entry)
        elif name == "resume" and entry in self.paused:
            self.paused.discard(entry)
            record = self.records.get(entry)
            if record is not None:  # what was due while it was paused was not wanted
                record.last = max(record.last, datetime.fromisoformat(given["at"]))
        return True

    def adopt(self, entries: Iterable[Entry], now: datetime) -> None:
        """Begin the records of new entries, and of those with another schedule; forget what is long gone."""
        names = set()
        for entry in entries:
            names.add(entry.name)
            text, record = repr(entry.schedule), self.records.get(entry.name)
            if record is None:
                self.records[entry.name] = Record(now, text)
            else:
                # One that came by a run's copy alone has no text yet, and stands where that run says.
                if record.schedule not in ("", text) or _stopped_by_the_clock(entry, record, now):
                    record.last = now
                record.schedule = text
        for name in [
            name for name, each in self.records.items() if name not in names and each.last < now - KEPT
        ]:
            del self.records[name]
        self.paused &= names | self.records.keys()


def _stopped_by_the_clock(entry: Entry, record: Record, now: datetime) -> bool:
    """Whether an interval would wait for the time that the clock showed before it was put back.

    Its due times are no times of day: it goes on from now. A crontab waits, for what has run at that time already.
    """
    return isinstance(entry.schedule, schedule) and not entry.schedule.relative and record.last > now + AHEAD
