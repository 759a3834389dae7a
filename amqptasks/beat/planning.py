"""Which runs of an entry to send now, and which to let go: the catch-up policies. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import islice, takewhile

from amqptasks.beat.entries import Entry
from amqptasks.schedules import crontab

PROMPT = timedelta(seconds=60)
"""A run that is late by less was not missed: a hand-over or a restart takes seconds. It is sent whatever the policy."""
AT_ONCE = 1000
"""Runs of one entry that are sent in one go; the others follow in the next."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`send` are due times, oldest first; `last` is where the entry stands after them; `dropped` were let go."""

    send: tuple[datetime, ...]
    last: datetime
    dropped: int = 0
    complete: bool = True
    """False: so much is due that the next plan has more of it."""


def due_times(entry: Entry, last: datetime, zone: tzinfo | None) -> Iterator[datetime]:
    """Yield the due times after `last`."""
    following = entry.schedule.next_after(last, zone)
    while following is not None and following > last:
        yield following
        last = following
        following = entry.schedule.next_after(last, zone)


def plan(
    entry: Entry, last: datetime, now: datetime, zone: tzinfo | None = None, deadline: float | None = None
) -> Plan:
    """Decide on what has become due after `last`.

    Runs late by less than PROMPT are always sent. Older ones: `all` sends each; `latest` the last of them, unless a
    prompt one follows anyway; `none` none. `deadline` is the seconds by which a crontab's run may be late at all.
    """
    due = list(islice(takewhile(lambda each: each <= now, due_times(entry, last, zone)), AT_ONCE + 1))
    if not due:
        return Plan((), last)
    complete = len(due) <= AT_ONCE
    del due[AT_ONCE:]
    late = [each for each in due if now - each > PROMPT]
    prompt = due[len(late) :]
    if entry.catch_up == "all":
        kept = due
    elif entry.catch_up == "latest" and not prompt and complete:
        kept = late[-1:]
    else:
        kept = prompt
    if deadline is not None and isinstance(entry.schedule, crontab):
        kept = [each for each in kept if (now - each).total_seconds() <= deadline]
    return Plan(tuple(kept), due[-1], len(due) - len(kept), complete)
