"""Values to bytes and back: serializers and compression, by the content types of Celery's wire. Knows no messages.

JSON is orjson's, with kombu's extension for what JSON has not: `{"__type__": "datetime", "__value__": ...}`, and an
object's own `__json__()`. What arrives is decoded only if its content type is accepted, and only up to a size.
"""

from __future__ import annotations

import base64
import json
import pickle
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import orjson

from amqptasks.compression import compress, inflate
from amqptasks.errors import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured


@dataclass(frozen=True, slots=True)
class Encoded:
    """A body and what the receiver must be told about it; `compression` is a header's value."""

    body: bytes
    content_type: str
    content_encoding: str
    compression: str | None = None


@dataclass(frozen=True, slots=True)
class Serializer:
    """How one content type is written and read."""

    name: str
    content_type: str
    content_encoding: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


def dumps(value: Any, serializer: str, compression: str | None = None) -> Encoded:
    """Return `value` as bytes. Raises EncodeError, naming what cannot be written and the cure."""
    chosen = _BY_NAME.get(serializer) or find(serializer)
    try:
        body = chosen.dumps(value)
    except EncodeError:
        raise
    except Exception as error:
        raise EncodeError(f"{chosen.name} cannot write {value!r:.120}: {error}; {_CURE}") from error
    if compression is None:
        return Encoded(body, chosen.content_type, chosen.content_encoding)
    kind, packed = compress(body, compression)
    return Encoded(packed, chosen.content_type, chosen.content_encoding, kind)


def loads(
    body: bytes,
    content_type: str | None,
    content_encoding: str | None = None,
    *,
    accept: frozenset[str],
    compression: str | None = None,
    limit: int,
) -> Any:
    """Return the value in `body`. `limit` is the most bytes that it may decompress to.

    Raises ContentDisallowed before a byte is decoded, Inflated, and DecodeError.
    """
    content_type = content_type or "application/data"
    chosen = _BY_TYPE.get(content_type)
    if content_type not in accept:
        name = chosen.name if chosen is not None else content_type
        raise ContentDisallowed(
            f"content type {content_type} is not accepted here; if you trust its senders, add {name!r} to accept_content"
        )
    if chosen is None:
        raise DecodeError(f"no serializer reads content type {content_type}; see serialization.register")
    if compression:
        body = inflate(body, compression, limit)
    try:
        return chosen.loads(body)
    except Exception as error:
        raise DecodeError(f"the body is not {chosen.name}, as its content type says: {error}") from error


def accept_set(names: Iterable[str]) -> frozenset[str]:
    """Return the content types meant by names (`json`) or content types. Raises ImproperlyConfigured."""
    return frozenset(find(name).content_type for name in names)


def find(name: str) -> Serializer:
    """Return a serializer by its name or content type. Raises ImproperlyConfigured."""
    found = _BY_NAME.get(name) or _BY_TYPE.get(name)
    if found is None:
        raise ImproperlyConfigured(
            f"no serializer is named {name!r}; there are {', '.join(sorted(_BY_NAME))}"
        )
    return found


def register(
    name: str,
    dumps: Callable[[Any], bytes],
    loads: Callable[[bytes], Any],
    content_type: str,
    content_encoding: str = "binary",
) -> None:
    """Add a serializer of your own, in clients and workers alike; it must be in `accept_content` to be read."""
    serializer = Serializer(name, content_type, content_encoding, dumps, loads)
    _BY_NAME[name] = _BY_TYPE[content_type] = serializer


# --- json ------------------------------------------------------------------------------------------------

_CURE = "send plain values, give the object a __json__() method, or choose another serializer"
# orjson writes dates and UUIDs in its own way and dataclasses as mappings; Celery's peers expect kombu's types.
_OPTIONS = (
    orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
)


def _json_dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value, default=_extended, option=_OPTIONS)
    except (orjson.JSONEncodeError, TypeError) as error:
        if isinstance(error.__cause__, EncodeError):
            raise error.__cause__ from None
        # Integers beyond 64 bits, keys that are not text, deep nesting: the standard library writes them.
        return json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False).encode(
            "utf-8", "surrogatepass"
        )


