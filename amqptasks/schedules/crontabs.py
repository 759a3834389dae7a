"""Crontabs with Celery's fields and meaning, and what becomes of them where the clock is changed. Pure."""

from __future__ import annotations

from bisect import bisect_left
from calendar import monthrange
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import time as clock_time
from functools import lru_cache
from itertools import product
from typing import Any, Self

from amqptasks.errors import ImproperlyConfigured
from amqptasks.schedules.base import DAY, BaseSchedule, local_zone, zone_of
from amqptasks.schedules.cronfields import expand, field_text

Cronspec = str | int | Iterable[int]

MINUTE = timedelta(minutes=1)
YEARS = 41
"""How far ahead a crontab is searched: the 29th of February is on a given weekday at least once in forty years."""


class crontab(BaseSchedule):  # noqa: N801 (Celery's name)
    """At times given as in a crontab; a minute is due when all five fields match, as in Celery.

    Fields are numbers, names (`mon-fri`), lists, ranges and steps (`*/15`), or collections of numbers. Sunday is 0.
    `tz` is a zone, or its IANA name; without it the app's counts.

    Where the clock is put forward, times inside the gap run once, at its end; where it is put back, they run once, at
    their first occurrence. A crontab of every hour (`hour="*"`) follows the real hours instead: none is skipped and
    each of the repeated ones counts.

    Raises ImproperlyConfigured for a field that cannot be, or a date that never comes.
    """

    def __init__(  # noqa: PLR0917 (Celery's order)
        self,
        minute: Cronspec = "*",
        hour: Cronspec = "*",
        day_of_week: Cronspec = "*",
        day_of_month: Cronspec = "*",
        month_of_year: Cronspec = "*",
        tz: tzinfo | str | None = None,
        nowfun: Callable[[], datetime] | None = None,
        app: object = None,
    ) -> None:
        fields = {
            "minute": minute,
            "hour": hour,
            "day_of_week": day_of_week,
            "day_of_month": day_of_month,
            "month_of_year": month_of_year,
        }
        self._texts = {name: field_text(value) for name, value in fields.items()}
        self.minute, self.hour, self.day_of_week, self.day_of_month, self.month_of_year = (
            frozenset(expand(name, value)) for name, value in self._texts.items()
        )
        if not any(d <= monthrange(2024, m)[1] for m, d in product(self.month_of_year, self.day_of_month)):
            raise ImproperlyConfigured(
                f"{self!r} never comes: no such month has such a day; correct the crontab"
            )
        self.tz = zone_of(tz)
        super().__init__(nowfun, app)
        self._times = tuple(sorted(h * 60 + m for h, m in product(self.hour, self.minute)))

    @classmethod
    def from_string(cls, text: str, tz: tzinfo | str | None = None) -> Self:
        """Read `minute hour day_of_month month_of_year day_of_week`, the order of crontab files."""
        fields = text.split()
        if len(fields) != 5:
            raise ImproperlyConfigured(
                f"{text!r} has {len(fields)} fields; a crontab has five: minute hour day month weekday"
            )
        minute, hour, day, month, weekday = fields
        return cls(minute, hour, weekday, day, month, tz)

    def next_after(self, last: datetime, zone: tzinfo | None = None) -> datetime | None:
        """As `BaseSchedule.next_after`."""
        place = self.tz or zone or local_zone()
        start = last.astimezone(place)
        for day in self._days(start.date()):
            found = self._in_day(day, place, last)
            if found is not None:
                return found
        return None

    def _days(self, first: date) -> Iterator[date]:
        """Yield the days that match, from `first` on."""
        year, month = first.year, first.month
        for _ in range(YEARS * 12):
            if month in self.month_of_year:
                for number in sorted(self.day_of_month):
                    if number <= monthrange(year, month)[1]:
                        day = date(year, month, number)
                        if day >= first and day.isoweekday() % 7 in self.day_of_week:
                            yield day
            year, month = (year + 1, 1) if month == 12 else (year, month + 1)

    def _in_day(self, day: date, place: tzinfo, last: datetime) -> datetime | None:
        if _has_one_offset(day, place):
            start = _at(day, 0, place)
            minutes = (last - start) // MINUTE + 1  # the first minute that is later
            index = bisect_left(self._times, minutes)
            return start + self._times[index] * MINUTE if index < len(self._times) else None
        return next((each for each in self._across_a_change(day, place) if each > last), None)

    def _across_a_change(self, day: date, place: tzinfo) -> list[datetime]:
        """All due times of a day in which the clock is changed."""
        if len(self.hour) == 24:
            start, end = _at(day, 0, place), _at(day + DAY, 0, place)
            each = (start + number * MINUTE for number in range((end - start) // MINUTE))
            return [moment for moment in each if moment.astimezone(place).minute in self.minute]
        return sorted({_at(day, minutes, place) for minutes in self._times})

    def spec(self) -> Mapping[str, Any]:
        return {"cron": self.text, "tz": None if self.tz is None else str(self.tz)}

    @property
    def text(self) -> str:
        """The five fields in the order of crontab files."""
        names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        return " ".join(self._texts[name] for name in names)

    def __repr__(self) -> str:
        return f"<crontab: {self.text} (m/h/dM/MY/d){f' {self.tz}' if getattr(self, 'tz', None) else ''}>"


def _at(day: date, minutes: int, place: tzinfo) -> datetime:
    """The moment, in UTC, of a time of day: the first of two, and the gap's end for one that does not exist."""
    naive = datetime.combine(day, clock_time.min) + minutes * MINUTE
    moment = naive.replace(tzinfo=place).astimezone(UTC)
    if moment.astimezone(place).replace(tzinfo=None) == naive:
        return moment
    # fold=0 counts with the offset before the gap, so `moment` lies behind it by as much as `naive` lies inside.
    before, after = naive.replace(tzinfo=place).utcoffset(), naive.replace(tzinfo=place, fold=1).utcoffset()
    assert before is not None
    assert after is not None
    low, high = moment - (after - before) if after > before else moment, moment
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) / 2
        if middle.astimezone(place).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


@lru_cache(maxsize=4096)
def _has_one_offset(day: date, place: tzinfo) -> bool:
    start, end = _at(day, 0, place), _at(day + DAY, 0, place)
    return (
        end - start == DAY
        and len({(start + n * DAY / 8).astimezone(place).utcoffset() for n in range(9)}) == 1
    )
