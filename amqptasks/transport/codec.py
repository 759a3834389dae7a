"""AMQP 0-9-1 content headers and frames as bytes: pure, and on the hot path of client, parent and child.

A header here is the content header's payload after class, weight and body size: property flags and property
list (AMQP 0-9-1, 4.2.6.1), so that it can be framed for any body. Knows no sockets, no tasks. Field types are
those that RabbitMQ reads and writes (its AMQP 0-9-1 errata).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from struct import Struct
from typing import Any

from amqptasks.amqp import Address, Delivery, Envelope, Parcel, Properties
from amqptasks.errors import EncodeError, InvalidMessage, TooLarge
from amqptasks.ids import new_id
from amqptasks.transport.tables import TEXT, VOID, WIDTHS, decode_table, encode_table, octets, value_at

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
FRAME_OVERHEAD = 8
END = b"\xce"

_frame = Struct(">BHI")
_flags = Struct(">H")
_u32 = Struct(">I")
_u64 = Struct(">Q")
_content = Struct(">HHQ")
_ack = Struct(">BHIHHQBB")
_nack = Struct(">BHIHHQBB")

_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 1 << 15, 1 << 14, 1 << 13
_DELIVERY_MODE, _PRIORITY, _CORRELATION_ID = 1 << 12, 1 << 11, 1 << 10
_REPLY_TO, _EXPIRATION, _MESSAGE_ID, _TIMESTAMP = 1 << 9, 1 << 8, 1 << 7, 1 << 6
_TYPE, _USER_ID, _APP_ID = 1 << 5, 1 << 4, 1 << 3


def _short(value: str, name: str) -> bytes:
    raw = value.encode()
    if len(raw) > 255:
        raise TooLarge(f"{name} has {len(raw)} bytes; AMQP allows 255: {value[:60]!r}...")
    return bytes((len(raw),)) + raw


def encode_header(properties: Properties) -> bytes:
    """Return flags and property list.

    Raises TooLarge for a text over 255 bytes, EncodeError for what AMQP cannot carry.
    """
    return _encoded(properties, properties.message_id)


def _encoded(properties: Properties, message_id: str | None) -> bytes:
    try:
        return _encode_header(properties, message_id)
    except RecursionError:
        raise EncodeError("the message's headers are nested too deeply, or contain themselves") from None
    except (TypeError, ValueError, struct.error) as error:
        if isinstance(error, EncodeError):
            raise
        raise EncodeError(_out_of_range(properties) or f"a property cannot be written: {error}") from error


def _out_of_range(properties: Properties) -> str:
    for name, highest in (("delivery_mode", 255), ("priority", 255), ("timestamp", (1 << 64) - 1)):
        value = getattr(properties, name)
        if value is not None and not (isinstance(value, int) and 0 <= value <= highest):
            return f"{name} is out of AMQP's range: an integer from 0 to {highest}, not {value!r}"
    return ""


def _encode_header(p: Properties, message_id: str | None) -> bytes:
    flags = 0
    parts: list[bytes] = [b""]
    add = parts.append
    if p.content_type is not None:
        flags |= _CONTENT_TYPE
        add(_short(p.content_type, "content_type"))
    if p.content_encoding is not None:
        flags |= _CONTENT_ENCODING
        add(_short(p.content_encoding, "content_encoding"))
    if p.headers is not None:
        flags |= _HEADERS
        add(encode_table(p.headers))
    if p.delivery_mode is not None:
        flags |= _DELIVERY_MODE
        add(bytes((p.delivery_mode,)))
    if p.priority is not None:
        flags |= _PRIORITY
        add(bytes((p.priority,)))
    if p.correlation_id is not None:
        flags |= _CORRELATION_ID
        add(_short(p.correlation_id, "correlation_id"))
    if p.reply_to is not None:
        flags |= _REPLY_TO
        add(_short(p.reply_to, "reply_to"))
    if p.expiration is not None:
        flags |= _EXPIRATION
        add(_short(p.expiration, "expiration"))
    if message_id is not None:
        flags |= _MESSAGE_ID
        add(_short(message_id, "message_id"))
    if p.timestamp is not None:
        flags |= _TIMESTAMP
        add(_u64.pack(p.timestamp))
    if p.type is not None or p.user_id is not None or p.app_id is not None:
        flags |= _encode_rare(p, parts)
    parts[0] = _flags.pack(flags)
    return b"".join(parts)


def _encode_rare(p: Properties, parts: list[bytes]) -> int:
    """Add what tasks and results do not have; return its flags."""
    flags = 0
    add = parts.append
    if p.type is not None:
        flags |= _TYPE
        add(_short(p.type, "type"))
    if p.user_id is not None:
        flags |= _USER_ID
        add(_short(p.user_id, "user_id"))
    if p.app_id is not None:
        flags |= _APP_ID
        add(_short(p.app_id, "app_id"))
    return flags


_SHORT, _OCTET, _LONG, _TABLE = range(4)
_LAYOUT = (
    (_CONTENT_TYPE, "content_type", _SHORT),
    (_CONTENT_ENCODING, "content_encoding", _SHORT),
    (_HEADERS, "headers", _TABLE),
    (_DELIVERY_MODE, "delivery_mode", _OCTET),
    (_PRIORITY, "priority", _OCTET),
    (_CORRELATION_ID, "correlation_id", _SHORT),
    (_REPLY_TO, "reply_to", _SHORT),
    (_EXPIRATION, "expiration", _SHORT),
    (_MESSAGE_ID, "message_id", _SHORT),
    (_TIMESTAMP, "timestamp", _LONG),
    (_TYPE, "type", _SHORT),
    (_USER_ID, "user_id", _SHORT),
    (_APP_ID, "app_id", _SHORT),
)
FLAGS = {name: bit for bit, name, _ in _LAYOUT}
"""The bits that say which properties there are."""
# What walking over bytes that are no property list may end in.
_UNREADABLE = (IndexError, KeyError, struct.error, UnicodeDecodeError, ArithmeticError, RecursionError)


def _unreadable(error: Exception) -> InvalidMessage:
    return InvalidMessage(f"the message's header is no AMQP property list: {type(error).__name__}: {error}")


def decode_header(header: bytes) -> Properties:
    """Return the properties. Raises InvalidMessage when the bytes are no property list."""
    try:
        return _decode_header(header)
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def _decode_header(header: bytes) -> Properties:
    flags = _flags.unpack_from(header)[0]
    at = 2
    found: dict[str, Any] = {}
    for bit, name, kind in _LAYOUT:
        if not flags & bit:
            continue
        if kind == _SHORT:
            start = at + 1
            at = start + header[at]
            found[name] = header[start:at].decode()
        elif kind == _OCTET:
            found[name] = header[at]
            at += 1
        elif kind == _TABLE:
            found[name], at = decode_table(header, at)
        else:
            found[name] = _u64.unpack_from(header, at)[0]
            at += 8
    if at > len(header):
        raise InvalidMessage("the message's header ends too early")
    return Properties(**found)


def select(header: bytes, keys: Iterable[str]) -> dict[str, Any]:
    """Return those of the message's headers that are in `keys`, decoding nothing else.

    Raises InvalidMessage. `keys` is the same tuple or frozenset at every call, so that it is prepared once.
    """
    try:
        return _select(header, keys)
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def _select(header: bytes, keys: Iterable[str]) -> dict[str, Any]:
    flags = _flags.unpack_from(header)[0]
    found: dict[str, Any] = {}
    if not flags & _HEADERS:
        return found
    wanted = _wanted(keys)
    at = 2
    if flags & _CONTENT_TYPE:
        at += 1 + header[at]
    if flags & _CONTENT_ENCODING:
        at += 1 + header[at]
    length, named = _u32.unpack_from, wanted.get
    end = at + 4 + length(header, at)[0]
    at += 4
    left = len(wanted)
    while at < end:
        start = at + 1
        at = start + header[at]
        name, letter = named(header[start:at]), header[at]
        if letter == VOID:  # most headers of a task are void or text
            at += 1
            if name is None:
                continue
            found[name] = None
        elif letter == TEXT:
            start = at + 5
            at = start + length(header, at + 1)[0]
            if name is None:
                continue
            found[name] = octets(header[start:at])
        elif name is None:
            at += WIDTHS[letter] or 5 + length(header, at + 1)[0]
            continue
        else:
            found[name], at = value_at(header, at)
        left -= 1
        if not left:
            break
    if at > len(header):
        raise InvalidMessage("the message's header ends too early")
    return found


_wanted_cache: dict[Any, dict[bytes, str]] = {}


def _wanted(keys: Iterable[str]) -> dict[bytes, str]:
    known = _wanted_cache.get(keys)
    if known is None:
        known = _wanted_cache[keys] = {key.encode(): key for key in keys}
    return known


def pack(envelope: Envelope) -> Parcel:
    """Encode an envelope once, in the caller's thread. A missing message id is made up and written into it.

    Raises TooLarge and EncodeError, so that a message which would cost its channel is never written.
    """
    properties = envelope.properties
    message_id = properties.message_id
    if message_id is None:
        message_id = new_id()
    address = envelope.address
    if len(address.routing_key) > 63 or len(address.exchange) > 63:  # four bytes a character at most
        _short(address.exchange, "exchange")
        _short(address.routing_key, "routing key")
    return Parcel(
        address.exchange,
        address.routing_key,
        _encoded(properties, message_id),
        envelope.body,
        message_id,
        envelope.fate,
    )


def opened(parcel: Parcel) -> Envelope:
    """Return the envelope that a parcel was made from."""
    address = Address(parcel.exchange, parcel.routing_key)
    return Envelope(address, parcel.body, decode_header(parcel.header), parcel.fate)


def unpack(delivery: Delivery) -> Envelope:
    """Decode a delivery's properties. Raises InvalidMessage."""
    return Envelope(
        Address(delivery.exchange, delivery.routing_key), delivery.body, decode_header(delivery.header)
    )


