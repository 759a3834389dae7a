"""A plain call as bytes, both ways: a shortcut past `protocol` and `codec` for what most calls are.

A plain call has arguments and nothing else: no time, no limit, no part in a workflow, no headers of the sender's; it is
written in JSON, by us or by Celery. Its headers are then always the same, in the same order, so that they can be
written and read as the runs of bytes between the few values that differ, for a third of the cost. What `protocol` and
`codec` say is what counts: `pack` gives their very bytes, the others their values, and each of them None for any other
message, which is theirs. Pure, but for the time that is written on a call.
"""

from __future__ import annotations

import re
from functools import lru_cache
from operator import attrgetter
from struct import Struct, error
from time import time
from typing import Any

from amqptasks import json_body
from amqptasks.amqp import PERSISTENT, TRANSIENT, Address, Parcel, Properties
from amqptasks.errors import DecodeError
from amqptasks.protocol import NO_LIMITS, TaskMessage
from amqptasks.serialization import JSON, dumps
from amqptasks.shown import shown
from amqptasks.transport.codec import FLAGS, encode_header
from amqptasks.transport.tables import encode_table

_length = Struct(">I").pack
_length_at = Struct(">I").unpack_from
_count = Struct(">i").pack
_moment = Struct(">Q").pack
_count_at = Struct(">i").unpack_from
_BEFORE = encode_header(  # flags and all before the table of headers, whose length follows
    Properties(JSON, "utf-8", {}, PERSISTENT, 0, "", "", message_id="", timestamp=0)
)[: -4 - 5 - 8]


def _run(headers: dict[str, Any], end: bytes = b"") -> bytes:
    return encode_table(headers)[4:].removesuffix(end)


_CONTENT = _BEFORE[2:]
_DELIVERY_MODE, _PRIORITY, _CORRELATION_ID, _REPLY_TO, _MESSAGE_ID, _TIMESTAMP = (
    FLAGS[name]
    for name in ("delivery_mode", "priority", "correlation_id", "reply_to", "message_id", "timestamp")
)
_FIRST = FLAGS["content_type"] | FLAGS["content_encoding"] | FLAGS["headers"]
_READ = _FIRST | _DELIVERY_MODE | _PRIORITY | _CORRELATION_ID | _REPLY_TO | _MESSAGE_ID | _TIMESTAMP
# Runs of headers. A text's letter ends the run before its length.
_EMPTY = _ZERO = b"\0\0\0\0"
_TASK = _run({"lang": "py", "task": ""}, _EMPTY)
_ID = _run({"id": ""}, _EMPTY)
_RETRIES = _run(
    {"shadow": None, "eta": None, "expires": None, "group": None, "group_index": None, "retries": 0}, _ZERO
)
_ROOT = _run({"timelimit": (None, None), "root_id": ""}, _EMPTY)
_PARENT = _run({"parent_id": ""}, _EMPTY)
_NO_PARENT = _run({"parent_id": None})
_ARGS, _KWARGS, _ORIGIN = (_run({name: ""}, _EMPTY) for name in ("argsrepr", "kwargsrepr", "origin"))
_IGNORED = {said: _run({"ignore_result": said}) for said in (True, False, None)}
_REST = _run({"replaced_task_nesting": 0, "stamped_headers": None, "stamps": {}})

EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
"""What the body of a plain call says of what follows it."""
_EMBED = b"," + dumps(EMBED, "json").body + b"]"
_unset = attrgetter(
    "eta", "expires", "group", "group_index", "shadow", "callbacks", "errbacks", "chain", "chord", "stamped_headers",
    "compression", "expiration_ms",
)  # fmt: skip
_UNSET = (None,) * 12
_PERSISTENT, _TRANSIENT = bytes((PERSISTENT,)), bytes((TRANSIENT,))
_TABLE = len(_BEFORE) + 4
_NAME = _TABLE + len(_TASK) + 4
_AFTER_ID = len(_ID) + 4
_AS_IT_IS = rb'.{4}([^"\\\x00-\x1f\x7f-\xff]*)'
"""A text in JSON that is the same without its quotation marks; its length before it."""
_QUOTED = re.compile(
    _AS_IT_IS.join(
        map(re.escape, (_TASK, _ID, _RETRIES + _ZERO + _ROOT, _NO_PARENT + _ARGS, _KWARGS, _ORIGIN))
    ),
    re.DOTALL,
).match


