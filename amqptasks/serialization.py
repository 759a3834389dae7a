"""Values to bytes and back: serializers and compression, by the content types of Celery's wire.

What arrives is decoded only if its content type is accepted, and only up to a size. Knows no messages.
"""

from __future__ import annotations

import codecs
import difflib
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from amqptasks import json_body
from amqptasks.compression import compress, inflate
from amqptasks.errors import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from amqptasks.json_body import register_type

__all__ = ["Encoded", "Serializer", "accept_set", "dumps", "find", "loads", "register", "register_type"]


class Encoded(NamedTuple):
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
    """Return `value` as bytes.

    Raises EncodeError, which names what cannot be written and the cure, and ImproperlyConfigured for a
    serializer or compression that is not there.
    """
    chosen = _BY_NAME.get(serializer) or find(serializer)
    try:
        body = chosen.dumps(value)
    except (EncodeError, ImproperlyConfigured):
        raise
    except Exception as error:
        raise EncodeError(_unwritten(chosen, value, error)) from error
    if not compression:
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
    """Return the value in `body`; `limit` is the most bytes that it may inflate to.

    A sender that gives no content type means JSON. Raises ContentDisallowed before a byte is decoded,
    Inflated and DecodeError.
    """
    kind = content_type or JSON
    chosen = _BY_TYPE.get(kind)
    if chosen is None and ";" in kind:  # application/json; charset=utf-8
        kind = kind.partition(";")[0].strip().lower()
        chosen = _BY_TYPE.get(kind)
    if kind not in accept:
        name = chosen.name if chosen is not None else kind
        raise ContentDisallowed(
            f"content type {kind!r} is not accepted; if you trust its senders, add {name!r} to accept_content"
        )
    if chosen is None:
        raise DecodeError(f"no serializer reads content type {kind!r}; see serialization.register")
    if compression:
        body = inflate(body, compression, limit)
    try:
        if content_encoding not in _UTF8 and chosen.content_encoding == "utf-8":
            body = codecs.decode(body, content_encoding or "utf-8").encode("utf-8", "surrogatepass")
        return chosen.loads(body)
    except (DecodeError, ImproperlyConfigured):
        raise
    except Exception as error:
        raise DecodeError(
            f"the body is not the {chosen.name} that its content type says: {type(error).__name__}: {error}"
        ) from error


def accept_set(names: Iterable[str]) -> frozenset[str]:
    """Return the content types meant by names (`json`) or content types. Raises ImproperlyConfigured."""
    return frozenset(find(name).content_type for name in names)


def find(name: str) -> Serializer:
    """Return a serializer by its name or content type. Raises ImproperlyConfigured."""
    found = _BY_NAME.get(name) or _BY_TYPE.get(name)
    if found is None:
        near = difflib.get_close_matches(str(name), _BY_NAME, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(_BY_NAME))}"
        raise ImproperlyConfigured(f"no serializer is named {name!r}; {hint}")
    return found


def register(
    name: str,
    dumps: Callable[[Any], bytes],
    loads: Callable[[bytes], Any],
    content_type: str,
    content_encoding: str = "binary",
) -> None:
    """Add a serializer of your own, in clients and workers alike; `accept_content` must name it, too."""
    serializer = Serializer(name, content_type, content_encoding, dumps, loads)
    _BY_NAME[name] = _BY_TYPE[content_type] = serializer


def _unwritten(chosen: Serializer, value: Any, error: Exception) -> str:
    culprit = _culprit(chosen, value)
    named = f"a value of type {type(culprit).__name__}"
    reason = str(error) or type(error).__name__
    cure = "pass plain values (an id rather than the object), or choose another serializer"
    return f"the serializer {chosen.name!r} cannot write {named}: {reason}; {cure}"


def _culprit(chosen: Serializer, value: Any) -> Any:
    """Return the innermost part of `value` that cannot be written."""
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple):
        parts = list(value)
    for part in parts:
        try:
            chosen.dumps(part)
        except RecursionError:
            return value
        except Exception:
            return _culprit(chosen, part)
    return value


# --- the others: their packages are extras ---------------------------------------------------------------


def _missing(serializer: str) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"the serializer {serializer!r} needs a package: pip install 'amqptasks[{serializer}]'"
    )


def _msgspec() -> Any:
    try:
        import msgspec  # noqa: PLC0415 - optional
    except ImportError:
        raise _missing("msgpack") from None
    return msgspec.msgpack


def _msgpack_dumps(value: Any) -> bytes:
    written: bytes = _msgspec().encode(_plain(value))
    return written


def _msgpack_loads(body: bytes) -> Any:
    return _msgspec().decode(body)


def _plain(value: Any) -> Any:
    """Return `value` if msgpack has all its types.

    msgspec would turn sets into lists and decimals into text: the task would not get what was passed.
    """
    if isinstance(value, dict):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    raise TypeError(f"msgpack has no {type(value).__name__}")


def _yaml() -> Any:
    try:
        import yaml  # noqa: PLC0415 - optional
    except ImportError:
        raise _missing("yaml") from None
    return yaml


def _yaml_dumps(value: Any) -> bytes:
    yaml = _yaml()
    written: bytes = yaml.dump(
        value, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True, encoding="utf-8"
    )
    return written


def _yaml_loads(body: bytes) -> Any:
    yaml = _yaml()
    return yaml.load(body, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _pickle_dumps(value: Any) -> bytes:
    return pickle.dumps(value, protocol=4)


JSON = "application/json"
# As written by us, by kombu, and by PHP; 'binary' says nothing of text.
_UTF8 = frozenset({"utf-8", "UTF-8", "utf8", "us-ascii", "binary", "", None})
_BY_NAME: dict[str, Serializer] = {}
_BY_TYPE: dict[str, Serializer] = {}
register("json", json_body.dumps, json_body.loads, JSON, "utf-8")
register("msgpack", _msgpack_dumps, _msgpack_loads, "application/x-msgpack")
register("yaml", _yaml_dumps, _yaml_loads, "application/x-yaml", "utf-8")
register("pickle", _pickle_dumps, pickle.loads, "application/x-python-serialize")
