"""Text for terminals: what may be shown of foreign text, cut to a width, coloured; numbers, ages, sparklines. Pure."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

STYLES = {
    "bold": "1", "dim": "2", "reverse": "7", "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35",
    "cyan": "36", "alarm": "1;37;41", "head": "1;4",
}  # fmt: skip
BARS = "▁▂▃▄▅▆▇█"
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
STATES = {
    "SUCCESS": "green", "FAILURE": "red", "REVOKED": "magenta", "REJECTED": "magenta", "RETRY": "yellow",
    "STARTED": "cyan", "RECEIVED": "blue", "PENDING": "dim",
}  # fmt: skip


def styled(text: str, style: str, *, coloured: bool) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if coloured and style else text


def printable(text: str) -> str:
    """Return text that changes nothing but its own cells: no control character, no direction override."""
    return text if text.isascii() and text.isprintable() else "".join(map(_seen, text))


@lru_cache(maxsize=4096)
def _seen(char: str) -> str:
    if char in "\n\t\r":
        return " "
    return "·" if unicodedata.category(char) in _INVISIBLE else char


@lru_cache(maxsize=4096)
def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def width(text: str) -> int:
    """Return how many cells a text takes."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def fitted(text: str, cells: int, *, right: bool = False) -> str:
    """Return text of exactly so many cells: filled up, or cut with an ellipsis."""
    # Most of a long text is never looked at.
    text = printable(text[: cells * 4 + 8])
    taken = width(text)
    if taken > cells:
        kept, taken = "", 0
        for char in text:
            if taken + _cells(char) > cells - 1:
                break
            kept, taken = kept + char, taken + _cells(char)
        text, taken = (kept + "…", taken + 1) if cells > 0 else ("", 0)
    room = " " * (cells - taken)
    return room + text if right else text + room


def sparkline(values: Sequence[float | None], cells: int) -> str:
    """Return the last values as bars, scaled to the highest; a blank where nothing was measured."""
    shown = values[-cells:]
    most = max((value for value in shown if value is not None), default=0.0)
    scale = (len(BARS) - 1) / most if most > 0 else 0.0
    return "".join(" " if value is None else BARS[round(value * scale)] for value in shown)


def count(value: int | None) -> str:
    """1234 -> 1234, 81234 -> 81.2k, 1234567 -> 1.23M."""
    if value is None:
        return "-"
    for divisor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        scaled = value / divisor
        if scaled >= (10 if unit == "k" else 0.9995):
            return f"{scaled:.3g}{unit}" if scaled < 999.5 else f"{scaled:.0f}{unit}"
    return str(value)


def rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def span(seconds: float | None) -> str:
    """A duration: 12ms, 1.5s, 12m, 3.0h, 2.0d."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    for limit, unit, most in ((1, "s", 100), (60, "m", 100), (3600, "h", 48)):
        if seconds < limit * most:
            value = seconds / limit
            return f"{value:.0f}{unit}" if value >= 10 else f"{value:.1f}{unit}"
    return f"{seconds / 86_400:.1f}d"


def size(value: int | None) -> str:
    """Bytes: 512B, 59.0M."""
    if value is None:
        return "-"
    scaled = float(value)
    for unit in ("B", "K", "M", "G"):
        if scaled < 1024 or unit == "G":
            break
        scaled /= 1024
    return f"{scaled:.0f}{unit}" if unit == "B" or scaled >= 100 else f"{scaled:.1f}{unit}"


def clock(at: float | None) -> str:
    """The time of the day, here; with the date when it is another day."""
    if at is None:
        return "-"
    moment = time.localtime(at)
    same = moment[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if same else "%d %b %H:%M", moment)
