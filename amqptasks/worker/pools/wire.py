"""The messages between parent and child: a run one way, what became of it the other way. Bytes and values.

On the socket one message is one datagram. A message over `LIMIT` bytes is announced by its size and follows in pieces.
Nothing is pickled: header and body of a delivery are copied as they came from the broker.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache

from amqptasks.amqp import Delivery, Fate, Parcel
from amqptasks.worker.outcome import Cause, Outcome, Run, Verdict
from amqptasks.worker.pools.ends import End

LIMIT = 128 * 1024
"""The largest datagram; the kernel refuses more than its send buffer, about 208 KiB by default."""

RUN, ANNOUNCED = 1, 2
"""What a message to a child begins with: a run, or the size of one that follows in pieces."""

FINISHED, STARTED, RETIRING, READY, FAILED = 1, 2, 4, 8, 16
"""Flags of a message to the parent. FAILED: the child could not start; the rest is the reason."""

PIECES = 32
"""Flag: the size of a message that follows in pieces."""

TOLD = 128
"""Flag: an event follows the state; its length before it, unless nothing comes after it."""

BELL = bytes((64,))
"""A message to the parent that only says: look at the journal."""

_RUN = struct.Struct("<BBBBBBHQQIIdd")
_KEY = struct.Struct("<Q")
_KEY_AT = 8
_SIZE = struct.Struct("<BQ")
_FINISHED = struct.Struct("<BQBBHd")
_STARTED = struct.Struct("<BQHd")
_EVENT = struct.Struct("<I")
_PARCEL = struct.Struct("<BBBBII")
_FATES: tuple[Fate, ...] = ("raise", "drop", "dead", "count", "event", "part")
_FATE_NUMBERS = {fate: number for number, fate in enumerate(_FATES)}

Finished = tuple[int, Outcome, float]
"""Key, what follows, when."""
Started = tuple[int, Sequence[Parcel], float]
"""Key, what to publish, when. Times are the monotonic clock's, which all processes share."""


# --- runs, to the child ----------------------------------------------------------------------------------


def is_large(run: Run) -> bool:
    """Whether this run travels in pieces."""
    delivery = run.delivery
    return len(delivery.body) + len(delivery.header) > LIMIT - 2048 or len(run.detail) > 1024


def encode_run(run: Run) -> bytes:
    delivery = run.delivery
    queue, exchange, routing_key, names = _names(delivery.queue, delivery.exchange, delivery.routing_key)
    detail = run.detail.encode("utf-8", "surrogateescape")[:65535] if run.detail else b""
    return b"".join(
        (
            _RUN.pack(
                RUN,
                run.cause,
                delivery.redelivered | run.watch << 1,
                queue,
                exchange,
                routing_key,
                len(detail),
                run.key,
                delivery.tag,
                delivery.generation,
                len(delivery.header),
                math.nan if run.soft is None else run.soft,
                math.nan if run.hard is None else run.hard,
            ),
            names,
            detail,
            delivery.header,
            delivery.body,
        )
    )


@lru_cache(1024)
def _names(queue: str, exchange: str, routing_key: str) -> tuple[int, int, int, bytes]:
    a, b, c = (name.encode("utf-8", "surrogateescape") for name in (queue, exchange, routing_key))
    return len(a), len(b), len(c), a + b + c


def decode_run(data: bytes) -> Run:
    _, cause, redelivered, queue, exchange, routing_key, detail, key, tag, generation, header, soft, hard = (
        _RUN.unpack_from(data)
    )
    at = _RUN.size
    b = at + queue
    c = b + exchange
    d = c + routing_key
    e = d + detail
    f = e + header
    delivery = Delivery(
        queue=_text(data[at:b]),
        tag=tag,
        generation=generation,
        redelivered=bool(redelivered & 1),
        exchange=_text(data[b:c]),
        routing_key=_text(data[c:d]),
        header=data[e:f],
        body=data[f:],
    )
    return Run(
        key,
        delivery,
        Cause(cause),
        _text(data[d:e]),
        None if soft != soft else soft,  # noqa: PLR0124  (only a NaN differs from itself)
        None if hard != hard else hard,  # noqa: PLR0124
        bool(redelivered & 2),
    )


def run_key(data: bytes) -> int:
    """The key of an encoded run."""
    key: int = _KEY.unpack_from(data, _KEY_AT)[0]
    return key


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# --- reports, to the parent ------------------------------------------------------------------------------


