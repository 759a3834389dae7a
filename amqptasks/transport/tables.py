"""AMQP field tables as bytes, with RabbitMQ's type letters. Pure, hot, and ignorant of what the tables mean.

Written: t (bool), I (int 32), l (int 64), d (double), S (long string), D (decimal), T (timestamp), A (array),
F (table), V (void), x (bytes). Read: besides these b, B, s, u, i, L and f, as other clients send them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct
from typing import Any

from amqptasks.errors import EncodeError, InvalidMessage

_u32 = Struct(">I")
_int32 = Struct(">ci")
_int64 = Struct(">cq")
_double = Struct(">cd")
_long = Struct(">cI")
_decimal = Struct(">cBi")
_timestamp = Struct(">cQ")

_keys: dict[str, bytes] = {}
_names: dict[bytes, str] = {}
# Names repeat from message to message; a sender that makes them up must not fill the memory.
_NAMES_KEPT = 1000


def _key(name: object) -> bytes:
    if not isinstance(name, str):
        raise EncodeError(f"a header's name must be a string, not {type(name).__name__}: {name!r:.60}")
    raw = name.encode()
    if len(raw) > 255:
        raise EncodeError(f"a header's name may have 255 bytes, this one has {len(raw)}: {name[:60]!r}...")
    encoded = bytes((len(raw),)) + raw
    if len(_keys) < _NAMES_KEPT:
        _keys[name] = encoded
    return encoded


def encode_table(table: Mapping[str, Any]) -> bytes:
    """Return the table with its length. Raises EncodeError for a value of a type that AMQP has not."""
    parts: list[bytes] = [b""]
    known, encoders = _keys, _ENCODERS
    add, pack_long = parts.append, _long.pack
    for name, value in table.items():
        add(known.get(name) or _key(name))
        kind = type(value)
        if value is None:  # most headers of a task are void or text
            add(b"V")
        elif kind is str:
            raw = value.encode("utf-8", "surrogatepass")
            add(pack_long(b"S", len(raw)))
            add(raw)
        else:
            encoder = encoders.get(kind)
            add(encoder(value) if encoder is not None else _encode_other(name, value))
    rest = b"".join(parts)
    return _u32.pack(len(rest)) + rest


def _str(value: str) -> bytes:
    # py-amqp writes and reads lone surrogates so; a repr of arguments may hold some.
    raw = value.encode("utf-8", "surrogatepass")
    return _long.pack(b"S", len(raw)) + raw


def _int(value: int) -> bytes:
    if -0x80000000 <= value <= 0x7FFFFFFF:
        return _int32.pack(b"I", value)
    if -(1 << 63) <= value < 1 << 63:
        return _int64.pack(b"l", value)
    # AMQP has no wider integer; a decimal text keeps the value.
    return _str(str(value))


def _list(values: list[Any] | tuple[Any, ...]) -> bytes:
    parts = []
    for value in values:
        encoder = _ENCODERS.get(type(value))
        parts.append(encoder(value) if encoder is not None else _encode_other("list element", value))
    rest = b"".join(parts)
    return _long.pack(b"A", len(rest)) + rest


def _decimal_value(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    number = int("".join(map(str, digits)) or "0") * (-1 if sign else 1)
    if not isinstance(exponent, int) or not -255 <= exponent <= 0 or not -(1 << 31) <= number < 1 << 31:
        return _str(str(value))  # infinite, or wider than AMQP's decimal
    return _decimal.pack(b"D", -exponent, number)


def _datetime(value: datetime) -> bytes:
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return _timestamp.pack(b"T", max(0, int(aware.timestamp())))


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    str: _str,
    int: _int,
    type(None): lambda value: b"V",
    bool: lambda value: b"t\x01" if value else b"t\x00",
    float: lambda value: _double.pack(b"d", value),
    list: _list,
    tuple: _list,
    dict: lambda value: b"F" + encode_table(value),
    bytes: lambda value: _long.pack(b"x", len(value)) + value,
    bytearray: lambda value: _long.pack(b"x", len(value)) + bytes(value),
    Decimal: _decimal_value,
    datetime: _datetime,
}


def _encode_other(name: str, value: Any) -> bytes:
    """Subclasses of what AMQP has: an IntEnum, a str subclass, any mapping."""
    for kind, encoder in _ENCODERS.items():
        if isinstance(value, kind):
            return encoder(value)
    if isinstance(value, Mapping):
        return b"F" + encode_table(value)
    raise EncodeError(
        f"header {name!r} is {type(value).__name__}, which AMQP headers cannot carry; "
        "send it in the task's arguments"
    )


# --- reading ---------------------------------------------------------------------------------------------


def decode_table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    """Return the table at `at`, which points to its length, and the position after it."""
    end = at + 4 + _u32.unpack_from(data, at)[0]
    at += 4
    table: dict[str, Any] = {}
    names, decoders, length = _names, _DECODERS, _u32.unpack_from
    while at < end:
        start = at + 1
        at = start + data[at]
        name = names.get(data[start:at]) or _name(data[start:at])
        letter = data[at]
        if letter == VOID:  # most headers of a task are void or text
            table[name] = None
            at += 1
        elif letter == TEXT:
            start = at + 5
            at = start + length(data, at + 1)[0]
            try:
                table[name] = data[start:at].decode()
            except UnicodeDecodeError:
                table[name] = octets(data[start:at])
        else:
            table[name], at = decoders[letter](data, at + 1)
    if at != end or end > len(data):
        raise InvalidMessage("a field table's entries do not fill its length")
    return table, end


def _name(raw: bytes) -> str:
    name = raw.decode()
    if len(_names) < _NAMES_KEPT:
        _names[raw] = name
    return name


def value_at(data: bytes, at: int) -> tuple[Any, int]:
    """Return the value at `at`, which points to its type letter, and the position after it."""
    return _DECODERS[data[at]](data, at + 1)


def _read_str(data: bytes, at: int) -> tuple[str | bytes, int]:
    start = at + 4
    end = start + _u32.unpack_from(data, at)[0]
    return octets(data[start:end]), end


def octets(raw: bytes) -> str | bytes:
    """AMQP's long strings are octets: text from most senders, and what is no text stays as it is."""
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return raw


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    start = at + 4
    end = start + _u32.unpack_from(data, at)[0]
    return data[start:end], end


