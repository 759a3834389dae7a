"""The fields of a crontab as sets of numbers: `*/15`, `mon-fri`, `1-7,15-21`. Celery's grammar, checked strictly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from amqptasks.errors import ImproperlyConfigured


class Range(NamedTuple):
    """The numbers a field may have, and the names that stand for them."""

    low: int
    high: int
    names: tuple[str, ...] = ()


FIELDS: Mapping[str, Range] = {
    "minute": Range(0, 59),
    "hour": Range(0, 23),
    "day_of_week": Range(0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
    "day_of_month": Range(1, 31),
    "month_of_year": Range(
        1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
    ),
}
_PART = re.compile(r"(?:(?P<star>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")


def field_text(value: str | int | Iterable[int]) -> str:
    """Return a field as it is written; collections are joined by commas."""
    if isinstance(value, str):
        return value.replace(" ", "")
    if isinstance(value, int):
        return str(value)
    return ",".join(str(each) for each in sorted(value))


def expand(field: str, text: str) -> set[int]:
    """Return the numbers that `text` means. Raises ImproperlyConfigured with what is wrong."""
    numbers: set[int] = set()
    for part in text.split(","):
        numbers.update(_part(field, FIELDS[field], part))
    return numbers


def _part(field: str, within: Range, part: str) -> list[int]:
    read = _PART.fullmatch(part)
    step = int(read["step"]) if read is not None and read["step"] else 1
    if read is None or step < 1:
        raise ImproperlyConfigured(
            f"{part!r} cannot be read as the {field} of a crontab; write numbers, 1-5, a list 1,3,5, or */15"
        )
    if read["star"]:
        return list(range(within.low, within.high + 1))[::step]
    first = _number(field, within, read["first"])
    if not read["last"]:
        # `5/10` names no range that could have steps; Celery takes the number alone, and nobody means that.
        if read["step"]:
            raise ImproperlyConfigured(
                f"{part!r} in {field} has steps without a range; write {first}-{within.high}/{step}"
            )
        return [first]
    last = _number(field, within, read["last"])
    if last < first:  # `fri-mon` goes over the end
        return [*range(first, within.high + 1), *range(within.low, last + 1)][::step]
    return list(range(first, last + 1))[::step]


def _number(field: str, within: Range, word: str) -> int:
    if word.isdecimal():
        number = int(word)
        if within.low <= number <= within.high:
            return number
        raise ImproperlyConfigured(
            f"{number} is no {field} of a crontab; it lies between {within.low} and {within.high}"
        )
    if word[:3].lower() in within.names and len(word) >= 3:
        return within.low + within.names.index(word[:3].lower())
    raise ImproperlyConfigured(
        f"{word!r} is no {field} of a crontab; write a number between {within.low} and {within.high}"
    )
