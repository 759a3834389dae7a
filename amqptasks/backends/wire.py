"""`Meta` to and from the message that carries it, and several such messages as one. Pure.

Reading has two steps: `read_body` needs bytes alone and may run in an I/O thread; `from_body` rebuilds
exceptions, whose constructors are the user's code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amqptasks import protocol, states
from amqptasks.amqp import PERSISTENT, TRANSIENT, Address, Delivery, Envelope, Parcel, Properties
from amqptasks.backends.base import Meta
from amqptasks.errors import InvalidMessage
from amqptasks.transport import codec

REPLIES = "amqptasks.reply."
"""What the names of our clients' reply queues begin with: who consumes one can read bundles."""

BUNDLE = "application/x-amqptasks-results"
"""Content type of several results in one message."""

_RECORD = struct.Struct(">II")
RECORD = _RECORD.size
"""Bytes that a result takes in a bundle besides its own."""

_OWN = frozenset(
    {"task_id", "status", "result", "traceback", "children", "date_done", "group_id", "parent_id"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultFormat:
    """How results are written, what is accepted when they are read, and how long they wait for it."""

    serializer: str = "json"
    accept: frozenset[str] = frozenset({"application/json"})
    inflate_limit: int = 64 << 20
    persistent: bool = False
    expires: float | None = 86400.0
    """Seconds a result waits for its reader; None for ever."""


def body_of(meta: Meta) -> dict[str, Any]:
    """Return Celery's keys of a result."""
    body: dict[str, Any] = {
        "task_id": meta.task_id,
        "status": meta.status,
        "result": meta.result,
        "traceback": meta.traceback,
        "children": list(meta.children),
        "date_done": meta.date_done,
    }
    if meta.group_id is not None:
        body["group_id"] = meta.group_id
    if meta.parent_id is not None:
        body["parent_id"] = meta.parent_id
    return {**body, **meta.extended} if meta.extended else body


def result_envelope(meta: Meta, to: str, format: ResultFormat) -> Envelope:
    """Return the message that carries a state to the queue `to`. Raises EncodeError."""
    return protocol.encode_result(
        body_of(meta),
        to,
        correlation_id=meta.correlation_id or meta.task_id,
        serializer=format.serializer,
        persistent=format.persistent,
    )


def read_body(envelope: Envelope, format: ResultFormat) -> dict[str, Any]:
    """Return what a result's body says, exceptions still encoded. Raises MessageError."""
    return protocol.read_result(envelope, accept=format.accept, limit=format.inflate_limit)


def from_body(body: Mapping[str, Any]) -> Meta:
    """Return the state that a body says, its exception rebuilt."""
    result = body.get("result")
    if body["status"] in states.EXCEPTION_STATES and result is not None:
        result = protocol.decode_exception(result)
    return Meta(
        task_id=str(body.get("task_id") or ""),
        status=body["status"],
        result=result,
        traceback=body.get("traceback"),
        children=body.get("children") or (),
        date_done=body.get("date_done"),
        group_id=body.get("group_id"),
        parent_id=body.get("parent_id"),
        extended={key: value for key, value in body.items() if key not in _OWN},
    )


def bundled(queue: str, results: Sequence[Parcel], *, persistent: bool) -> Parcel:
    """Return one message that carries `results`, in order, to a reply queue of ours."""
    parts: list[bytes] = []
    for result in results:
        parts += (_RECORD.pack(len(result.header), len(result.body)), result.header, result.body)
    properties = Properties(content_type=BUNDLE, delivery_mode=PERSISTENT if persistent else TRANSIENT)
    return codec.pack(Envelope(Address("", queue), b"".join(parts), properties, "drop"))


def unbundled(delivery: Delivery) -> Iterator[Delivery]:
    """Yield the results in a bundle, each as if it had come alone. Raises InvalidMessage."""
    body, at = delivery.body, 0
    while at < len(body):
        if len(body) - at < _RECORD.size:
            raise InvalidMessage("a bundle of results ends too early")
        header, size = _RECORD.unpack_from(body, at)
        start = at + _RECORD.size
        middle, at = start + header, start + header + size
        if at > len(body):
            raise InvalidMessage("a bundle of results ends too early")
        yield replace(delivery, header=body[start:middle], body=body[middle:at])