def _read_list(data: bytes, at: int) -> tuple[list[Any], int]:
    end = at + 4 + _u32.unpack_from(data, at)[0]
    at += 4
    values = []
    while at < end:
        value, at = _DECODERS[data[at]](data, at + 1)
        values.append(value)
    if at != end:
        raise InvalidMessage("a field array's elements do not fill its length")
    return values, end


def _read_decimal(data: bytes, at: int) -> tuple[Decimal, int]:
    return Decimal(_signed32.unpack_from(data, at + 1)[0]).scaleb(-data[at]), at + 5


def _read_timestamp(data: bytes, at: int) -> tuple[datetime | int, int]:
    seconds = _unsigned64.unpack_from(data, at)[0]
    # Some senders write milliseconds: beyond year 9999 the number is what there is to tell.
    return (datetime.fromtimestamp(seconds, UTC) if seconds < _YEAR_10000 else seconds), at + 8


def _reader(layout: Struct) -> Callable[[bytes, int], tuple[Any, int]]:
    size, unpack_from = layout.size, layout.unpack_from
    return lambda data, at: (unpack_from(data, at)[0], at + size)


VOID, TEXT = ord("V"), ord("S")
_YEAR_10000 = 253402300800
_signed32 = Struct(">i")
_unsigned64 = Struct(">Q")

_DECODERS: dict[int, Callable[[bytes, int], tuple[Any, int]]] = {
    ord("S"): _read_str,
    ord("V"): lambda data, at: (None, at),
    ord("I"): _reader(_signed32),
    ord("l"): _reader(Struct(">q")),
    ord("t"): lambda data, at: (data[at] != 0, at + 1),
    ord("d"): _reader(Struct(">d")),
    ord("A"): _read_list,
    ord("F"): decode_table,
    ord("x"): _read_bytes,
    ord("T"): _read_timestamp,
    ord("D"): _read_decimal,
    ord("b"): _reader(Struct(">b")),
    ord("B"): _reader(Struct(">B")),
    ord("s"): _reader(Struct(">h")),
    ord("u"): _reader(Struct(">H")),
    ord("i"): _reader(Struct(">I")),
    ord("L"): _reader(Struct(">q")),
    ord("f"): _reader(Struct(">f")),
}

# Bytes of type letter and value, to step over it; 0 where a length of four bytes follows the letter.
WIDTHS = dict.fromkeys(map(ord, "SAFx"), 0) | {
    ord(letter): 1 + size
    for letter, size in zip("VtbBsuIilLdfDT", (0, 1, 1, 1, 2, 2, 4, 4, 8, 8, 8, 4, 5, 8), strict=True)
}
