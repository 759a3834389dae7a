"""Celery's message protocol: calls and results to envelopes and back. Nothing else knows the wire's keys.

Version 2 is written; 2 and 1 are read, and of what others send only `task` and `id` are required. Pure.
Source: Celery's "Message Protocol" page, and what Celery 4.4 to 5.7 put on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from amqptasks.amqp import PERSISTENT, TRANSIENT, Address, Envelope, Properties
from amqptasks.errors import InvalidMessage
from amqptasks.serialization import dumps, loads
from amqptasks.wire_errors import decode_exception, encode_exception

__all__ = [
    "BROKER_HEADERS",
    "TaskMessage",
    "decode",
    "decode_exception",
    "decode_result",
    "encode",
    "encode_exception",
    "encode_result",
    "strip_broker_headers",
]

REPR_LENGTH = 1024
"""Characters of `argsrepr` and `kwargsrepr`."""
BROKER_HEADERS = frozenset({"x-death", "x-delivery-count", "x-acquired-count", "x-stream-offset"})
_BROKER_PREFIXES = ("x-first-death-", "x-last-death-")
_NOTHING: Mapping[str, Any] = MappingProxyType({})

_KNOWN = frozenset(
    "lang task id shadow eta expires group group_index retries timelimit root_id parent_id argsrepr kwargsrepr origin "
    "ignore_result replaced_task_nesting stamped_headers stamps compression".split()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMessage:
    """One call of a task, as it is sent."""

    id: str
    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    eta: datetime | None = None
    expires: datetime | None = None
    group: str | None = None
    group_index: int | None = None
    root_id: str | None = None
    parent_id: str | None = None
    origin: str | None = None
    shadow: str | None = None
    timelimit: tuple[float | None, float | None] = (None, None)
    """(hard, soft), in seconds."""
    ignore_result: bool | None = False
    """None: the sender did not say."""
    replaced_task_nesting: int = 0
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Sequence[Any] | None = None
    errbacks: Sequence[Any] | None = None
    chain: Sequence[Any] | None = None
    """What is left of the chain, reversed: the next step is the last element."""
    chord: Any = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    """The sender's own; on the wire they stand beside the protocol's."""
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: int | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    serializer: str = "json"
    """A serializer's name or content type."""
    compression: str | None = None
    persistent: bool = True
    expiration_ms: int | None = None


# --- calls -----------------------------------------------------------------------------------------------


def encode(message: TaskMessage, to: Address) -> Envelope:
    """Return the envelope of a call. Raises EncodeError."""
    m = message
    embed = {"callbacks": m.callbacks, "errbacks": m.errbacks, "chain": m.chain, "chord": m.chord}
    body = dumps((m.args, dict(m.kwargs), embed), m.serializer, m.compression)
    headers: dict[str, Any] = {
        "lang": "py",
        "task": m.task,
        "id": m.id,
        "shadow": m.shadow,
        "eta": m.eta and iso(m.eta),
        "expires": m.expires and iso(m.expires),
        "group": m.group,
        "group_index": m.group_index,
        "retries": m.retries,
        "timelimit": list(m.timelimit),
        "root_id": m.root_id,
        "parent_id": m.parent_id,
        "argsrepr": shown(m.args) if m.argsrepr is None else m.argsrepr,
        "kwargsrepr": shown(m.kwargs) if m.kwargsrepr is None else m.kwargsrepr,
        "origin": m.origin,
        "ignore_result": m.ignore_result,
        "replaced_task_nesting": m.replaced_task_nesting,
        "stamped_headers": m.stamped_headers,
        "stamps": m.stamps,
    }
    if body.compression is not None:
        headers["compression"] = body.compression
    if m.headers:
        headers.update(m.headers)
    properties = Properties(
        content_type=body.content_type,
        content_encoding=body.content_encoding,
        headers=headers,
        delivery_mode=PERSISTENT if m.persistent else TRANSIENT,
        priority=m.priority or 0,
        correlation_id=m.correlation_id or m.id,
        reply_to=m.reply_to or "",
        expiration=None if m.expiration_ms is None else str(m.expiration_ms),
        message_id=m.id,
    )
    return Envelope(to, body.body, properties)


