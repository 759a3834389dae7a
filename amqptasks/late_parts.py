"""A chord's part that found no queue, as a call to the workers themselves, one of whom has the time to ask why. Pure.

The queue is gone with its chord, and the part a double; or the node of a cluster that holds it is down, and the part
is tried again until it is back. Knows parcels; knows nothing of what is in a part.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

from amqptasks import protocol
from amqptasks.amqp import Address, Parcel
from amqptasks.ids import new_id
from amqptasks.protocol import CHORDS, TaskMessage
from amqptasks.transport import codec

LATE = "amqptasks.chord_late"


def call(part: Parcel, to: Address) -> Parcel:
    """Return the call that holds a part as it is, for the workers' own queue."""
    message = TaskMessage(
        id=new_id(),
        task=LATE,
        kwargs={
            "group_id": part.routing_key.removeprefix(CHORDS),
            "header": b64encode(part.header).decode(),
            "body": b64encode(part.body).decode(),
        },
        ignore_result=True,
        argsrepr="",
        kwargsrepr="",
    )
    return codec.pack(protocol.encode(message, to))


def part(chord: str, header: str, body: str) -> Parcel:
    """Return the part that such a call holds. Raises ValueError and InvalidMessage."""
    properties = b64decode(header)
    name = codec.decode_header(properties).message_id or ""
    return Parcel("", f"{CHORDS}{chord}", properties, b64decode(body), name, "part")
