"""Results that go to the same client together: in order, each with a fate of its own, nobody else's bundled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from amqptasks.amqp import Address, Delivery, Envelope, Parcel, Properties
from amqptasks.backends import wire
from amqptasks.errors import ConnectionLost, InvalidMessage, TransportError
from amqptasks.transport import codec
from amqptasks.transport.base import Done
from amqptasks.worker import replies as module
from amqptasks.worker.replies import BUSY, FULL, LARGEST, Replies

OURS = wire.REPLIES + "5b6f"


class FakePublisher:
    def __init__(self) -> None:
        self.posted: list[tuple[Parcel, Done]] = []
        self.flushed = asyncio.Event()

    def post(self, parcel: Parcel, done: Done) -> None:
        self.posted.append((parcel, done))

    def flush(self) -> None:
        assert self.posted
        self.flushed.set()


def result(text: str | bytes, queue: str = OURS) -> Parcel:
    body = text.encode() if isinstance(text, str) else text
    properties = Properties(content_type="application/json", correlation_id="c", delivery_mode=1)
    return codec.pack(Envelope(Address("", queue), body, properties, "drop"))


def after_a_turn(
    post: Callable[[Replies], None], *, persistent: bool = False, limit: int = FULL
) -> FakePublisher:
    """What was published once the loop came round."""
    publisher = FakePublisher()

    async def turn() -> None:
        post(Replies(publisher, persistent=persistent, limit=limit))  # type: ignore[arg-type]
        await asyncio.sleep(0)

    asyncio.run(turn())
    return publisher


def arrived(parcel: Parcel) -> Delivery:
    return Delivery(parcel.routing_key, 1, 1, False, "", parcel.routing_key, parcel.header, parcel.body)


def bodies(parcel: Parcel) -> list[bytes]:
    """What a client finds in one message."""
    delivery = arrived(parcel)
    if codec.unpack(delivery).properties.content_type != wire.BUNDLE:
        return [delivery.body]
    return [codec.unpack(one).body for one in wire.unbundled(delivery)]


def ignore(error: TransportError | None) -> None:
    """Nobody waits for this one."""


def test_results_of_one_turn_share_a_message_in_their_order() -> None:
    def post(replies: Replies) -> None:
        for number in range(5):
            replies.post(result(str(number)), ignore)

    [(parcel, _)] = after_a_turn(post).posted

    assert bodies(parcel) == [b"0", b"1", b"2", b"3", b"4"]
    assert (parcel.exchange, parcel.routing_key, parcel.fate) == ("", OURS, "drop")


def test_each_is_taken_apart_with_its_own_properties() -> None:
    parcel = wire.bundled(OURS, [result("a"), result("b")], persistent=False)

    found = [codec.unpack(one).properties for one in wire.unbundled(arrived(parcel))]

    assert [(each.content_type, each.correlation_id) for each in found] == [("application/json", "c")] * 2


def test_one_result_alone_goes_as_it_is() -> None:
    alone = result("alone")

    [(parcel, _)] = after_a_turn(lambda replies: replies.post(alone, ignore)).posted

    assert parcel is alone


def test_every_result_learns_its_fate() -> None:
    told: list[tuple[int, TransportError | None]] = []

    def post(replies: Replies) -> None:
        for number in range(3):
            replies.post(result("x"), lambda error, number=number: told.append((number, error)))  # type: ignore[misc]

    lost = ConnectionLost("gone")
    [(_, done)] = after_a_turn(post).posted
    done(lost)

    assert told == [(0, lost), (1, lost), (2, lost)]


@pytest.mark.parametrize(
    "other",
    [
        result("x", "0a2f-of-a-celery-client"),
        result(bytes(LARGEST + 1)),
        Parcel("ex", OURS, b"", b"", "id", "drop"),
    ],
    ids=["another client", "large", "an exchange"],
)
def test_what_cannot_be_bundled_goes_at_once_and_alone(other: Parcel) -> None:
    publisher = FakePublisher()

    async def post() -> None:
        Replies(publisher, persistent=False, limit=FULL).post(other, ignore)  # type: ignore[arg-type]
        assert [parcel for parcel, _ in publisher.posted] == [other]

    asyncio.run(post())


def test_different_clients_get_different_messages() -> None:
    queues = [wire.REPLIES + name for name in "abab"]

    posted = after_a_turn(lambda replies: [replies.post(result(q[-1], q), ignore) for q in queues]).posted  # type: ignore[func-returns-value]

    assert {parcel.routing_key: bodies(parcel) for parcel, _ in posted} == {
        wire.REPLIES + "a": [b"a", b"a"],
        wire.REPLIES + "b": [b"b", b"b"],
    }


def test_no_bundle_is_larger_than_a_message_may_be() -> None:
    def post(replies: Replies) -> None:
        for number in range(40):
            replies.post(result(b"%02d" % number * 100), ignore)

    posted = after_a_turn(post, limit=2000).posted

    assert len(posted) > 1
    assert all(len(parcel.body) <= 2000 for parcel, _ in posted)
    assert [body for parcel, _ in posted for body in bodies(parcel)] == [b"%02d" % n * 100 for n in range(40)]


@pytest.mark.parametrize("persistent", [True, False])
def test_a_bundle_survives_what_its_results_survive(persistent: bool) -> None:
    publisher = after_a_turn(
        lambda replies: [replies.post(result("x"), ignore) for _ in range(2)],  # type: ignore[func-returns-value]
        persistent=persistent,
    )

    [(parcel, _)] = publisher.posted

    assert codec.unpack(arrived(parcel)).properties.delivery_mode == (2 if persistent else 1)


@pytest.mark.parametrize("cut", [1, 7, 9, 20])
def test_a_torn_bundle_is_said_to_be_one(cut: int) -> None:
    parcel = wire.bundled(OURS, [result("a"), result("b")], persistent=False)
    torn = arrived(
        Parcel(parcel.exchange, parcel.routing_key, parcel.header, parcel.body[:-cut], parcel.message_id)
    )

    with pytest.raises(InvalidMessage, match="ends too early"):
        list(wire.unbundled(torn))


def test_after_many_in_one_turn_the_next_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 3600)
    publisher = FakePublisher()

    async def turns() -> None:
        replies = Replies(publisher, persistent=False, limit=FULL)  # type: ignore[arg-type]
        for _ in range(BUSY):
            replies.post(result("first"), ignore)
        await asyncio.sleep(0)
        replies.post(result("next"), ignore)
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(turns())

    assert [len(bodies(parcel)) for parcel, _ in publisher.posted] == [BUSY]


def test_they_wait_for_a_moment_only_and_one_alone_is_calm_again() -> None:
    publisher = FakePublisher()

    async def turns() -> None:
        replies = Replies(publisher, persistent=False, limit=FULL)  # type: ignore[arg-type]
        for _ in range(BUSY):
            replies.post(result("first"), ignore)
        await asyncio.sleep(0)
        publisher.flushed.clear()
        replies.post(result("next"), ignore)
        await asyncio.wait_for(publisher.flushed.wait(), 60)
        replies.post(result("calm"), ignore)
        await asyncio.sleep(0)

    asyncio.run(turns())

    assert [bodies(parcel)[0] for parcel, _ in publisher.posted] == [b"first", b"next", b"calm"]
