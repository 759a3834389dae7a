"""Celery's message protocol: calls to envelopes and back; results and exceptions beside it, in `wire_*`.

Nothing but these modules knows the wire's keys, and `transport.plain`, the shortcut for the plainest calls.

Version 2 is written; 2 and 1 are read, and of what others send only `task` and `id` are required. Pure, but for the
time that is written on a call.
Source: Celery's "Message Protocol" page, and what Celery 4.4 to 5.7 put on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import time
from types import MappingProxyType
from typing import Any, Literal

from amqptasks.amqp import PERSISTENT, TRANSIENT, Address, Envelope, Properties
from amqptasks.errors import EncodeError, InvalidMessage
from amqptasks.serialization import Encoded, dumps
from amqptasks.shown import shown
from amqptasks.values import quick
from amqptasks.wire_errors import decode_exception, encode_exception
from amqptasks.wire_fields import (
    body_of,
    index,
    limits,
    listed,
    mapped,
    moment,
    name,
    optional_list,
    text,
    whole,
)
from amqptasks.wire_results import decode_result, encode_result, read_result

__all__ = [
    "BROKER_HEADERS",
    "CHORDS",
    "CLIMBS",
    "COUNTS",
    "CRASHES",
    "DEAD_HEADERS",
    "DEATHS",
    "JOINED",
    "REPLAYED",
    "UNKNOWN",
    "TaskMessage",
    "counted",
    "decode",
    "decode_exception",
    "decode_result",
    "encode",
    "encode_exception",
    "encode_result",
    "read_result",
    "strip_broker_headers",
]

BROKER_HEADERS = frozenset(
    # CC and BCC have had their effect: left on, a message published again would be copied again.
    {"x-death", "x-delivery-count", "x-acquired-count", "x-stream-offset", "CC", "BCC"}
)
_BROKER_PREFIXES = ("x-first-death-", "x-last-death-")
DEAD_HEADERS = frozenset(
    f"x-amqptasks-{name}" for name in ("reason", "error", "queue", "exchange", "routing-key", "time", "node")
)
"""What a dead letter of ours says of itself."""
CRASHES = "x-amqptasks-crashes"
UNKNOWN = "x-amqptasks-unknown"
DEATHS = "x-amqptasks-deaths"
CLIMBS = "x-amqptasks-climbs"
COUNTS = (CRASHES, UNKNOWN, DEATHS, CLIMBS)
"""How many children it killed, how often it was sent back for want of its task, how often it was a dead letter, how
often a worker put it on the ladder: counted on the message, living or dead."""
REPLAYED = "x-amqptasks-replayed"
"""Which dead letter a replayed message was, as seconds of its death: alike on all copies of one replay."""
JOINED = "x-amqptasks-joined"
"""On a chord's body and what hangs on it: a join that was killed may have published it before."""
CHORDS = "amqptasks.chord."
"""What the names of the chords' queues begin with."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})
NO_LIMITS = (None, None)
"""The time limits of a call that says none."""
_KNOWN = frozenset(
    {
        *("lang", "task", "id", "root_id", "parent_id", "origin", "shadow", "argsrepr", "kwargsrepr"),
        *("retries", "eta", "expires", "timelimit", "ignore_result", "replaced_task_nesting"),
        *("group", "group_index", "stamped_headers", "stamps", "compression"),
    }
)


@quick
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
    """None: this call is the root."""
    parent_id: str | None = None
    origin: str | None = None
    shadow: str | None = None
    timelimit: tuple[float | None, float | None] = NO_LIMITS
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
    """None: the id."""
    reply_to: str | None = None
    priority: int | None = None
    argsrepr: str | None = None
    """What monitors show; None: made from `args`."""
    kwargsrepr: str | None = None
    serializer: str = "json"
    """A serializer's name or content type."""
    compression: str | None = None
    persistent: bool = True
    expiration_ms: int | None = None
    version: Literal[1, 2] = 2
    """The protocol it was read in; 2 is what is written."""


# --- calls -----------------------------------------------------------------------------------------------


