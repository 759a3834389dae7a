"""What senders of every age and language write, as the values we work with; or InvalidMessage. Pure.

Lenient where a sender cannot mean anything else (PHP's empty mapping is `[]`), strict where a wrong guess
would run a task otherwise than it was called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from amqptasks.amqp import Envelope
from amqptasks.errors import InvalidMessage
from amqptasks.serialization import loads


def body_of(envelope: Envelope, accept: frozenset[str], limit: int) -> Any:
    """Return what the body says. Raises ContentDisallowed, DecodeError, Inflated."""
    properties = envelope.properties
    return loads(
        envelope.body,
        properties.content_type,
        properties.content_encoding,
        accept=accept,
        compression=properties.headers.get("compression") if properties.headers else None,
        limit=limit,
    )


def name(value: Any, field: str) -> str:
    """Return the required text of `task` or `id`."""
    if isinstance(value, str) and value:
        return value
    raise InvalidMessage(f"{field!r} must be a text that names the call, not {value!r:.60}")


def text(value: Any) -> str | None:
    """Return what only informs: as text, whatever it was."""
    return value if value is None or isinstance(value, str) else str(value)


def whole(value: Any, field: str) -> int:
    """Return a count; 0 when there is none."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise InvalidMessage(f"{field!r} must be a whole number, not {value!r:.40}")
    return int(value)


def index(value: Any, field: str) -> int | None:
    """Return a position, or None."""
    return None if value is None else whole(value, field)


def moment(value: Any, field: str, *, utc: bool = True) -> datetime | None:
    """Return an ISO 8601 time, aware. Without an offset it is UTC, or with `utc` false this machine's own."""
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        found = value
    else:
        try:
            found = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            raise InvalidMessage(
                f"{field!r} must be a time such as 2030-01-31T12:00:00+00:00, not {value!r:.60}"
            ) from None
    if found.tzinfo is not None:
        return found
    return found.replace(tzinfo=UTC) if utc else found.astimezone(UTC)


def limits(pair: Any) -> tuple[float | None, float | None]:
    """Return (hard, soft) seconds."""
    match pair:
        case None | []:
            return None, None
        case [None, None]:
            return None, None
        case [hard, soft]:
            return _seconds(hard), _seconds(soft)
    raise InvalidMessage(f"'timelimit' must be [hard, soft], not {pair!r:.60}")


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidMessage(f"a time limit must be a number of seconds, not {value!r:.40}")
    return value


def listed(value: Any, field: str) -> Sequence[Any]:
    """Return a sequence; empty when there is none."""
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return value
    raise InvalidMessage(f"{field!r} must be a list, not {type(value).__name__}")


def optional_list(value: Any, field: str) -> Sequence[Any] | None:
    """Return a sequence; None when there is none."""
    return None if value is None else listed(value, field)


def mapped(value: Any, field: str) -> Mapping[str, Any]:
    """Return a mapping with texts as keys; empty when there is none."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                return _keys_as_text(value, field)
        return value
    if value is None or value == []:
        return {}
    raise InvalidMessage(f"{field!r} must be a mapping, not {type(value).__name__}")


def _keys_as_text(value: Mapping[Any, Any], field: str) -> dict[str, Any]:
    """Python 2 pickled and packed its keys as bytes."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(key, bytes):
            found[key.decode("utf-8", "replace")] = inner
        elif isinstance(key, str):
            found[key] = inner
        else:
            raise InvalidMessage(f"{field!r} has a key that is no text: {key!r:.60}")
    return found