# --- frames ----------------------------------------------------------------------------------------------


def publish_frames(  # noqa: PLR0917 - called once a message, by position
    channel: int,
    exchange: str,
    routing_key: str,
    header: bytes,
    body: bytes,
    frame_max: int,
    mandatory: bytes = b"\x01",
) -> bytes:
    """Return Basic.Publish, `mandatory` or with a byte of 0, the content header and the body frames, in one piece."""
    ex, rk = exchange.encode(), routing_key.encode()
    method = b"".join((b"\x00\x3c\x00\x28\x00\x00", bytes((len(ex),)), ex, bytes((len(rk),)), rk, mandatory))
    size = len(body)
    parts = [
        _frame.pack(METHOD, channel, len(method)),
        method,
        END,
        _frame.pack(HEADER, channel, len(header) + 12),
        _content.pack(60, 0, size),
        header,
        END,
    ]
    room = frame_max - FRAME_OVERHEAD
    if 0 < size <= room:
        parts += (_frame.pack(BODY, channel, size), body, END)
    elif size:
        for start in range(0, size, room):
            piece = body[start : start + room]
            parts += (_frame.pack(BODY, channel, len(piece)), piece, END)
    return b"".join(parts)


def ack_frame(channel: int, tag: int, multiple: bool) -> bytes:
    return _ack.pack(METHOD, channel, 13, 60, 80, tag, multiple, FRAME_END)


def reject_frame(channel: int, tag: int, requeue: bool) -> bytes:
    return _ack.pack(METHOD, channel, 13, 60, 90, tag, requeue, FRAME_END)


def nack_frame(channel: int, tag: int, multiple: bool, requeue: bool) -> bytes:
    return _nack.pack(METHOD, channel, 13, 60, 120, tag, multiple | requeue << 1, FRAME_END)
