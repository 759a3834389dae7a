"""Entries of a schedule, read off an app's settings, and the ids of their runs. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast

from amqptasks.errors import ImproperlyConfigured
from amqptasks.schedules import BaseSchedule
from amqptasks.schedules.reading import as_schedule, from_spec

CatchUp = Literal["all", "latest", "none"]
POLICIES = ("all", "latest", "none")
KEYS = frozenset({"task", "schedule", "args", "kwargs", "options", "relative", "catch_up"})

NAMESPACE = uuid.UUID("6c1d2c0e-41a5-5d0f-9c8e-7a6f0b5d3a11")
"""Of the ids of runs; never changed, or a hand-over between versions would double what is due."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a schedule: which task, with what, and when."""

    name: str
    task: str
    schedule: BaseSchedule
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    catch_up: CatchUp = "latest"

    def spec(self) -> dict[str, Any]:
        """Return the entry as JSON values, for one that was added at run time."""
        return {
            "task": self.task,
            "schedule": self.schedule.spec(),
            "args": list(self.args),
            "kwargs": dict(self.kwargs),
            "options": dict(self.options),
            "catch_up": self.catch_up,
        }


def run_id(beat: str, entry: str, due: datetime) -> str:
    """Return the id of the run that is due then: the same whoever sends it, however often."""
    return str(uuid.uuid5(NAMESPACE, f"{beat}\n{entry}\n{due.astimezone(UTC).isoformat()}"))


def read(name: str, given: Mapping[str, Any], default: CatchUp = "latest") -> Entry:
    """Return the entry that a line of `beat_schedule` says. Raises ImproperlyConfigured, naming it."""
    try:
        return _read(name, given, default)
    except (ImproperlyConfigured, TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"beat_schedule[{name!r}]: {error}") from None


def _read(name: str, given: Mapping[str, Any], default: CatchUp) -> Entry:
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"{given!r} is no entry; it is a dict of {', '.join(sorted(KEYS))}")
    if unknown := given.keys() - KEYS:
        raise ImproperlyConfigured(
            f"there is no {', '.join(sorted(unknown))} in an entry; it has {', '.join(sorted(KEYS))}"
        )
    task, when = given.get("task"), given.get("schedule")
    if not isinstance(task, str) or when is None:
        raise ImproperlyConfigured("an entry needs 'task', the name of one, and 'schedule'")
    catch_up = given.get("catch_up", default)
    if catch_up not in POLICIES:
        raise ImproperlyConfigured(f"catch_up is {catch_up!r}; it is one of {', '.join(POLICIES)}")
    made = from_spec(when) if isinstance(when, Mapping) else as_schedule(when, bool(given.get("relative")))
    return Entry(
        name=name,
        task=task,
        schedule=made,
        args=tuple(given.get("args") or ()),
        kwargs=dict(given.get("kwargs") or {}),
        options=dict(given.get("options") or {}),
        catch_up=cast("CatchUp", catch_up),
    )


def read_all(given: Mapping[str, Mapping[str, Any] | None], default: CatchUp = "latest") -> Iterator[Entry]:
    """Yield the entries of a `beat_schedule`; None in the place of one removes it."""
    for name, line in given.items():
        if line is not None:
            yield read(name, line, default)
