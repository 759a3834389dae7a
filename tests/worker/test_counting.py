"""Counts of one chord that fall due within a moment are one message, and all who asked hear of its confirm."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from amqptasks.amqp import Address, Parcel
from amqptasks.errors import ConnectionLost, Nacked, TransportError, Unroutable
from amqptasks.transport.base import Done
from amqptasks.worker.counting import Counting


class Recording:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.posted: list[tuple[Parcel, Done]] = []
        self._more = asyncio.Event()

    def post(self, parcel: Parcel, done: Done) -> None:
        self.posted.append((parcel, done))
        self._more.set()

    async def until(self, number: int) -> None:
        while len(self.posted) < number:
            self._more.clear()
            await self._more.wait()

    @property
    def ids(self) -> list[str]:
        return [parcel.message_id for parcel, _ in self.posted]


def count(message_id: str) -> Parcel:
    return Parcel("x", "k", b"", b"", message_id, "count")


def after_a_moment(
    *parcels: Parcel, answer: TransportError | None = None
) -> tuple[list[str], dict[str, Any]]:
    """Post all in one turn; return what was published, and what each of the senders heard."""
    heard: dict[str, Any] = {}

    async def scenario() -> list[str]:
        publisher = Recording()
        counting = Counting(publisher)  # type: ignore[arg-type]
        for parcel in parcels:
            counting.post(parcel, lambda error, parcel=parcel: heard.update({parcel.message_id: error}))
        first = list(publisher.ids)
        await publisher.until(len({each.message_id.partition(".")[0] for each in parcels}))
        for _, done in publisher.posted:
            done(answer)
        return [*first, "|", *publisher.ids[len(first) :]]

    return asyncio.run(asyncio.wait_for(scenario(), 60)), heard


def test_one_count_stands_for_those_of_its_chord() -> None:
    published, heard = after_a_moment(count("a.1"), count("a.2"), count("b.1"))

    assert published == ["|", "a.1", "b.1"]
    assert heard == {"a.1": None, "a.2": None, "b.1": None}


def test_what_is_no_count_leaves_at_once_and_before() -> None:
    published, _ = after_a_moment(count("a.1"), Parcel("", "q", b"", b"", "result", "drop"))

    assert published == ["result", "|", "a.1"]


def part(message_id: str, chord: str = "a") -> Parcel:
    return Parcel("", f"amqptasks.chord.{chord}", b"", b"", message_id, "part")


def test_a_count_waits_for_the_confirm_of_its_part() -> None:
    """Else a broker that dies between the two has counted, and forgotten what was counted."""

    async def scenario() -> None:
        publisher = Recording()
        counting = Counting(publisher)  # type: ignore[arg-type]
        heard: list[Any] = []
        counting.post(part("p1"), heard.append)
        counting.post(count("a.1"), heard.append)
        counting.post(part("p2", "b"), heard.append)
        counting.post(count("b.1"), heard.append)
        _, confirm_second = publisher.posted[1]
        confirm_second(None)
        await publisher.until(3)
        assert publisher.ids == ["p1", "p2", "b.1"]
        _, confirm_first = publisher.posted[0]
        confirm_first(None)
        await publisher.until(4)
        assert publisher.ids == ["p1", "p2", "b.1", "a.1"]

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_part_that_was_nacked_is_counted_once_it_is_there() -> None:
    async def scenario() -> None:
        publisher = Recording()
        counting = Counting(publisher)  # type: ignore[arg-type]
        counting.post(part("p1"), lambda error: None)
        counting.post(count("a.1"), lambda error: None)
        publisher.posted[0][1](Nacked("full"))
        counting.post(part("p1"), lambda error: None)
        assert publisher.ids == ["p1", "p1"]
        publisher.posted[1][1](None)
        await publisher.until(3)
        assert publisher.ids == ["p1", "p1", "a.1"]

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_all_hear_of_a_refusal() -> None:
    lost = ConnectionLost("gone")

    _, heard = after_a_moment(count("a.1"), count("a.2"), answer=lost)

    assert heard == {"a.1": lost, "a.2": lost}


def test_a_later_count_is_a_message_of_its_own() -> None:
    async def scenario() -> list[str]:
        publisher = Recording()
        counting = Counting(publisher)  # type: ignore[arg-type]
        for number, name in enumerate(("a.1", "a.2"), 1):
            counting.post(count(name), lambda error: None)
            await publisher.until(number)
        return publisher.ids

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == ["a.1", "a.2"]


def test_a_part_that_found_no_queue_is_left_to_a_call_that_asks_why() -> None:
    """Its run is settled, and its count leaves, once that call is confirmed."""

    async def scenario() -> None:
        publisher = Recording()
        counting = Counting(publisher, Address("amqptasks.internal", "k"))  # type: ignore[arg-type]
        heard: list[Any] = []
        counting.post(part("p1"), heard.append)
        counting.post(count("a.1"), heard.append)
        publisher.posted[0][1](Unroutable("no queue"))
        late, confirm = publisher.posted[1]
        assert (late.exchange, late.routing_key) == ("amqptasks.internal", "k")
        assert heard == []
        confirm(None)
        await publisher.until(3)
        assert (publisher.ids[2], heard) == ("a.1", [None])

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_part_that_not_even_a_call_can_save_is_told_as_it_is() -> None:
    """Whoever posted it posts it again."""

    async def scenario() -> None:
        publisher = Recording()
        counting = Counting(publisher, Address("amqptasks.internal", "k"))  # type: ignore[arg-type]
        heard: list[Any] = []
        counting.post(part("p1"), heard.append)
        nowhere = Unroutable("no queue")
        publisher.posted[0][1](nowhere)
        publisher.posted[1][1](Nacked("full"))
        assert heard == [nowhere]
        counting.post(part("p1"), heard.append)
        publisher.posted[2][1](None)
        assert heard == [nowhere, None]

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_only_parts_are_parts() -> None:
    """Whatever else goes to such a name, by whatever exchange, is as it would be anywhere: told as it ends."""

    async def scenario() -> None:
        publisher = Recording()
        counting = Counting(publisher, Address("amqptasks.internal", "k"))  # type: ignore[arg-type]
        heard: list[Any] = []
        counting.post(part("p1"), heard.append)
        counting.post(replace(part("q1"), exchange="orders", fate="dead"), heard.append)
        counting.post(replace(part("q2"), fate="drop"), heard.append)
        nowhere = Unroutable("no queue")
        for _, done in publisher.posted[1:]:
            done(nowhere)
        assert (heard, publisher.ids) == ([nowhere, nowhere], ["p1", "q1", "q2"])

        counting.post(count("a.1"), heard.append)
        assert publisher.ids == ["p1", "q1", "q2"], "the count waits for the part, not for what came after it"
        publisher.posted[0][1](None)
        await publisher.until(4)
        assert publisher.ids[3] == "a.1"

    asyncio.run(asyncio.wait_for(scenario(), 60))