Plain = tuple[str, str, int, str, str | None, str, bool | None, int | None, str, str | None]
"""id, task, retries, root_id, parent_id, origin, ignore_result, priority, correlation_id, reply_to."""

# --- writing ---------------------------------------------------------------------------------------------


def pack(message: TaskMessage, to: Address) -> Parcel | None:
    """Return the parcel of a call, or None if it is not plain. Raises EncodeError for what JSON has not."""
    m = message
    if (
        _unset(m) != _UNSET
        or m.headers
        or m.stamps
        or m.timelimit != NO_LIMITS
        or m.replaced_task_nesting
        or m.serializer != "json"
        or len(to.exchange) > 63
        or len(to.routing_key) > 63
    ):
        return None
    kwargs = m.kwargs if type(m.kwargs) is dict else dict(m.kwargs)
    body = dumps((m.args, kwargs), "json").body[:-1] + _EMBED
    size = len(body)
    try:
        header = _header(
            m,
            shown(m.args, size) if m.argsrepr is None else m.argsrepr,
            shown(kwargs, size) if m.kwargsrepr is None else m.kwargsrepr,
        )
    except (ValueError, TypeError, AttributeError, error):
        return None  # what is not of its type, or too long: `codec` says so
    return Parcel(to.exchange, to.routing_key, header, body, m.id)


def _header(m: TaskMessage, args: str, kwargs: str) -> bytes:
    own = m.id.encode()
    root = m.root_id.encode() if m.root_id else own
    parent = m.parent_id
    correlation = m.correlation_id.encode() if m.correlation_id else own
    reply = m.reply_to.encode() if m.reply_to else b""
    table = b"".join(
        (
            _task(m.task),
            _length(len(own)),
            own,
            _RETRIES,
            _count(m.retries),
            _ROOT,
            _length(len(root)),
            root,
            _NO_PARENT if parent is None else _text(_PARENT, parent),
            _text(_ARGS, args),
            _text(_KWARGS, kwargs),
            _origin(m.origin),
            _IGNORED[m.ignore_result],
            _REST,
        )
    )
    return b"".join(
        (
            _BEFORE,
            _length(len(table)),
            table,
            _PERSISTENT if m.persistent else _TRANSIENT,
            bytes((m.priority or 0, len(correlation))),
            correlation,
            bytes((len(reply),)),
            reply,
            bytes((len(own),)),
            own,
            _moment(int(time())),
        )
    )


