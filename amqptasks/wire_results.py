"""A task's state as the message that carries it to the caller's reply queue, with Celery's keys. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amqptasks import states
from amqptasks.amqp import PERSISTENT, TRANSIENT, Address, Envelope, Properties
from amqptasks.errors import InvalidMessage
from amqptasks.serialization import Encoded, Serializer, dumps, find
from amqptasks.wire_errors import decode_exception, encode_exception
from amqptasks.wire_fields import body_of, name


def encode_result(
    body: Mapping[str, Any],
    to: str,
    *,
    correlation_id: str | None,
    serializer: str = "json",
    persistent: bool = False,
) -> Envelope:
    """Return the message that carries a state to the reply queue `to`.

    `body` has Celery's result keys; an exception in `result` becomes its three fields, except for pickle,
    which carries what it can as it is. Raises EncodeError.
    """
    encoded = _encoded(body, serializer)
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


def _encoded(body: Mapping[str, Any], serializer: str) -> Encoded:
    result = body.get("result")
    if not isinstance(result, BaseException):
        return dumps(body, serializer)
    chosen = find(serializer)
    if chosen.name == "pickle" and _pickles(result, chosen):
        return dumps(body, serializer)
    return dumps({**body, "result": encode_exception(result, serializer)}, serializer)


def _pickles(error: BaseException, pickle: Serializer) -> bool:
    """Many exceptions cannot be pickled, or only not be unpickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def read_result(envelope: Envelope, *, accept: frozenset[str], limit: int) -> dict[str, Any]:
    """Return a result's keys, `task_id` and `status` among them; exceptions are left encoded.

    So no constructor of the user's runs here, unless the user accepts pickle. Raises InvalidMessage,
    ContentDisallowed, DecodeError, Inflated.
    """
    body = body_of(envelope, accept, limit)
    if not isinstance(body, dict) or not isinstance(body.get("status"), str):
        raise InvalidMessage("a result must be a mapping with a text as 'status'")
    if not isinstance(body.get("task_id"), str):
        body["task_id"] = name(envelope.properties.correlation_id, "task_id")
    return body


def decode_result(envelope: Envelope, *, accept: frozenset[str], limit: int) -> dict[str, Any]:
    """Return a result's keys as `read_result` does, the exception of a failure rebuilt."""
    body = read_result(envelope, accept=accept, limit=limit)
    if body["status"] in states.EXCEPTION_STATES and body.get("result") is not None:
        body["result"] = decode_exception(body["result"])
    return body
