"""Schedules by the sun: `solar("sunset", lat, lon)`. Needs the extra `solar`, which brings the library ephem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from amqptasks.errors import ImproperlyConfigured
from amqptasks.schedules.base import BaseSchedule

EVENTS: Mapping[str, tuple[str, str, bool]] = {  # the horizon in degrees, ephem's method, the sun's centre
    "dawn_astronomical": ("-18", "next_rising", True),
    "dawn_nautical": ("-12", "next_rising", True),
    "dawn_civil": ("-6", "next_rising", True),
    "sunrise": ("-0:34", "next_rising", False),
    "solar_noon": ("0", "next_transit", False),
    "sunset": ("-0:34", "next_setting", False),
    "dusk_civil": ("-6", "next_setting", True),
    "dusk_nautical": ("-12", "next_setting", True),
    "dusk_astronomical": ("-18", "next_setting", True),
}
POLAR_DAYS = 366


class solar(BaseSchedule):  # noqa: N801 (Celery's name)
    """At an event of the sun at a place: latitude north, longitude east, in degrees.

    Where the sun does not rise or set for weeks, the next time that it does. Raises ImproperlyConfigured for an event
    or place that does not exist, or without the extra `solar`.
    """

    def __init__(
        self,
        event: str,
        lat: float,
        lon: float,
        nowfun: Callable[[], datetime] | None = None,
        app: object = None,
    ) -> None:
        super().__init__(nowfun, app)
        if event not in EVENTS:
            raise ImproperlyConfigured(f"there is no solar event {event!r}; events are {', '.join(EVENTS)}")
        if not (-90 <= lat <= 90 and -180 <= lon <= 180):
            raise ImproperlyConfigured(
                f"there is no place {lat}, {lon}; latitudes go from -90 to 90, longitudes from -180 to 180"
            )
        self.event, self.lat, self.lon = event, float(lat), float(lon)
        _ephem()

    def next_after(self, last: datetime, zone: tzinfo | None = None) -> datetime | None:
        """As `BaseSchedule.next_after`; the zone does not matter."""
        ephem = _ephem()
        horizon, method, use_center = EVENTS[self.event]
        # A transit is at its second: one that was due must not be found again by its fraction.
        start = last.astimezone(UTC).replace(tzinfo=None) + timedelta(seconds=2)
        for day in range(POLAR_DAYS):
            place = ephem.Observer()
            place.lat, place.lon = str(self.lat), str(self.lon)
            place.elevation, place.pressure, place.horizon = 0, 0, horizon
            place.date = start + timedelta(days=day)
            try:
                extra: dict[str, Any] = {} if method == "next_transit" else {"use_center": use_center}
                found: datetime = getattr(place, method)(ephem.Sun(), **extra).datetime()
            except ephem.CircumpolarError:
                continue
            return found.replace(microsecond=0, tzinfo=UTC)
        return None

    def spec(self) -> Mapping[str, Any] | None:
        return {"solar": [self.event, self.lat, self.lon]}

    def __repr__(self) -> str:
        return f"<solar: {self.event} at latitude {self.lat:g}, longitude {self.lon:g}>"


def _ephem() -> Any:
    try:
        import ephem  # noqa: PLC0415 (optional: the extra solar)
    except ImportError:
        raise ImproperlyConfigured("solar schedules need ephem; run: pip install amqptasks[solar]") from None
    return ephem
