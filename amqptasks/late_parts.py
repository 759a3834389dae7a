"""A message that found no queue and may not be lost, as a call to the workers themselves, one of whom asks why. Pure.

A chord's part: the queue is gone with its chord, and the part a double. A result: its caller is gone, and nobody wants
it. Or the node of a cluster that holds the queue is down, and the message is tried again until it is back. Knows
parcels; knows nothing of what is in them.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from amqptasks import protocol
from amqptasks.amqp import Address, Parcel
from amqptasks.ids import new_id
from amqptasks.protocol import CHORDS, TaskMessage
from amqptasks.transport import codec

LATE = "amqptasks.chord_late"
RESULT = "amqptasks.late_result"


def call(part: Parcel, to: Address) -> Parcel:
    """Return the call that holds a part as it is, for the workers' own queue."""
    return _call(LATE, {"group_id": part.routing_key.removeprefix(CHORDS)}, part, to)


def part(chord: str, header: str, body: str) -> Parcel:
    """Return the part that such a call holds. Raises ValueError, InvalidMessage."""
    properties = b64decode(header)
    name = codec.decode_header(properties).message_id or ""
    return Parcel("", f"{CHORDS}{chord}", properties, b64decode(body), name, "part")


def result(held: Parcel, to: Address, expires: float | None) -> Parcel:
    """Return the call that holds a result, or a bundle of them, for the workers' own queue.

    `expires`: seconds after which nobody waits for it any more.
    """
    return _call(RESULT, {"queue": held.routing_key}, held, to, expires)


def result_of(queue: str, header: str, body: str) -> Parcel:
    """Return the result that such a call holds; it is told if it is unroutable. Raises ValueError, InvalidMessage."""
    properties = b64decode(header)
    name = codec.decode_header(properties).message_id or ""
    return Parcel("", queue, properties, b64decode(body), name, "raise")


def _call(
    task: str, kwargs: Mapping[str, str], held: Parcel, to: Address, expires: float | None = None
) -> Parcel:
    message = TaskMessage(
        id=new_id(),
        task=task,
        kwargs={
            **kwargs,
            "header": b64encode(held.header).decode(),
            "body": b64encode(held.body).decode(),
        },
        expires=datetime.now(UTC) + timedelta(seconds=expires) if expires else None,
        ignore_result=True,
        argsrepr="",
        kwargsrepr="",
    )
    return codec.pack(protocol.encode(message, to))
