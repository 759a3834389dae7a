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
    """Return the schedule that a number of seconds or a `timedelta` stands for, and a schedule as it is."""
    if isinstance(given, BaseSchedule):
        return given
    if isinstance(given, int | float | timedelta) and not isinstance(given, bool):
        return schedule(given, relative)
    raise ImproperlyConfigured(
        f"{given!r} is no schedule; give seconds, a timedelta, or an object of amqptasks.schedules"
    )
