"""What every schedule answers, and intervals. Pure: from the last due time to the next one.

Due times depend on nothing but the schedule, so every beat computes the same ones. Knows nothing of apps and brokers.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from amqptasks.errors import ImproperlyConfigured

DAY = timedelta(days=1)


class DueState(NamedTuple):
    """What `is_due` answers, as Celery's schedules do."""

    is_due: bool
    next: float
    """Seconds until it should be asked again."""


class BaseSchedule(ABC):
    """A rule for due times. A class of one's own overrides `next_after`. Immutable: may be shared by threads."""

    tz: tzinfo | None = None
    """The zone of its clock; None: the app's."""
    nowfun: Callable[[], datetime] | None = None

    def __init__(self, nowfun: Callable[[], datetime] | None = None, app: object = None) -> None:
        """`nowfun` is Celery's: the zone of what it returns becomes `tz`, if that is not set, and `is_due` asks it
        for the time. `app` is accepted for Celery's callers: the zone of beat's app counts anyway.
        """
        if nowfun is not None:
            self.nowfun = nowfun
            self.tz = self.tz or nowfun().tzinfo

    def now(self) -> datetime:
        """Return the time, aware."""
        return datetime.now(UTC) if self.nowfun is None else _aware(self.nowfun())

    @abstractmethod
    def next_after(self, last: datetime, zone: tzinfo | None = None) -> datetime | None:
        """Return the first due time after `last` (aware), in UTC, or None when there is none.

        `zone` counts where the schedule names none itself; None is the machine's own. The answer must depend on
        nothing else, and must be later than `last`.
        """

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """Return how long it is from now until it is due after `last_run_at`; negative when that has passed."""
        following = self.next_after(_aware(last_run_at))
        return timedelta.max if following is None else following - self.now()

    def is_due(self, last_run_at: datetime) -> DueState:
        """Return whether it is due, and in how many seconds to ask again."""
        remaining = self.remaining_estimate(last_run_at).total_seconds()
        if remaining > 0:
            return DueState(is_due=False, next=remaining)
        return DueState(is_due=True, next=max(0.0, self.remaining_estimate(self.now()).total_seconds()))

    def spec(self) -> Mapping[str, Any] | None:
        """Return the schedule as JSON values that `from_spec` reads; None for a class of the user's own."""
        return None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _told(self) == _told(other)

    def __hash__(self) -> int:
        return hash(repr(self))


class schedule(BaseSchedule):  # noqa: N801 (Celery's name)
    """Every so many seconds, or a `timedelta`, counted from the first sight of the entry.

    With `relative` due times are rounded down to the interval's resolution: every day means at midnight. Raises
    ImproperlyConfigured for an interval that is not positive.
    """

    def __init__(
        self,
        run_every: float | timedelta,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: object = None,
    ) -> None:
        super().__init__(nowfun, app)
        every = run_every if isinstance(run_every, timedelta) else timedelta(seconds=run_every)
        if every <= timedelta(0):
            raise ImproperlyConfigured(f"a schedule cannot run every {every}; give an interval above zero")
        self.run_every = every
        self.relative = bool(relative)

    def next_after(self, last: datetime, zone: tzinfo | None = None) -> datetime:
        """As `BaseSchedule.next_after`."""
        following = last.astimezone(UTC) + self.run_every
        if not self.relative:
            return following
        rounded = _rounded(following.astimezone(self.tz or zone or local_zone()), self.run_every)
        return rounded if rounded > last else following

    @property
    def seconds(self) -> float:
        return self.run_every.total_seconds()

    def spec(self) -> Mapping[str, Any]:
        return {"every": self.seconds, "relative": self.relative}

    def __repr__(self) -> str:
        return f"<freq: {self.seconds:g} s{', relative' if self.relative else ''}>"


def _told(given: BaseSchedule) -> dict[str, Any]:
    """What makes two schedules equal: not the function that told one of them its zone."""
    return {name: value for name, value in vars(given).items() if name != "nowfun"}


def zone_of(given: tzinfo | str | None) -> tzinfo | None:
    """Return the zone of a name. Raises ImproperlyConfigured when there is none of that name."""
    if not isinstance(given, str):
        return given
    try:
        return ZoneInfo(given)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ImproperlyConfigured(
            f"there is no time zone {given!r}; write for example 'Europe/London'"
        ) from error


@lru_cache(maxsize=1)
def local_zone() -> tzinfo:
    """Return the machine's own zone, with its daylight-saving rules where the system tells them."""
    path = Path("/etc/localtime")
    try:
        with path.open("rb") as file:
            return ZoneInfo.from_file(file, key=time.tzname[0])
    except (OSError, ValueError):
        return datetime.now(UTC).astimezone().tzinfo or UTC


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _rounded(moment: datetime, interval: timedelta) -> datetime:
    """Round down to the interval's own resolution: days, hours, minutes, else seconds."""
    floor = moment.replace(microsecond=0)
    if interval >= timedelta(minutes=1):
        floor = floor.replace(second=0)
    if interval >= timedelta(hours=1):
        floor = floor.replace(minute=0)
    if interval >= DAY:
        floor = floor.replace(hour=0)
    return floor.astimezone(UTC)
