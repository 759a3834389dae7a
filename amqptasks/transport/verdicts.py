"""What a parcel is told when it is refused, and which of many the broker meant when it closed their channel. Pure."""

from __future__ import annotations

from amqptasks.amqp import Parcel
from amqptasks.errors import Nacked, NotFound, TooLarge, TransportError, Unroutable
from amqptasks.transport.failures import blamed_exchange, blamed_size


def unroutable(parcel: Parcel, said: str) -> Unroutable:
    """The parcel was returned; `said` is the broker's text."""
    return Unroutable(
        f"no queue is bound for {place(parcel)} ({said}); declare the queue and "
        "bind it, or check exchange and routing key",
        (parcel,),
    )


def nacked(parcel: Parcel) -> Nacked:
    return Nacked(
        f"the broker refused message {parcel.message_id} for {place(parcel)}: the queue is full "
        "(x-max-length with x-overflow=reject-publish) or has no majority; try again later",
        (parcel,),
    )


def unfit(parcel: Parcel, max_body: int, max_header: int) -> TooLarge | None:
    """Why the broker would refuse a parcel of this size; None if it takes it."""
    if len(parcel.body) > max_body:
        return TooLarge(
            f"the body of message {parcel.message_id} has {len(parcel.body)} bytes and the broker takes "
            f"{max_body}; send a reference, compress it, or raise max_message_size on the broker",
            (parcel,),
        )
    if len(parcel.header) > max_header:
        return TooLarge(
            f"the properties and headers of message {parcel.message_id} have {len(parcel.header)} bytes "
            f"and one frame takes {max_header}; put large values into the body",
            (parcel,),
        )
    return None


def verdict(parcel: Parcel, reason: TransportError, *, alone: bool) -> TransportError | None:
    """Whether the broker closed the channel for this parcel, and as what it is told."""
    exchange, key = blamed_exchange(reason)
    if exchange is not None:
        guilty = parcel.exchange == exchange and key in {None, parcel.routing_key}
        return _copy(reason, parcel) if guilty or alone else None
    size = blamed_size(reason)
    if size is not None and (len(parcel.body) == size or alone):
        return TooLarge(f"message {parcel.message_id} for {place(parcel)}: {reason}", (parcel,))
    return _copy(reason, parcel) if alone else None


def _copy(reason: TransportError, parcel: Parcel) -> TransportError:
    """An error of its own for each message: a shared one would gather everybody's traceback."""
    if isinstance(reason, NotFound):
        return NotFound(f"message {parcel.message_id} for {place(parcel)}: {reason}", reason.code)
    return type(reason)(f"message {parcel.message_id} for {place(parcel)}: {reason}")


def place(parcel: Parcel) -> str:
    return f"exchange {parcel.exchange or '(default)'!r}, routing key {parcel.routing_key!r}"