def encode(message: TaskMessage, to: Address) -> Envelope:
    """Return the envelope of a call. Raises EncodeError; ImproperlyConfigured for an unknown serializer."""
    m = message
    kwargs = m.kwargs if type(m.kwargs) is dict else dict(m.kwargs)
    embed = {"callbacks": m.callbacks, "errbacks": m.errbacks, "chain": m.chain, "chord": m.chord}
    body = dumps((m.args, kwargs, embed), m.serializer, m.compression)
    size = len(body.body)
    if m.timelimit != NO_LIMITS and not all(isinstance(each, float | int | None) for each in m.timelimit):
        raise TypeError(f"time limits are seconds, or None, not {m.timelimit!r}")
    headers: dict[str, Any] = {
        "lang": "py",
        "task": m.task,
        "id": m.id,
        "shadow": m.shadow,
        "eta": m.eta and _iso(m.eta),
        "expires": m.expires and _iso(m.expires),
        "group": m.group,
        "group_index": m.group_index,
        "retries": m.retries,
        "timelimit": m.timelimit,
        "root_id": m.root_id or m.id,
        "parent_id": m.parent_id,
        "argsrepr": shown(m.args, size) if m.argsrepr is None else m.argsrepr,
        "kwargsrepr": shown(kwargs, size) if m.kwargsrepr is None else m.kwargsrepr,
        "origin": m.origin,
        "ignore_result": m.ignore_result,
        "replaced_task_nesting": m.replaced_task_nesting,
        "stamped_headers": m.stamped_headers,
        "stamps": m.stamps,
    }
    if m.headers:
        _add_own(headers, m.headers)
    properties = Properties(
        content_type=body.content_type,
        content_encoding=body.content_encoding,
        headers=_with_compression(headers, body),
        delivery_mode=PERSISTENT if m.persistent else TRANSIENT,
        priority=m.priority or 0,
        correlation_id=m.correlation_id or m.id,
        reply_to=m.reply_to or "",
        expiration=None if m.expiration_ms is None else str(m.expiration_ms),
        message_id=m.id,
        timestamp=int(time()),
    )
    return Envelope(to, body.body, properties)


def _with_compression(headers: dict[str, Any], body: Encoded) -> dict[str, Any]:
    if body.compression is not None:
        headers["compression"] = body.compression
    return headers


def _add_own(headers: dict[str, Any], own: Mapping[str, Any]) -> None:
    for key, value in own.items():
        if key in _KNOWN:
            raise EncodeError(
                f"the header {key!r} belongs to the message protocol; give yours another name, "
                "or use the option of apply_async that sets it"
            )
        headers[key] = value


def decode(envelope: Envelope, *, accept: frozenset[str], limit: int) -> TaskMessage:
    """Return the call in an envelope; `limit` bounds what its body may inflate to.

    Raises InvalidMessage, ContentDisallowed, DecodeError, Inflated.
    """
    properties = envelope.properties
    headers = properties.headers or _NOTHING
    if "task" in headers and not envelope.body:
        return _version_2(properties, headers, [])
    body = body_of(envelope, accept, limit)
    if "task" in headers:
        if isinstance(body, dict):  # headers of version 2 with a body of version 1, as some bridges send
            return _version_1(properties, headers, {**body, **headers})
        return _version_2(properties, headers, body)
    if isinstance(body, dict) and "task" in body:
        return _version_1(properties, headers, body)
    raise InvalidMessage("no header 'task', and no 'task' in the body: this is no call of a task")