def _text(run: bytes, value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"".join((run, _length(len(raw)), raw))


@lru_cache(1024)
def _task(name: str) -> bytes:
    return _text(_TASK, name) + _ID


@lru_cache(16)
def _origin(name: str | None) -> bytes:
    if name is None:
        raise TypeError("a plain call says who sends it")
    return _text(_ORIGIN, name)


# --- reading ---------------------------------------------------------------------------------------------


def _begins(header: bytes) -> bool:
    return (
        header.startswith(_TASK, _TABLE)
        and header.startswith(_CONTENT, 2)
        and (header[0] << 8) & _FIRST == _FIRST
    )


def peek(header: bytes) -> dict[str, Any] | None:
    """Return `task`, `id` and `retries` of a call that has no time and no limit; None for any other message.

    Looks at nothing that follows them: what it says holds, whether the rest is that of a plain call or not.
    """
    if not _begins(header):
        return None
    try:
        end = _NAME + _length_at(header, _NAME - 4)[0]
        task = header[_NAME:end]
        if not header.startswith(_ID, end):
            return None
        at = end + _AFTER_ID
        end = at + _length_at(header, at - 4)[0]
        if not header.startswith(_RETRIES, end):
            return None
        retries = end + len(_RETRIES)
        if not header.startswith(_ROOT, retries + 4):
            return None
        return {
            "task": _name(task),
            "id": header[at:end].decode(),
            "retries": _count_at(header, retries)[0],
        }
    except (ValueError, error):
        return None


def quoted(header: bytes) -> tuple[bytes, ...] | None:
    """Return `task`, `id`, `root_id`, `argsrepr` and `kwargsrepr` of a first attempt without a parent, as they stand in
    JSON between quotation marks. None: not plain, or something in them must be escaped there.

    For those who look on, no more: no length is compared, as a text that holds none of the bytes that lengths and names
    begin with ends where the next name does.
    """
    found = _QUOTED(header, _TABLE)
    return found.groups() if found else None


def read(header: bytes) -> Plain | None:
    """Return what differs from one plain call to the next; None for any other message."""
    if not _begins(header):
        return None
    try:
        return _read(header)
    except (ValueError, IndexError, error):
        return None


def _read(header: bytes) -> Plain | None:
    length, starts = _length_at, header.startswith
    end = _NAME + length(header, _NAME - 4)[0]
    task = header[_NAME:end]
    if not starts(_ID, end):
        return None
    at = end + _AFTER_ID
    end = at + length(header, at - 4)[0]
    own = header[at:end].decode()
    at = end + len(_RETRIES)
    if not starts(_RETRIES, end) or not starts(_ROOT, at + 4):
        return None
    retries = _count_at(header, at)[0]
    at += 4 + len(_ROOT) + 4
    end = at + length(header, at - 4)[0]
    root = header[at:end].decode()
    parent = None
    if starts(_NO_PARENT, end):
        end += len(_NO_PARENT)
    else:
        at = end + len(_PARENT) + 4
        if not starts(_PARENT, end):
            return None
        end = at + length(header, at - 4)[0]
        parent = header[at:end].decode()
    at = end
    for run in (_ARGS, _KWARGS, _ORIGIN):
        if not starts(run, end):
            return None
        at = end + len(run) + 4
        end = at + length(header, at - 4)[0]
    origin = header[at:end]
    says = _said(header, end)
    if says is None:
        return None
    ignored, end = says
    at = end + len(_REST)
    if not starts(_REST, end) or at != _TABLE + length(header, _TABLE - 4)[0]:
        return None
    rest = _after(header, at)
    if rest is None or not task or not own:
        return None
    priority, correlation, reply_to = rest
    return (
        own, _name(task), retries, root or own, parent, _name(origin), ignored, priority, correlation or own,
        reply_to or None,
    )  # fmt: skip


def arguments(body: bytes) -> tuple[list[Any], dict[str, Any]] | None:
    """Return what a plain call is called with; None for any other body, and for what is not JSON."""
    try:
        value = json_body.loads(body)
    except (ValueError, RecursionError, DecodeError):
        return None
    if type(value) is not list or len(value) != 3:
        return None
    args, kwargs, embed = value
    return (args, kwargs) if type(args) is list and type(kwargs) is dict and embed == EMBED else None


def _said(header: bytes, at: int) -> tuple[bool | None, int] | None:
    for ignored, run in _IGNORED.items():
        if header.startswith(run, at):
            return ignored, at + len(run)
    return None


def _after(header: bytes, at: int) -> tuple[int | None, str, str] | None:
    """Return the properties after the headers: priority, correlation_id, reply_to."""
    flags = header[0] << 8 | header[1]
    if flags & ~_READ:
        return None
    priority, correlation, reply_to = None, "", ""
    if flags & _DELIVERY_MODE:
        at += 1
    if flags & _PRIORITY:
        priority = header[at]
        at += 1
    if flags & _CORRELATION_ID:
        end = at + 1 + header[at]
        correlation, at = header[at + 1 : end].decode(), end
    if flags & _REPLY_TO:
        end = at + 1 + header[at]
        reply_to, at = header[at + 1 : end].decode(), end
    if flags & _MESSAGE_ID:
        end = at + 1 + header[at]
        header[at + 1 : end].decode()  # nobody needs it, but what is no text is no plain call
        at = end
    if flags & _TIMESTAMP:
        at += 8
    return (priority, correlation, reply_to) if at == len(header) else None


@lru_cache(1024)
def _name(raw: bytes) -> str:
    return raw.decode()