def decode(envelope: Envelope, *, accept: frozenset[str], limit: int) -> TaskMessage:
    """Return the call in an envelope. Raises InvalidMessage, ContentDisallowed, DecodeError, Inflated."""
    properties = envelope.properties
    headers = properties.headers or _NOTHING
    body = loads(
        envelope.body,
        properties.content_type,
        properties.content_encoding,
        accept=accept,
        compression=headers.get("compression"),
        limit=limit,
    )
    if "task" in headers:
        return _version_2(properties, headers, body)
    if isinstance(body, dict) and "task" in body:
        return _version_1(properties, headers, body)
    raise InvalidMessage("no header `task`, and no `task` in the body: this is no call of a task")


def _version_2(properties: Properties, headers: Mapping[str, Any], body: Any) -> TaskMessage:
    get = headers.get
    args, kwargs, embed = _parts(body)
    task, task_id = get("task"), get("id")
    if not isinstance(task, str) or not isinstance(task_id, str):
        raise InvalidMessage("the headers `task` and `id` must be strings")
    own = {key: value for key, value in headers.items() if key not in _KNOWN}
    stamped = get("stamped_headers")
    return TaskMessage(
        id=task_id,
        task=task,
        args=args,
        kwargs=kwargs,
        retries=_whole(get("retries"), "retries"),
        eta=moment(get("eta"), "eta"),
        expires=moment(get("expires"), "expires"),
        group=get("group"),
        group_index=get("group_index"),
        root_id=get("root_id") or task_id,
        parent_id=get("parent_id"),
        origin=get("origin"),
        shadow=get("shadow"),
        timelimit=_limits(get("timelimit")),
        ignore_result=get("ignore_result"),
        replaced_task_nesting=_whole(get("replaced_task_nesting"), "replaced_task_nesting"),
        stamped_headers=stamped,
        stamps=get("stamps") or {},
        callbacks=embed.get("callbacks"),
        errbacks=embed.get("errbacks"),
        chain=embed.get("chain"),
        chord=embed.get("chord"),
        headers=own,
        argsrepr=get("argsrepr"),
        kwargsrepr=get("kwargsrepr"),
        **_carried(properties, headers, task_id),
    )


def _version_1(properties: Properties, headers: Mapping[str, Any], body: Mapping[str, Any]) -> TaskMessage:
    """Protocol 1: the body is a mapping, callbacks and all (Celery 3)."""
    get = body.get
    task, task_id = get("task"), get("id")
    if not isinstance(task, str) or not isinstance(task_id, str):
        raise InvalidMessage("a protocol 1 body must name `task` and `id` as strings")
    return TaskMessage(
        id=task_id,
        task=task,
        args=_listed(get("args")),
        kwargs=_mapped(get("kwargs")),
        retries=_whole(get("retries"), "retries"),
        eta=moment(get("eta"), "eta"),
        expires=moment(get("expires"), "expires"),
        group=get("taskset") or get("group"),
        group_index=get("group_index"),
        root_id=task_id,
        timelimit=_limits(get("timelimit")),
        ignore_result=None,
        callbacks=get("callbacks"),
        errbacks=get("errbacks"),
        chord=get("chord"),
        headers={key: value for key, value in headers.items() if key not in _KNOWN},
        **_carried(properties, headers, task_id),
    )


def _carried(properties: Properties, headers: Mapping[str, Any], task_id: str) -> dict[str, Any]:
    expiration = properties.expiration
    return {
        "correlation_id": properties.correlation_id or task_id,
        "reply_to": properties.reply_to or None,
        "priority": properties.priority,
        "serializer": properties.content_type or "json",
        "compression": headers.get("compression"),
        "persistent": properties.delivery_mode != TRANSIENT,
        "expiration_ms": int(expiration) if expiration and expiration.isdigit() else None,
    }


