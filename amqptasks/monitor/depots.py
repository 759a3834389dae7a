"""The queues: which there are, and what is known of each from the app, workers, the broker and its plugin. Pure.

Not thread-safe.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from amqptasks import delay
from amqptasks.amqp import QueueInfo
from amqptasks.deaths import dead_queue
from amqptasks.entities import LOST
from amqptasks.monitor.management import Told
from amqptasks.monitor.snapshot import QueueKind, QueueRow
from amqptasks.topology import DEAD_SUFFIX

MOST = 1000
"""Task queues that are remembered."""
FIRST = 5.0
"""Seconds after which a queue is looked for again that has just been found missing; later, after half of that time."""
SOON = 2.0
"""Seconds after which a missing queue is looked for again that somebody tells of."""
INTERNAL = re.compile(
    r"(amqptasks\.|celeryev\.|celery_delayed_|amq\.)|.*\.pidbox$|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
)
"""Names of queues that no task waits in: ours, the broker's, Celery's for events, delays, control and results."""

Consumed = Mapping[str, tuple[tuple[str, ...], Mapping[str, Any]]]


class Depots:
    """All queues, by name."""

    def __init__(self, types: Mapping[str, str]) -> None:
        """`types`: the app's own queues, each with its type."""
        self._types = dict(types)
        self._counts: dict[str, QueueInfo] = {}
        self._missing: dict[str, tuple[float, float]] = {}
        """Names that the broker does not have: since when, and when it was asked."""
        self._hinted: set[str] = set()
        """Names that somebody has told of since."""

    # --- what to ask -------------------------------------------------------------------------------------

    def learn(self, names: Iterable[str]) -> None:
        """Take in task queues that workers consume or that calls were sent to: they are there, or were just now."""
        for name in names:
            if not name or kind_of(name) != "task":
                continue
            if name not in self._types and len(self._types) < MOST:
                self._types[name] = ""
            if name not in self._counts and name in self._types:
                self._hinted.update((name, dead_queue(name), LOST))  # declared together

    def wanted(self, again: float) -> tuple[list[str], list[str]]:
        """Return the names whose counts are wanted: those that exist, and those that may not.

        What is missing is left out for a while, at most for `again` seconds; for `SOON`, what was told of since.
        """
        names = [LOST]
        for name in self._types:
            names += [name, f"{name}{DEAD_SUFFIX}"]
        sure, unsure = [], []
        for name in names:
            if name in self._counts:
                sure.append(name)
            elif self._may_be_there(name, again):
                unsure.append(name)
                self._hinted.discard(name)
        return sure, unsure

    def _may_be_there(self, name: str, again: float) -> bool:
        if name not in self._missing:
            return True
        now, (since, asked) = time.monotonic(), self._missing[name]
        pause = SOON if name in self._hinted else min(again, max(FIRST, (asked - since) / 2))
        return now - asked >= pause

    def found(self, infos: Iterable[QueueInfo]) -> None:
        for info in infos:
            self._counts[info.name] = info
            self._missing.pop(info.name, None)

    def lost(self, name: str) -> None:
        """The broker has no such queue."""
        self._counts.pop(name, None)
        now = time.monotonic()
        self._missing[name] = (self._missing[name][0] if name in self._missing else now), now

    # --- reads -------------------------------------------------------------------------------------------

    @property
    def task_queues(self) -> tuple[str, ...]:
        return tuple(sorted(self._types))

    def has(self, name: str) -> bool:
        """Whether the broker had the queue when it was looked at last."""
        return name in self._counts

    def ready(self) -> dict[str, float]:
        """Messages that wait, by task queue."""
        return {
            name: float(self._counts[name].messages) for name in sorted(self._types) if name in self._counts
        }

    def dead(self, queue: str | None = None) -> int:
        """Dead letters of one task queue, or of all and of what went astray."""
        names = (queue,) if queue is not None else (*self._types, LOST)
        counts = [self._counts.get(dead_queue(name)) for name in names]
        return sum(info.messages for info in counts if info is not None)

    def rows(self, told: Told, consumed: Consumed, *, internal: bool) -> tuple[QueueRow, ...]:
        """Task queues by name; with `internal` those of dead letters and all others as well."""
        names = [*self.task_queues]
        names += [name for name in sorted(told.queues) if name not in self._types and kind_of(name) == "task"]
        if internal:
            others = {name for name in (*self._counts, *told.queues) if kind_of(name) != "task"}
            names += sorted(others, key=lambda name: (kind_of(name) != "dead", name))
        return tuple(self._row(name, told, consumed) for name in names)

    def _row(self, name: str, told: Told, consumed: Consumed) -> QueueRow:
        count, more, kind = self._counts.get(name), told.queues.get(name, {}), kind_of(name)
        workers, said = consumed.get(name, ((), {}))
        ready = more.get("messages_ready") if count is None else count.messages
        consumers = more.get("consumers") if count is None else count.consumers
        born, exists = more.get("head_message_timestamp"), count is not None or bool(more)
        return QueueRow(
            name=name,
            kind=kind,
            type=str(more.get("type") or self._types.get(name) or _type_said(said)),
            exists=exists,
            ready=ready,
            unacked=more.get("messages_unacknowledged"),
            consumers=consumers,
            publish_rate=_rate(more, "publish_details"),
            deliver_rate=_rate(more, "deliver_get_details"),
            ack_rate=_rate(more, "ack_details"),
            oldest_age=max(0.0, time.time() - born) if isinstance(born, int | float) else None,
            memory=more.get("memory"),
            dead_letters=self.dead(name) if kind == "task" else 0,
            nobody_consumes=kind == "task" and exists and not consumers,
            workers=workers,
        )


def kind_of(name: str) -> QueueKind:
    """Return what a queue is for, by its name."""
    if name == LOST or (name.endswith(DEAD_SUFFIX) and not name.startswith(delay.PREFIX)):
        return "dead"
    return "internal" if INTERNAL.match(name) else "task"


def _type_said(said: Mapping[str, Any]) -> str:
    arguments = said.get("queue_arguments")
    return str(arguments.get("x-queue-type") or "") if isinstance(arguments, Mapping) else ""


def _rate(more: Mapping[str, Any], name: str) -> float | None:
    if not more:
        return None
    stats = more.get("message_stats")
    details = stats.get(name) if isinstance(stats, Mapping) else None
    rate = details.get("rate") if isinstance(details, Mapping) else None
    return float(rate) if isinstance(rate, int | float) else 0.0
