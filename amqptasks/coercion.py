"""Brings a user's value to the type that an annotation declares, or says what was expected. Pure.

Understands the annotations that `settings` uses. Text is read as the type wants it: "4", "true", "a,b", JSON,
because half of all configurations come from the environment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True, slots=True)
class Between:
    """The closed range that a number must lie in."""

    low: float = float("-inf")
    high: float = float("inf")


@dataclass(frozen=True, slots=True)
class Lenient:
    """How a user's value is brought to the declared type before it is checked.

    `convert` leaves what it does not know as it is, or raises ValueError with a sentence for the user.
    """

    convert: Callable[[Any], Any]


Seconds = Annotated[float, Between(0)]
Count = Annotated[int, Between(1)]
Natural = Annotated[int, Between(0)]
Priority = Annotated[int, Between(0, 255)]
Port = Annotated[int, Between(0, 65535)]
Strings = tuple[str, ...]


_TRUTHS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def coerce(annotation: Any, value: Any) -> Any:
    """Return `value` as the annotated type.

    Raises TypeError when it is of another kind (`describe` says what was expected), and ValueError with a
    sentence when it is of the kind and still wrong.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        return _constrained(annotation, value)
    if origin in (Union, UnionType):
        return _either(get_args(annotation), value)
    if origin is Literal:
        return _literal(get_args(annotation), value)
    if annotation is Any:
        return _json(value)
    if annotation is NoneType:
        return _none(value)
    return _plain(origin or annotation, value)


def describe(annotation: Any) -> str:
    """Return what `coerce` accepts, in words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *marks = get_args(annotation)
        return " ".join([describe(base), *(_range(mark) for mark in marks if isinstance(mark, Between))])
    if origin in (Union, UnionType):
        return " or ".join(describe(part) for part in get_args(annotation))
    if origin is Literal:
        return " or ".join(repr(choice) for choice in get_args(annotation))
    return _WORDS.get(origin or annotation, str(annotation))


_WORDS: Mapping[Any, str] = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a string",
    bytes: "bytes",
    tuple: "a list of strings",
    NoneType: "None",
    Mapping: "a dict",
    Sequence: "a list",
    Any: "anything",
}


def _range(mark: Between) -> str:
    if mark.high == float("inf"):
        return f"of at least {mark.low:g}"
    return f"from {mark.low:g} to {mark.high:g}"


def _constrained(annotation: Any, value: Any) -> Any:
    base, *marks = get_args(annotation)
    for mark in marks:
        if isinstance(mark, Lenient):
            value = mark.convert(value)
    value = coerce(base, value)
    for mark in marks:
        if isinstance(mark, Between) and value is not None and not mark.low <= value <= mark.high:
            raise TypeError
    return value


def _either(choices: tuple[Any, ...], value: Any) -> Any:
    # None is tried first so that "none" in the environment is not taken for a string.
    for choice in sorted(choices, key=lambda choice: choice is not NoneType):
        try:
            return coerce(choice, value)
        except TypeError:
            continue
    raise TypeError


def _literal(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    if isinstance(value, str):
        for choice in choices:
            if str(choice).casefold() == value.strip().casefold():
                return choice
    raise TypeError


def _none(value: Any) -> None:
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "none", "null")):
        return
    raise TypeError


def _json(value: Any) -> Any:
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("it looks like JSON and is not") from None


def _plain(kind: Any, value: Any) -> Any:
    if kind is bool:
        return _boolean(value)
    if kind in (int, float):
        return _number(kind, value)
    if kind is tuple:
        return _strings(value)
    if kind in (Mapping, Sequence):
        value = _json(value)
        if isinstance(value, str | bytes) or not isinstance(value, kind):
            raise TypeError
        return value
    if not isinstance(value, kind):
        raise TypeError
    return value


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, int | str) else ""
    if word not in _TRUTHS:
        raise TypeError
    return _TRUTHS[word]


def _number(kind: type[int | float], value: Any) -> int | float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    try:
        number = float(value)
        whole = int(value) if isinstance(value, int | str) and kind is int else int(number)
    except (ValueError, OverflowError):
        raise TypeError from None
    if kind is float:
        return number
    if whole != number:
        raise TypeError
    return whole


def _strings(value: Any) -> tuple[str, ...]:
    value = _json(value)
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if not isinstance(value, list | tuple | set | frozenset) or not all(
        isinstance(part, str) for part in value
    ):
        raise TypeError
    return tuple(value)