def _version_2(properties: Properties, headers: Mapping[str, Any], body: Any) -> TaskMessage:
    get = headers.get
    args, kwargs, embed = _parts(body)
    task_id = name(get("id"), "id")
    return TaskMessage(
        id=task_id,
        task=name(get("task"), "task"),
        args=args,
        kwargs=kwargs,
        retries=whole(get("retries"), "retries"),
        eta=moment(get("eta"), "eta"),
        expires=moment(get("expires"), "expires"),
        group=text(get("group")),
        group_index=index(get("group_index"), "group_index"),
        root_id=text(get("root_id")) or task_id,
        parent_id=text(get("parent_id")),
        origin=text(get("origin")),
        shadow=text(get("shadow")),
        timelimit=limits(get("timelimit")),
        ignore_result=get("ignore_result"),
        replaced_task_nesting=whole(get("replaced_task_nesting"), "replaced_task_nesting"),
        stamped_headers=optional_list(get("stamped_headers"), "stamped_headers"),
        stamps=mapped(get("stamps"), "stamps"),
        callbacks=optional_list(embed.get("callbacks"), "callbacks"),
        errbacks=optional_list(embed.get("errbacks"), "errbacks"),
        chain=optional_list(embed.get("chain"), "chain"),
        chord=embed.get("chord"),
        argsrepr=text(get("argsrepr")),
        kwargsrepr=text(get("kwargsrepr")),
        **_carried(properties, headers, task_id),
    )


def _version_1(properties: Properties, headers: Mapping[str, Any], body: Mapping[str, Any]) -> TaskMessage:
    """Protocol 1: the body is a mapping, callbacks and all (Celery 3, many other languages)."""
    get = body.get
    task_id = name(get("id"), "id")
    utc = get("utc", True) is not False
    return TaskMessage(
        id=task_id,
        task=name(get("task"), "task"),
        args=listed(get("args"), "args"),
        kwargs=mapped(get("kwargs"), "kwargs"),
        retries=whole(get("retries"), "retries"),
        eta=moment(get("eta"), "eta", utc=utc),
        expires=moment(get("expires"), "expires", utc=utc),
        group=text(get("taskset") or get("group")),
        group_index=index(get("group_index"), "group_index"),
        root_id=text(get("root_id")) or task_id,
        parent_id=text(get("parent_id")),
        origin=text(get("origin")),
        shadow=text(get("shadow")),
        timelimit=limits(get("timelimit")),
        ignore_result=get("ignore_result"),
        callbacks=optional_list(get("callbacks"), "callbacks"),
        errbacks=optional_list(get("errbacks"), "errbacks"),
        chain=optional_list(get("chain"), "chain"),
        chord=get("chord"),
        version=1,
        **_carried(properties, headers, task_id),
    )


def _carried(properties: Properties, headers: Mapping[str, Any], task_id: str) -> dict[str, Any]:
    """What both versions have in AMQP's own place, so that the message can be sent on as it came."""
    expiration = properties.expiration
    return {
        "headers": {key: value for key, value in headers.items() if key not in _KNOWN},
        "correlation_id": properties.correlation_id or task_id,
        "reply_to": properties.reply_to or None,
        "priority": properties.priority,
        "serializer": (properties.content_type or "json").partition(";")[0].strip().lower(),
        "compression": headers.get("compression"),
        "persistent": properties.delivery_mode != TRANSIENT,
        "expiration_ms": int(expiration) if expiration and expiration.isdecimal() else None,
    }


def _parts(body: Any) -> tuple[Sequence[Any], Mapping[str, Any], Mapping[str, Any]]:
    match body:
        case [args, kwargs, embed]:
            return listed(args, "args"), mapped(kwargs, "kwargs"), mapped(embed, "embed")
        case [args, kwargs]:
            return listed(args, "args"), mapped(kwargs, "kwargs"), {}
        case [] | None:
            return (), {}, {}
    raise InvalidMessage(f"the body must be [args, kwargs, embed], not {body!r:.60}")


# --- small things ----------------------------------------------------------------------------------------


def strip_broker_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers without the broker's own, for a message that is published again.

    A republished `x-death` makes RabbitMQ before 4.0 see a cycle and drop the message.
    """
    return {
        key: value
        for key, value in headers.items()
        if key not in BROKER_HEADERS and not key.startswith(_BROKER_PREFIXES)
    }


def counted(headers: Mapping[str, Any] | None, name: str) -> int:
    """Return one of `COUNTS`, 0 where there is none or it is no number."""
    value = (headers or _NOTHING).get(name)
    return value if isinstance(value, int) and value > 0 else 0


def _iso(value: datetime) -> str:
    """Return a time as ISO 8601 with its offset; naive means UTC."""
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