def _json_loads(body: bytes) -> Any:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = json.loads(body)  # NaN, integers beyond 64 bits, lone surrogates
    # Only a body that mentions the extension pays for looking at every value.
    return _restored(value) if b'"__type__"' in body else value


def _extended(value: Any) -> Any:
    match value:
        case uuid.UUID():
            return _typed("uuid", {"hex": value.hex})
        case datetime():
            return _typed("datetime", value.isoformat())
        case date():
            return _typed("date", value.isoformat())
        case time():
            return _typed("time", value.isoformat())
        case Decimal():
            return _typed("decimal", str(value))
        case bytes() | bytearray() | memoryview():
            return _bytes(bytes(value))
        case dict():
            return dict(value)
        case list() | tuple():
            return list(value)
        case str():
            return str.__str__(value)
        case int():
            return int(value)
    if hasattr(value, "__json__"):
        return value.__json__()
    raise EncodeError(f"json cannot write {type(value).__name__} {value!r:.80}; {_CURE}")


def _plain(value: Any) -> Any:
    """The value with kombu's types in place, for the standard library's encoder."""
    match value:
        case None | bool() | float() | int():
            return value
        case str() if type(value) is str:
            return value
        case dict():
            return {_text_key(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
    return _plain(_extended(value))


def _text_key(key: Any) -> Any:
    if isinstance(key, bytes):
        return key.decode()
    return key if key is None or isinstance(key, str | int | float | bool) else str(key)


def _typed(name: str, value: Any) -> dict[str, Any]:
    return {"__type__": name, "__value__": value}


def _bytes(value: bytes) -> dict[str, Any]:
    try:
        return _typed("bytes", value.decode())
    except UnicodeDecodeError:
        return _typed("base64", base64.b64encode(value).decode())


_RESTORERS: dict[str, Callable[[Any], Any]] = {
    "bytes": str.encode,
    "base64": base64.b64decode,
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": lambda parts: uuid.UUID(**parts),
}


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if "__type__" in value and "__value__" in value:
        restore = _RESTORERS.get(value["__type__"])
        if restore is None:
            raise DecodeError(f"unknown JSON extension {value['__type__']!r}")
        return restore(_restored(value["__value__"]))
    return {key: _restored(inner) for key, inner in value.items()}


# --- the others: their packages are extras ---------------------------------------------------------------


def _missing(package: str, extra: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(f"{package} is not installed: pip install 'amqptasks[{extra}]'")


def _msgpack_dumps(value: Any) -> bytes:
    try:
        import msgspec
    except ImportError:
        raise _missing("msgspec", "msgpack") from None
    return msgspec.msgpack.encode(value)


def _msgpack_loads(body: bytes) -> Any:
    try:
        import msgspec
    except ImportError:
        raise _missing("msgspec", "msgpack") from None
    return msgspec.msgpack.decode(body)


def _yaml_dumps(value: Any) -> bytes:
    try:
        import yaml
    except ImportError:
        raise _missing("pyyaml", "yaml") from None
    text: str = yaml.safe_dump(_listed(value), allow_unicode=True)
    return text.encode()


def _yaml_loads(body: bytes) -> Any:
    try:
        import yaml
    except ImportError:
        raise _missing("pyyaml", "yaml") from None
    return yaml.safe_load(body)


def _listed(value: Any) -> Any:
    """Tuples as lists: the safe dumper knows no others."""
    if isinstance(value, dict):
        return {key: _listed(inner) for key, inner in value.items()}
    return [_listed(inner) for inner in value] if isinstance(value, list | tuple) else value


def _pickle_dumps(value: Any) -> bytes:
    return pickle.dumps(value, protocol=4)


_BY_NAME: dict[str, Serializer] = {}
_BY_TYPE: dict[str, Serializer] = {}
register("json", _json_dumps, _json_loads, "application/json", "utf-8")
register("msgpack", _msgpack_dumps, _msgpack_loads, "application/x-msgpack")
register("yaml", _yaml_dumps, _yaml_loads, "application/x-yaml", "utf-8")
register("pickle", _pickle_dumps, pickle.loads, "application/x-python-serialize")
