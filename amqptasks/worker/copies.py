"""The same message once more: body untouched, without what the broker wrote on it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from amqptasks import protocol
from amqptasks.amqp import Address, Delivery, Envelope
from amqptasks.transport import codec


def climbing(delivery: Delivery, headers: Mapping[str, Any] | None = None) -> Envelope:
    """As `copied`, for the ladder: counted, so that it is not taken for the one that came here before."""
    envelope = copied(delivery, headers)
    sent = envelope.properties.headers or {}
    counted = {**sent, protocol.CLIMBS: protocol.counted(sent, protocol.CLIMBS) + 1}
    return replace(envelope, properties=replace(envelope.properties, headers=counted))


def copied(delivery: Delivery, headers: Mapping[str, Any] | None = None) -> Envelope:
    """Return the message of `delivery` for the queue that it came from, with further headers.

    Raises InvalidMessage when its header cannot be read.
    """
    properties = codec.decode_header(delivery.header)
    kept = protocol.strip_broker_headers(properties.headers or {})
    # A user id of another connection would be refused (406).
    again = replace(properties, headers={**kept, **(headers or {})}, user_id=None)
    return Envelope(Address("", delivery.queue), delivery.body, again, fate="dead")