def encode_finished(key: int, outcome: Outcome, at: float, flags: int = 0) -> bytes:
    """What became of a run, and when it ended."""
    state = outcome.state.encode()[:255]
    parcels, event = outcome.publish, outcome.event
    if event:
        flags |= TOLD
    head = _FINISHED.pack(FINISHED | flags, key, outcome.verdict, len(state), len(parcels), at)
    if not parcels:
        return head + state + event
    rest = [head, state]
    if event:
        rest += (_EVENT.pack(len(event)), event)
    _pack_parcels(parcels, rest)
    return b"".join(rest)


def encode_started(key: int, parcels: Sequence[Parcel], at: float) -> bytes:
    """A run starts now."""
    head = _STARTED.pack(STARTED, key, len(parcels), at)
    if not parcels:
        return head
    rest = [head]
    _pack_parcels(parcels, rest)
    return b"".join(rest)


def decode_report(data: bytes) -> tuple[int, Finished | None, Started | None]:
    """Flags, what finished, what starts: one of the two."""
    flags = data[0]
    if flags & FINISHED:
        _, key, verdict, length, count, at = _FINISHED.unpack_from(data)
        end = _FINISHED.size + length
        state = data[_FINISHED.size : end]
        if not count and not flags & TOLD:
            return flags, (key, _plain(verdict, state), at), None
        event = b""
        if flags & TOLD:
            if not count:
                plain = _plain(verdict, state)
                return flags, (key, Outcome(plain.verdict, (), plain.state, data[end:]), at), None
            start = end + _EVENT.size
            end = start + _EVENT.unpack_from(data, end)[0]
            event = data[start:end]
        parcels = _unpack_parcels(data, end, count)
        return (
            flags,
            (key, Outcome(Verdict(verdict), parcels, state.decode(errors="replace"), event), at),
            None,
        )
    _, key, count, at = _STARTED.unpack_from(data)
    return flags, None, (key, _unpack_parcels(data, _STARTED.size, count) if count else (), at)


@lru_cache(256)
def _plain(verdict: int, state: bytes) -> Outcome:
    """Outcomes without messages are few, so they are made once."""
    return Outcome(Verdict(verdict), (), state.decode(errors="replace"))


def _pack_parcels(parcels: Sequence[Parcel], into: list[bytes]) -> None:
    for parcel in parcels:
        exchange, routing_key = parcel.exchange.encode(), parcel.routing_key.encode()
        message_id = parcel.message_id.encode()
        into += (
            _PARCEL.pack(
                len(exchange),
                len(routing_key),
                len(message_id),
                _FATE_NUMBERS[parcel.fate],
                len(parcel.header),
                len(parcel.body),
            ),
            exchange,
            routing_key,
            message_id,
            parcel.header,
            parcel.body,
        )


def _unpack_parcels(data: bytes, at: int, count: int) -> tuple[Parcel, ...]:
    parcels = []
    for _ in range(count):
        exchange, routing_key, message_id, fate, header, body = _PARCEL.unpack_from(data, at)
        a = at + _PARCEL.size
        b = a + exchange
        c = b + routing_key
        d = c + message_id
        e = d + header
        at = e + body
        parcels.append(
            Parcel(
                data[a:b].decode(),
                data[b:c].decode(),
                data[d:e],
                data[e:at],
                data[c:d].decode(),
                _FATES[fate],
            )
        )
    return tuple(parcels)


def encode_ready(pid: int) -> bytes:
    return _SIZE.pack(READY, pid)


def decode_ready(data: bytes) -> int:
    """The pid of a child that is ready."""
    pid: int = _SIZE.unpack(data)[1]
    return pid


def encode_failed(reason: str) -> bytes:
    return bytes((FAILED,)) + reason.encode("utf-8", "replace")[-LIMIT + 1 :]


def decode_failed(data: bytes) -> str:
    return data[1:].decode("utf-8", "replace")


# --- pieces ----------------------------------------------------------------------------------------------


def pieces(message: bytes, kind: int) -> Iterator[bytes | memoryview]:
    """The datagrams of a message over LIMIT: its size, then slices of it. `kind` is ANNOUNCED or PIECES."""
    yield _SIZE.pack(kind, len(message))
    view = memoryview(message)
    for at in range(0, len(message), LIMIT):
        yield view[at : at + LIMIT]


def announced_size(data: bytes) -> int:
    size: int = _SIZE.unpack(data)[1]
    return size


def gather(sock: End, announcement: bytes) -> bytes:
    """Receive the pieces of an announced message; blocks. Empty when the other side is gone."""
    size = announced_size(announcement)
    message = bytearray()
    while len(message) < size:
        piece = sock.recv(LIMIT)
        if not piece:
            return b""
        message += piece
    return bytes(message)


def send(sock: End, message: bytes) -> None:
    """Send a child's message, in pieces if it is large; blocks."""
    if len(message) <= LIMIT:
        sock.send(message)
        return
    for piece in pieces(message, PIECES):
        sock.send(piece)
