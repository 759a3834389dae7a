"""Numbers, times and states as people read them. Pure: a page's filters are these functions."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any

NOTHING = "\N{EN DASH}"

TONES = {
    "SUCCESS": "good",
    "FAILURE": "bad",
    "RETRY": "warn",
    "STARTED": "busy",
    "REVOKED": "odd",
    "REJECTED": "odd",
}
"""Which colour a state has; those without any are grey."""

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))

STATES = ("PENDING", "RECEIVED", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "REJECTED")
HELD = ("PENDING", "RECEIVED", "STARTED", "RETRY")
"""Those of a call that has not ended."""


def number(value: float | None) -> str:
    """1234 -> 1,234; 1234567 -> 1.23 M, for a tile has room for no more."""
    if value is None:
        return NOTHING
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:.3g} M"
    return f"{value:,.0f}"


def rate(value: float | None) -> str:
    """A number a second, with as many digits as one can follow."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if value < 0.05:
        return "< 0.1"
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """0.0034 -> 3.4 ms; 200 -> 3 min 20 s."""
    if value is None:
        return NOTHING
    if value < 0.001:
        return "0 ms" if value <= 0 else f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1000:.3g} ms"
    if value < 60:
        return f"{value:.3g} s"
    for size, large, small, per in (
        (3600, "min", "s", 60),
        (86400, "h", "min", 3600),
        (math.inf, "d", "h", 86400),
    ):
        if value < size:
            whole, rest = divmod(value, per)
            rest //= {60: 1, 3600: 60, 86400: 3600}[per]
            return f"{whole:.0f} {large} {rest:.0f} {small}" if rest else f"{whole:.0f} {large}"
    raise AssertionError


def ago(moment: float | None, now: float) -> str:
    """How long before `now`: 12 s ago; or after it: in 12 s."""
    if not moment:
        return NOTHING
    gone = now - moment
    if abs(gone) < 1:
        return "now"
    said = _about(abs(gone))
    return f"{said} ago" if gone > 0 else f"in {said}"


def age(value: float | None) -> str:
    """How long ago something was: 12 s ago."""
    if value is None:
        return NOTHING
    return "now" if value < 1 else f"{_about(value)} ago"


def _about(value: float) -> str:
    """One unit is enough of what goes on changing."""
    return next((f"{value // size:.0f} {unit}" for size, unit in _UNITS if value >= size), "0 s")


def stamp(moment: float | None) -> str:
    """2026-11-21 16:49:07 UTC."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC" if moment else NOTHING


def iso(moment: float | None) -> str:
    """For the attribute `datetime`, from which the browser tells the time of its own place."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds") if moment else ""


def size(value: float | None) -> str:
    """Bytes: 1536 -> 1.5 KiB."""
    if value is None:
        return NOTHING
    if value < 1024:
        return f"{value:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024 or unit == "GiB":
            break
    return f"{value:.3g} {unit}"


def tone(state: str) -> str:
    return TONES.get(state, "")


def plural(count: int, one: str, many: str = "") -> str:
    """1 worker, 2 workers."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def short(text: Any, most: int = 80) -> str:
    said = " ".join(str(text).split())
    return said if len(said) <= most else f"{said[: most - 1]}…"


def sentence(text: str) -> str:
    """With a capital and a full stop, as a message of ours becomes one that stands by itself."""
    said = " ".join(text.split())
    start = (
        said[:1].upper() if re.match(r"[a-z]+\b(?![@./:_-])", said) else said[:1]
    )  # a name keeps its first letter
    return start + said[1:] + ("" if not said or said[-1] in ".!?" else ".")


def timetable(text: str) -> str:
    """<crontab: 0 3 * * * (m/h/dM/MY/d)> -> 0 3 * * *; <freq: 30 s> -> every 30 s."""
    found = re.fullmatch(r"<(crontab|freq): (.*?)(?: \(m/h/dM/MY/d\))?>", text)
    return text if found is None else found[2] if found[1] == "crontab" else f"every {found[2]}"


FILTERS = {
    "number": number, "rate": rate, "seconds": seconds, "ago": ago, "age": age, "stamp": stamp, "iso": iso,
    "size": size, "tone": tone, "plural": plural, "short": short, "sentence": sentence, "timetable": timetable,
}  # fmt: skip
