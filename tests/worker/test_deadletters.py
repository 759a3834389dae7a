"""Dead letters of ours say why, when, where, how often and by what error; and they can be read back."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from amqptasks import protocol
from amqptasks.amqp import Address, Delivery, Parcel, Properties
from amqptasks.deaths import address_of, read
from amqptasks.transport import codec
from amqptasks.worker import deadletters

HEADERS = {"task": "shop.pick", "id": "one", "mine": 1, "x-death": [], "x-first-death-queue": "q"}


def message(**headers: object) -> Delivery:
    properties = Properties(
        headers={**HEADERS, **headers}, correlation_id="one", user_id="u", expiration="5", delivery_mode=1
    )
    header = codec.encode_header(properties)
    return Delivery("short", 1, 1, False, "shop", "key", header, b"[[1, 2")


def refused(delivery: Delivery, **more: int) -> Parcel:
    return deadletters.refused(delivery, "dead", reason="unknown", error="E: why", node="w@host", **more)


def lying(parcel: Parcel) -> Delivery:
    return Delivery(
        "short.dead", 1, 1, False, parcel.exchange, parcel.routing_key, parcel.header, parcel.body
    )


def test_what_is_refused_says_everything_and_is_otherwise_as_it_came() -> None:
    parcel = refused(message())

    properties = codec.decode_header(parcel.header)
    headers = dict(properties.headers or {})
    assert (parcel.exchange, parcel.routing_key, parcel.body) == ("dead", "short", b"[[1, 2")
    assert (properties.user_id, properties.expiration, properties.delivery_mode) == (None, None, 2)
    assert abs(headers.pop("x-amqptasks-time") - time.time()) < 60
    assert headers == {
        "task": "shop.pick",
        "id": "one",
        "mine": 1,
        "x-amqptasks-reason": "unknown",
        "x-amqptasks-error": "E: why",
        "x-amqptasks-queue": "short",
        "x-amqptasks-exchange": "shop",
        "x-amqptasks-routing-key": "key",
        "x-amqptasks-node": "w@host",
        "x-amqptasks-deaths": 1,
    }


def test_deaths_and_crashes_are_counted() -> None:
    letter = read(lying(refused(message(**{protocol.DEATHS: 2}), crashes=5)))

    assert (letter.times, letter.crashes) == (3, 5)


def test_what_found_no_queue_keeps_its_address() -> None:
    lost = replace(codec.pack(codec.unpack(message())), exchange="events", routing_key="shop.sold")

    parcel = deadletters.forwarded(lost, "dead", reason="unroutable", error="312", node="w@host")

    letter = read(lying(parcel))
    assert (letter.reason, letter.error, letter.times) == ("unroutable", "312", 1)
    assert address_of(letter) == Address("events", "shop.sold")


@pytest.mark.parametrize("header", [b"", b"\xff\xff", b"\x20\x00\x00\x00\x00\x09\x01a"])
def test_a_header_that_cannot_be_read_is_refused_with_its_reason_all_the_same(header: bytes) -> None:
    letter = read(lying(refused(replace(message(), header=header))))

    assert (letter.reason, letter.queue, letter.times, letter.size) == ("unknown", "short", 1, 6)