def _parts(body: Any) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]:
    match body:
        case [args, kwargs, embed]:
            return _listed(args), _mapped(kwargs), _mapped(embed)
        case [args, kwargs]:
            return _listed(args), _mapped(kwargs), {}
    raise InvalidMessage("the body must be [args, kwargs, embed]")


def _listed(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise InvalidMessage(f"args must be a list, not {type(value).__name__}")
    return value


def _mapped(value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        # Languages whose empty map and empty list are one send [] (PHP).
        if value == []:
            return {}
        raise InvalidMessage(f"kwargs and embed must be mappings, not {type(value).__name__}")
    return {key.decode() if isinstance(key, bytes) else key: inner for key, inner in value.items()}


def _whole(value: Any, name: str) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidMessage(f"header {name!r} must be a number, not {value!r:.40}")
    return int(value)


def _limits(pair: Any) -> tuple[float | None, float | None]:
    match pair:
        case None:
            return None, None
        case [None | int() | float() as hard, None | int() | float() as soft]:
            return hard, soft
    raise InvalidMessage(f"`timelimit` must be [hard, soft], not {pair!r:.60}")


# --- results ---------------------------------------------------------------------------------------------


def encode_result(
    body: Mapping[str, Any],
    to: str,
    *,
    correlation_id: str | None,
    serializer: str = "json",
    persistent: bool = False,
) -> Envelope:
    """Return the message that carries a state to the reply queue `to`. `body` has Celery's result keys; an exception
    in `result` is encoded, except for pickle, which carries it as it is. Raises EncodeError."""
    result = body.get("result")
    if isinstance(result, BaseException) and serializer != "pickle":
        body = {**body, "result": encode_exception(result)}
    encoded = dumps(body, serializer)
    properties = Properties(
        content_type=encoded.content_type,
        content_encoding=encoded.content_encoding,
        delivery_mode=PERSISTENT if persistent else TRANSIENT,
        priority=0,
        correlation_id=correlation_id,
        # Several states of one task may be on their way, so its id will not do.
        message_id=None,
    )
    return Envelope(Address("", to), encoded.body, properties, fate="drop")


def decode_result(envelope: Envelope, *, accept: frozenset[str], limit: int) -> dict[str, Any]:
    """Return a result's keys, the exception of a failed one rebuilt. Raises as `decode` does."""
    properties = envelope.properties
    headers = properties.headers or _NOTHING
    body = loads(
        envelope.body,
        properties.content_type,
        properties.content_encoding,
        accept=accept,
        compression=headers.get("compression"),
        limit=limit,
    )
    if not isinstance(body, dict) or not isinstance(body.get("status"), str):
        raise InvalidMessage("a result must be a mapping with `status`")
    body.setdefault("task_id", properties.correlation_id)
    if body["status"] in ("FAILURE", "RETRY", "REVOKED") and body.get("result") is not None:
        body["result"] = decode_exception(body["result"])
    return body


# --- small things ----------------------------------------------------------------------------------------


def strip_broker_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers without the broker's own. A republished `x-death` makes RabbitMQ before 4.0 see a cycle and
    drop the message."""
    return {
        key: value
        for key, value in headers.items()
        if key not in BROKER_HEADERS and not key.startswith(_BROKER_PREFIXES)
    }


def iso(value: datetime) -> str:
    """Return a time as ISO 8601 with its offset; naive means UTC."""
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()


def moment(value: Any, name: str) -> datetime | None:
    """Return an ISO 8601 header as an aware time. Raises InvalidMessage."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        parsed = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise InvalidMessage(f"header {name!r} is no ISO 8601 time: {value!r:.60}") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def shown(value: Any) -> str:
    """Return a bounded `repr`; never raises."""
    try:
        text = repr(
            value if isinstance(value, tuple | dict) else dict(value) if isinstance(value, Mapping) else value
        )
    except Exception as broken:
        return f"<{type(value).__name__}: repr() raised {type(broken).__name__}>"
    return text if len(text) <= REPR_LENGTH else f"{text[: REPR_LENGTH - 3]}..."
