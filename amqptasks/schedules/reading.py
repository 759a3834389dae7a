"""Schedules from what users write: numbers, objects, and the JSON that a beat keeps on the broker."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from amqptasks.errors import ImproperlyConfigured
from amqptasks.schedules.base import BaseSchedule, schedule
from amqptasks.schedules.crontabs import crontab
from amqptasks.schedules.sun import solar


def from_spec(spec: Mapping[str, Any]) -> BaseSchedule:
    """Return the schedule that `spec()` told of. Raises ImproperlyConfigured."""
    match spec:
        case {"every": int() | float() as every}:
            return schedule(every, bool(spec.get("relative")))
        case {"cron": str(text)}:
            return crontab.from_string(text, spec.get("tz"))
        case {"solar": [str(event), int() | float() as lat, int() | float() as lon]}:
            return solar(event, lat, lon)
    raise ImproperlyConfigured(
        f"{spec!r} is no schedule; give 'every' in seconds, or 'cron' with five fields"
    )


def as_schedule(given: Any, relative: bool = False) -> BaseSchedule:
    """Return the schedule that a number of seconds, a `timedelta`, or one of Celery's own objects stands for, and a
    schedule as it is. Raises ImproperlyConfigured.
    """
    if isinstance(given, BaseSchedule):
        return given
    if isinstance(given, int | float | timedelta) and not isinstance(given, bool):
        return schedule(given, relative)
    if type(given).__module__ == "celery.schedules":
        return _celerys(given, relative)
    raise ImproperlyConfigured(
        f"{given!r} is no schedule; give seconds, a timedelta, or an object of amqptasks.schedules"
    )


def _celerys(given: Any, relative: bool) -> BaseSchedule:
    """The settings of a Celery app may hold its own objects; they are read without importing Celery."""
    match type(given).__name__:
        case "schedule":
            return schedule(given.run_every, given.relative or relative, given.nowfun)
        case "crontab":
            fields = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
            written = {field: getattr(given, f"_orig_{field}") for field in fields}
            return crontab(**written, nowfun=given.nowfun)
        case "solar":
            return solar(given.event, given.lat, given.lon, given.nowfun)
    raise ImproperlyConfigured(f"{given!r} is Celery's; write it with amqptasks.schedules")
