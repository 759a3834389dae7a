"""The set of revoked ids: bounded in number and age, and asked by id or by stamp."""

from __future__ import annotations

import time
from typing import Any

from amqptasks.amqp import Delivery, Properties
from amqptasks.transport import codec
from amqptasks.worker.revoked import Revoked


def delivery(**headers: Any) -> Delivery:
    return Delivery("q", 1, 1, False, "", "q", codec.encode_header(Properties(headers=headers)), b"")


def test_nothing_is_covered_until_something_is_revoked() -> None:
    revoked = Revoked()

    assert not revoked.any
    revoked.add(["a"])
    assert revoked.any
    assert revoked.covers("a", delivery())
    assert not revoked.covers("b", delivery())


def test_the_oldest_are_forgotten_first() -> None:
    revoked = Revoked(limit=2)

    revoked.add(["a", "b"])
    revoked.add(["a"])
    revoked.add(["c"])

    assert list(revoked) == ["a", "c"]


def test_what_is_too_old_is_not_taken_and_not_kept() -> None:
    revoked = Revoked(keep=10.0)

    revoked.add(["old"], time.time() - 11.0)
    revoked.add(["aging"], time.time() - 9.0)
    revoked.bound(10, 5.0)

    assert not revoked.covers("old", delivery())
    assert not revoked.covers("aging", delivery())
    assert not revoked.any


def test_a_stamp_covers_every_call_that_bears_it() -> None:
    revoked = Revoked()
    revoked.add_stamps({"customer": ["17", "18"]})

    assert revoked.covers("x", delivery(stamps={"customer": "17"}))
    assert revoked.covers("x", delivery(stamps={"customer": ["5", "18"]}))
    assert not revoked.covers("x", delivery(stamps={"customer": "19"}))
    assert not revoked.covers("x", delivery())
