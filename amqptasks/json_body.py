"""JSON as Celery's peers write and read it, at orjson's speed.

`{"__type__": "datetime", "__value__": "2026-..."}` stands for bytes, base64, datetime, date, time, decimal
and uuid (kombu's extension); an object with `__json__()` is written as what that returns. orjson does the
work where its answer is the one that Python's own `json` would give; elsewhere `json` does: integers beyond
64 bits, NaN and infinities, keys that are not text, lone surrogates, deep nesting. Knows no messages.
"""

from __future__ import annotations

import base64
import enum
import json
import math
import re
import sys
import uuid
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import orjson

from amqptasks.errors import DecodeError, EncodeError

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS

# orjson writes a UUID as text without asking (and NaN and the infinities as null).
_UUID = re.compile(rb'"[0-9a-f]{8}-[0-9a-f]{4}-')
# It reads integers beyond 64 bits, which have 19 digits or more, as floats. Mapping every digit to 0 finds
# those ten times faster than a regular expression does.
_DIGITS = bytes(ord("0" if chr(octet) in "0123456789" else " ") for octet in range(256))
_WIDE = b"0" * 19


def dumps(value: Any) -> bytes:
    """Return `value` as JSON. Raises EncodeError, naming the type that JSON has not."""
    try:
        body = orjson.dumps(value, _typed, _OPTIONS)
    except TypeError:
        return _dumps_slowly(value)
    if (b"null" in body or (b"-" in body and _UUID.search(body) is not None)) and _misread(value):
        return _dumps_slowly(value)
    return body


def loads(body: bytes) -> Any:
    """Return the value in `body`. Raises ValueError (or RecursionError) for what is no JSON."""
    if b'"__type__"' in body or _WIDE in body.translate(_DIGITS):
        return json.loads(body, object_hook=_untyped)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body, object_hook=_untyped)


def _dumps_slowly(value: Any) -> bytes:
    try:
        return json.dumps(value, default=_typed, separators=(",", ":")).encode()
    except EncodeError:
        raise
    except Exception as error:
        raise EncodeError(
            f"the serializer 'json' cannot write this: {type(error).__name__}: {error}"
        ) from error


_PLAIN = frozenset({str, int, bool, type(None)})


def _misread(value: Any) -> bool:
    """Whether `value` holds something that orjson writes in its own way."""
    rest = [value]
    while rest:
        one = rest.pop()
        kind = type(one)
        if kind is dict or isinstance(one, dict):
            rest += [inner for inner in one.values() if type(inner) not in _PLAIN]
        elif isinstance(one, list | tuple):
            rest += [inner for inner in one if type(inner) not in _PLAIN]
        elif kind is float:
            if not math.isfinite(one):
                return True
        # What `__json__` returns may hold anything.
        elif kind not in _PLAIN and (isinstance(one, uuid.UUID | float) or hasattr(one, "__json__")):
            return True
    return False


# --- kombu's types ---------------------------------------------------------------------------------------


def _typed(value: Any) -> Any:
    """Return what stands for a value of a type that JSON has not. Raises EncodeError."""
    own = getattr(value, "__json__", None)
    if own is not None:
        return own()
    for kind, (name, encode) in _WRITTEN.items():
        if isinstance(value, kind):
            return encode(value) if name is None else {"__type__": name, "__value__": encode(value)}
    if isinstance(value, bytes):
        return _bytes(value)
    lazy = sys.modules.get("django.utils.functional")
    if lazy is not None and isinstance(value, lazy.Promise):
        return str(value)  # text that is translated when it is shown
    raise EncodeError(_refusal(value))


def _bytes(value: bytes) -> dict[str, str]:
    try:
        return {"__type__": "bytes", "__value__": value.decode()}
    except UnicodeDecodeError:
        return {"__type__": "base64", "__value__": base64.b64encode(value).decode()}


def _refusal(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    cure = (
        "pass a list"
        if isinstance(value, set | frozenset)
        else "pass plain values (an id rather than the object), or give the class a __json__() method"
    )
    return (
        f"the serializer 'json' cannot write a value of type {name}; {cure}, or choose another serializer "
        "(serializer='pickle', where the receiver accepts it)"
    )


def _untyped(found: dict[str, Any]) -> Any:
    if found.keys() != {"__type__", "__value__"}:
        return found
    name = found["__type__"]
    read = _READ.get(name) if isinstance(name, str) else None
    if read is None:
        raise DecodeError(f"JSON holds a value of type {name!r}, which nobody registered here")
    try:
        return read(found["__value__"])
    except Exception as error:
        raise DecodeError(f"JSON holds a {name} that cannot be read: {found['__value__']!r:.80}") from error


# A datetime is a date too, so it stands first.
_WRITTEN: dict[type, tuple[str | None, Callable[[Any], Any]]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    Decimal: ("decimal", str),
    uuid.UUID: ("uuid", lambda value: {"hex": value.hex}),
    # What `json` writes by itself, and orjson leaves to us or writes by itself: both ways shall agree.
    enum.Enum: (None, lambda value: value.value),
    tuple: (None, list),
    float: (None, float.__float__),
}
_READ: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda text: text.encode(),
    "base64": base64.b64decode,
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda parts: uuid.UUID(hex=parts["hex"]),
}


def register_type(
    kind: type,
    name: str | None,
    encode: Callable[[Any], Any],
    decode: Callable[[Any], Any] = lambda value: value,
) -> None:
    """Carry values of one more type, as kombu's function of this name does; in clients and workers alike.

    `encode` returns what JSON has; with `name` None that is written bare and comes back as it is.
    """
    _WRITTEN[kind] = (name, encode)
    if name is not None:
        _READ[name] = decode
