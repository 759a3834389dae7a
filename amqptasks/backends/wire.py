"""`Meta` to and from the message that carries it. Pure.

Reading has two steps: `read_body` needs bytes alone and may run in an I/O thread; `from_body` rebuilds
exceptions, whose constructors are the user's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amqptasks import protocol, states
from amqptasks.amqp import Envelope
from amqptasks.backends.base import Meta

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
