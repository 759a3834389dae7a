"""What every `Link` does, whatever it is made of. Subclass `LinkContract` and give it the fixture `connect`."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from amqptasks.amqp import Address, Binding, Delivery, Envelope, Exchange, Parcel, Properties, Queue
from amqptasks.errors import (
    AccessRefused,
    ConnectionLost,
    Nacked,
    NotFound,
    ResourceLocked,
    TopologyMismatch,
    TransportError,
    Unroutable,
)
from amqptasks.transport.base import Connect, Consumer, Link
from amqptasks.transport.codec import decode_header, pack

LONGEST = 100.0

QUORUM = {"x-queue-type": "quorum"}
CLASSIC = {"x-queue-type": "classic"}


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on a loop of its own, within `LONGEST` seconds."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LONGEST):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for what other callbacks of the loop, or the broker, will make true."""
    deadline = asyncio.get_running_loop().time() + 60
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"never came true: {what or condition}"
        await asyncio.sleep(0.005)


def message(queue: str, body: bytes = b"x", exchange: str = "", **properties: Any) -> Parcel:
    return pack(Envelope(Address(exchange, queue), body, Properties(**properties)))


async def send(link: Link, *parcels: Parcel) -> list[TransportError | None]:
    """Post all and return their fates in the order of posting."""
    fates: dict[int, TransportError | None] = {}
    for number, parcel in enumerate(parcels):
        link.post(parcel, functools.partial(fates.__setitem__, number))
    await until(lambda: len(fates) == len(parcels), "every message has a fate")
    return [fates[number] for number in range(len(parcels))]


async def count(link: Link, queue: str) -> int:
    [info] = await link.declare(Queue(queue), passive=True)
    return info.messages


class Inbox:
    """Collects what a consumer is given."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.cancelled: list[TransportError] = []

    @property
    def bodies(self) -> list[bytes]:
        return [each.body for each in self.deliveries]

    async def consume(self, link: Link, queue: str, *, prefetch: int = 10, **options: Any) -> Consumer:
        return await link.consume(
            queue, self.deliveries.append, self.cancelled.append, prefetch=prefetch, **options
        )

    async def has(self, number: int) -> list[Delivery]:
        await until(
            lambda: len(self.deliveries) >= number, f"{number} deliveries, not {len(self.deliveries)}"
        )
        return self.deliveries


async def settled(link: Link) -> None:
    """Return once the broker has answered: what it sent before has then arrived."""
    await link.declare(Exchange("amq.direct"), passive=True)


def headers(delivery: Delivery) -> dict[str, Any]:
    return dict(decode_header(delivery.header).headers or {})


class LinkContract:
    @pytest.fixture
    def name(self) -> str:
        return f"contract-{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def connect(self) -> Connect:
        raise NotImplementedError

    # --- publishing ------------------------------------------------------------------------------------

    @on_loop
    async def test_a_confirmed_message_is_in_its_queue(self, connect: Connect, name: str) -> None:
        link = await connect()
        await link.declare(Queue(name, arguments=QUORUM))

        fates = await send(link, message(name))

        assert fates == [None]
        assert await count(link, name) == 1
        await link.close()

    @on_loop
    async def test_a_message_that_no_queue_is_bound_for_is_unroutable(
        self, connect: Connect, name: str
    ) -> None:
        link = await connect()

        [fate] = await send(link, message(name))

        assert isinstance(fate, Unroutable)
        assert name in str(fate)
        await link.close()

    @on_loop
    async def test_an_unroutable_message_costs_its_neighbours_nothing(
        self, connect: Connect, name: str
    ) -> None:
        link = await connect()
        await link.declare(Queue(name, arguments=QUORUM))

        fates = await send(link, message(name), message(name + "?"), message(name))

        assert [type(fate) for fate in fates] == [type(None), Unroutable, type(None)]
        assert await count(link, name) == 2
        await link.close()

    @on_loop
    async def test_a_missing_exchange_is_not_found_and_costs_its_neighbours_nothing(
        self, connect: Connect, name: str
    ) -> None:
        link = await connect()
        await link.declare(Queue(name, arguments=QUORUM))

        fates = await send(
            link, message(name), message("k", exchange=name + ".missing"), message(name), message(name)
        )

        assert [type(fate) for fate in fates] == [type(None), NotFound, type(None), type(None)]
        assert await count(link, name) >= 3  # a neighbour may have been sent twice
        await link.close()

    @on_loop
    async def test_messages_keep_their_order(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        sent = [b"%d" % number for number in range(500)]

        await send(link, *(message(name, body) for body in sent))
        await inbox.consume(link, name, prefetch=1000)

        await inbox.has(500)
        assert inbox.bodies == sent
        await link.close()

    @on_loop
    async def test_a_delivery_carries_what_was_published(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Exchange(name), Queue(name, arguments=QUORUM), Binding(name, name, "key"))
        parcel = message("key", b"body", name, headers={"a": 1}, correlation_id="c", priority=3)

        await send(link, parcel)
        consumer = await inbox.consume(link, name)
        [delivery] = await inbox.has(1)

        assert (delivery.queue, delivery.exchange, delivery.routing_key) == (name, name, "key")
        assert (delivery.body, delivery.redelivered) == (b"body", False)
        assert delivery.generation == consumer.generation
        properties = decode_header(delivery.header)
        assert (properties.correlation_id, properties.priority) == ("c", 3)
        assert (properties.headers or {})["a"] == 1
        assert properties.message_id == parcel.message_id
        await link.close()

    # --- routing ---------------------------------------------------------------------------------------

    @on_loop
    async def test_a_topic_exchange_matches_words(self, connect: Connect, name: str) -> None:
        link = await connect()
        queues = {pattern: f"{name}-{number}" for number, pattern in enumerate(["a.*", "a.#", "#.c", "*"])}
        await link.declare(
            Exchange(name, "topic"), *(Queue(queue, arguments=CLASSIC) for queue in queues.values())
        )
        await link.declare(*(Binding(name, queue, pattern) for pattern, queue in queues.items()))

        await send(link, *(message(key, exchange=name) for key in ("a", "a.b", "a.b.c", "c")))

        counted = {pattern: await count(link, queue) for pattern, queue in queues.items()}
        assert counted == {"a.*": 1, "a.#": 3, "#.c": 2, "*": 2}
        await link.close()

    @on_loop
    async def test_a_fanout_exchange_copies_and_an_exchange_may_be_bound_to_another(
        self, connect: Connect, name: str
    ) -> None:
        link = await connect()
        await link.declare(
            Exchange(name, "fanout"),
            Exchange(name + ".2", "direct"),
            Queue(name, arguments=CLASSIC),
            Queue(name + ".2", arguments=CLASSIC),
            Binding(name, name),
            Binding(name, name + ".2", kind="exchange"),
            Binding(name + ".2", name + ".2", "key"),
        )

        await send(link, message("key", exchange=name), message("other", exchange=name))

        assert (await count(link, name), await count(link, name + ".2")) == (2, 1)
        await link.close()

    @on_loop
    async def test_a_headers_exchange_matches_all_or_any(self, connect: Connect, name: str) -> None:
        link = await connect()
        await link.declare(
            Exchange(name, "headers"),
            Queue(name + "-all", arguments=CLASSIC),
            Queue(name + "-any", arguments=CLASSIC),
            Binding(name, name + "-all", arguments={"x-match": "all", "a": 1, "b": 2}),
            Binding(name, name + "-any", arguments={"x-match": "any", "a": 1, "b": 2}),
        )

        fates = await send(
            link,
            message("", exchange=name, headers={"a": 1, "b": 2}),
            message("", exchange=name, headers={"a": 1}),
            message("", exchange=name, headers={"a": 7}),
        )

        assert [type(fate) for fate in fates] == [type(None), type(None), Unroutable]
        assert (await count(link, name + "-all"), await count(link, name + "-any")) == (1, 2)
        await link.close()

    @on_loop
    async def test_an_alternate_exchange_takes_what_has_no_route(self, connect: Connect, name: str) -> None:
        link = await connect()
        await link.declare(
            Exchange(name + ".lost", "fanout"),
            Queue(name, arguments=QUORUM),
            Binding(name + ".lost", name),
            Exchange(name, arguments={"alternate-exchange": name + ".lost"}),
        )

        fates = await send(link, message("nowhere", exchange=name))

        assert fates == [None]
        assert await count(link, name) == 1
        await link.close()

    # --- consuming -------------------------------------------------------------------------------------

    @on_loop
    async def test_prefetch_bounds_what_is_unacknowledged(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        await send(link, *(message(name, b"%d" % number) for number in range(5)))

        consumer = await inbox.consume(link, name, prefetch=2)
        await inbox.has(2)
        await settled(link)
        held = len(inbox.deliveries)
        consumer.ack(inbox.deliveries[0].tag)
        await inbox.has(3)

        assert held == 2
        assert inbox.bodies == [b"0", b"1", b"2"]
        await link.close()

    @on_loop
    async def test_consumers_take_turns(self, connect: Connect, name: str) -> None:
        link, one, two = await connect(), Inbox(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        await one.consume(link, name, no_ack=True)
        await two.consume(link, name, no_ack=True)

        for _ in range(10):
            await send(link, message(name))
        await until(lambda: len(one.deliveries) + len(two.deliveries) == 10)

        assert len(one.deliveries) == len(two.deliveries) == 5
        await link.close()

    @on_loop
    async def test_an_ack_of_several_settles_all_before_it(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        await send(link, *(message(name, b"%d" % number) for number in range(4)))
        consumer = await inbox.consume(link, name)
        await inbox.has(4)

        consumer.ack(inbox.deliveries[2].tag, multiple=True)
        await consumer.close()
        again = Inbox()
        await again.consume(link, name)
        await again.has(1)

        assert again.bodies == [b"3"]
        await link.close()

    @on_loop
    async def test_what_is_given_back_comes_again_at_its_place_and_says_so(
        self, connect: Connect, name: str
    ) -> None:
        link, inbox, after = await connect(), Inbox(), Inbox()
        await link.declare(Queue(name, arguments=CLASSIC))
        await send(link, *(message(name, b"%d" % number) for number in range(4)))
        consumer = await inbox.consume(link, name, prefetch=2)
        await inbox.has(2)

        await consumer.cancel()
        consumer.ack(inbox.deliveries[1].tag)
        consumer.nack(inbox.deliveries[0].tag)
        await after.consume(link, name)
        await after.has(3)

        assert [(each.body, each.redelivered) for each in after.deliveries] == [
            (b"0", True),
            (b"2", False),
            (b"3", False),
        ]
        await link.close()

    @on_loop
    async def test_closing_a_consumer_gives_back_what_it_holds(self, connect: Connect, name: str) -> None:
        link, inbox, after = await connect(), Inbox(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        await send(link, message(name, b"a"), message(name, b"b"))
        consumer = await inbox.consume(link, name)
        await inbox.has(2)

        await consumer.close()
        consumer.ack(inbox.deliveries[0].tag)  # void: its channel is gone
        await after.consume(link, name)
        await after.has(2)

        assert sorted(after.bodies) == [b"a", b"b"]
        assert all(each.redelivered for each in after.deliveries)
        assert after.deliveries[0].generation != inbox.deliveries[0].generation
        await link.close()

    @on_loop
    async def test_a_lost_link_gives_back_what_it_holds(self, connect: Connect, name: str) -> None:
        link, other, inbox, after = await connect(), await connect(), Inbox(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        await send(link, message(name))
        await inbox.consume(link, name)
        await inbox.has(1)

        await link.close()
        await after.consume(other, name)
        await after.has(1)

        assert after.deliveries[0].redelivered
        await other.close()

    @on_loop
    async def test_cancel_ends_deliveries_and_leaves_what_is_held(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        consumer = await inbox.consume(link, name)
        await send(link, message(name, b"a"))
        await inbox.has(1)

        await consumer.cancel()
        await send(link, message(name, b"b"))
        await settled(link)
        consumer.ack(inbox.deliveries[0].tag)
        await consumer.close()

        assert inbox.bodies == [b"a"]
        assert await count(link, name) == 1
        await link.close()

    @on_loop
    async def test_renew_changes_the_prefetch_and_keeps_tags_valid(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        await send(link, *(message(name, b"%d" % number) for number in range(5)))
        consumer = await inbox.consume(link, name, prefetch=1)
        await inbox.has(1)

        await consumer.renew(3)
        await inbox.has(4)
        for delivery in list(inbox.deliveries):
            consumer.ack(delivery.tag)
        await inbox.has(5)

        assert consumer.prefetch == 3
        assert inbox.bodies == [b"0", b"1", b"2", b"3", b"4"]
        assert not inbox.cancelled
        await link.close()

    @on_loop
    async def test_a_fence_leaves_the_consumer_as_it_was(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        consumer = await inbox.consume(link, name, prefetch=2)

        await consumer.fence()
        await send(link, *(message(name, b"%d" % number) for number in range(2)))
        await inbox.has(2)
        await consumer.fence()

        assert (consumer.prefetch, inbox.bodies) == (2, [b"0", b"1"])
        await link.close()

    @on_loop
    async def test_an_unknown_tag_costs_that_consumer_alone(self, connect: Connect, name: str) -> None:
        link, wrong, right = await connect(), Inbox(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM), Queue(name + "2", arguments=QUORUM))
        consumer = await wrong.consume(link, name)
        await right.consume(link, name + "2")

        consumer.ack(77)
        await until(lambda: wrong.cancelled)
        await send(link, message(name + "2"))

        await right.has(1)
        assert "77" in str(wrong.cancelled[0])
        assert not right.cancelled
        await link.close()

    @on_loop
    async def test_deleting_the_queue_cancels_its_consumer(self, connect: Connect, name: str) -> None:
        link, other, inbox = await connect(), await connect(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        await inbox.consume(link, name)

        await other.delete_queue(name)
        await until(lambda: inbox.cancelled)

        assert len(inbox.cancelled) == 1
        assert not link.lost.done()
        await link.close()
        await other.close()

    @on_loop
    async def test_consuming_a_missing_queue_is_not_found(self, connect: Connect, name: str) -> None:
        link = await connect()

        with pytest.raises(NotFound, match=name):
            await Inbox().consume(link, name)

        assert not link.lost.done()
        await link.close()

    @on_loop
    async def test_an_exclusive_consumer_is_alone(self, connect: Connect, name: str) -> None:
        link = await connect()
        await link.declare(Queue(name, arguments=CLASSIC))
        await Inbox().consume(link, name, exclusive=True)

        with pytest.raises(AccessRefused, match=name):
            await Inbox().consume(link, name)

        await link.close()

    @on_loop
    async def test_a_single_active_consumer_is_followed_by_the_next(
        self, connect: Connect, name: str
    ) -> None:
        link, first, second = await connect(), Inbox(), Inbox()
        await link.declare(Queue(name, arguments={**QUORUM, "x-single-active-consumer": True}))
        consumer = await first.consume(link, name, no_ack=True)
        await second.consume(link, name, no_ack=True)
        await send(link, message(name, b"a"), message(name, b"b"))
        await first.has(2)

        await consumer.close()
        await send(link, message(name, b"c"))
        await second.has(1)

        assert (first.bodies, second.bodies) == ([b"a", b"b"], [b"c"])
        await link.close()

    # --- dead letters, limits, time --------------------------------------------------------------------

    async def dead_lettering(self, link: Link, name: str, **arguments: Any) -> None:
        kind = arguments.pop("kind", "quorum")
        dead = {"x-dead-letter-exchange": name, "x-dead-letter-routing-key": "dead"}
        limits = {key.replace("_", "-"): value for key, value in arguments.items()}
        await link.declare(
            Exchange(name),
            Queue(name + ".dead", arguments=CLASSIC),
            Binding(name, name + ".dead", "dead"),
            Queue(name, arguments={"x-queue-type": kind, **dead, **limits}),
        )

    @on_loop
    async def test_a_rejected_message_is_dead_lettered_with_the_reason(
        self, connect: Connect, name: str
    ) -> None:
        link, inbox, dead = await connect(), Inbox(), Inbox()
        await self.dead_lettering(link, name)
        await send(link, message(name, b"bad", headers={"mine": 1}))
        consumer = await inbox.consume(link, name)
        [delivery] = await inbox.has(1)

        consumer.reject(delivery.tag, requeue=False)
        await dead.consume(link, name + ".dead")
        [letter] = await dead.has(1)

        [death] = headers(letter)["x-death"]
        assert (death["reason"], death["queue"], death["count"]) == ("rejected", name, 1)
        assert (letter.body, letter.routing_key) == (b"bad", "dead")
        assert headers(letter)["x-first-death-reason"] == "rejected"
        assert headers(letter)["mine"] == 1
        await link.close()

    @on_loop
    async def test_a_message_expires_from_the_head(self, connect: Connect, name: str) -> None:
        link, dead = await connect(), Inbox()
        await self.dead_lettering(link, name, x_message_ttl=100)
        await dead.consume(link, name + ".dead")

        await send(link, message(name, b"old"))
        [letter] = await dead.has(1)

        assert headers(letter)["x-death"][0]["reason"] == "expired"
        assert await count(link, name) == 0
        await link.close()

    @on_loop
    async def test_a_messages_own_expiration_is_taken_off_when_it_dies(
        self, connect: Connect, name: str
    ) -> None:
        link, dead = await connect(), Inbox()
        await self.dead_lettering(link, name, kind="classic")
        await dead.consume(link, name + ".dead")

        await send(link, message(name, expiration="50"))
        [letter] = await dead.has(1)

        assert decode_header(letter.header).expiration is None
        assert headers(letter)["x-death"][0]["original-expiration"] == "50"
        await link.close()

    @on_loop
    async def test_a_quorum_queue_counts_returns_and_ends_them(self, connect: Connect, name: str) -> None:
        link, inbox, dead = await connect(), Inbox(), Inbox()
        await self.dead_lettering(link, name, x_delivery_limit=2)
        await send(link, message(name))
        consumer = await inbox.consume(link, name)
        await dead.consume(link, name + ".dead")

        for number in range(3):
            await inbox.has(number + 1)
            consumer.reject(inbox.deliveries[number].tag, requeue=True)
        [letter] = await dead.has(1)

        assert [headers(each).get("x-delivery-count", 0) for each in inbox.deliveries] == [0, 1, 2]
        assert headers(letter)["x-death"][0]["reason"] == "delivery_limit"
        await link.close()

    @on_loop
    async def test_a_full_queue_drops_its_head(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Queue(name, arguments={**CLASSIC, "x-max-length": 2}))

        fates = await send(link, *(message(name, b"%d" % number) for number in range(4)))
        await inbox.consume(link, name)
        await inbox.has(2)

        assert fates == [None] * 4
        assert inbox.bodies == [b"2", b"3"]
        await link.close()

    @on_loop
    async def test_a_full_queue_that_rejects_publishes_nacks(self, connect: Connect, name: str) -> None:
        link = await connect()
        full = {**CLASSIC, "x-max-length": 2, "x-overflow": "reject-publish"}
        await link.declare(Queue(name, arguments=full))

        fates = [fate for _ in range(3) for fate in await send(link, message(name))]

        assert [type(fate) for fate in fates] == [type(None), type(None), Nacked]
        assert await count(link, name) == 2
        await link.close()

    @on_loop
    async def test_the_more_urgent_is_delivered_first(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Queue(name, arguments={**CLASSIC, "x-max-priority": 5}))

        urgencies = [(b"a", 1), (b"b", 5), (b"c", 1), (b"d", 9)]
        await send(link, *(message(name, body, priority=priority) for body, priority in urgencies))
        await inbox.consume(link, name)
        await inbox.has(4)

        assert inbox.bodies == [b"b", b"d", b"a", b"c"]
        await link.close()

    @on_loop
    async def test_an_unused_queue_expires(self, connect: Connect, name: str) -> None:
        link = await connect()

        await link.declare(Queue(name, arguments={**CLASSIC, "x-expires": 100}))
        # Asking would renew the lease, so the publishes ask: mandatory, and unroutable once it is gone.
        fate: TransportError | None = None
        while not isinstance(fate, Unroutable):
            [fate] = await send(link, message(name))

        with pytest.raises(NotFound):
            await link.declare(Queue(name), passive=True)
        await link.close()

    # --- topology --------------------------------------------------------------------------------------

    @on_loop
    async def test_declaring_answers_with_counts_and_is_repeatable(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        queue = Queue(name, arguments=QUORUM)
        [first] = await link.declare(Exchange(name), queue, Binding(name, name, "k"))
        await inbox.consume(link, name, prefetch=1)
        await send(link, message(name), message(name), message(name))
        await inbox.has(1)

        [second] = await link.declare(Exchange(name), queue, Binding(name, name, "k"))

        assert (first.name, first.messages, first.consumers) == (name, 0, 0)
        assert (second.messages, second.consumers) == (2, 1)
        await link.close()

    @on_loop
    async def test_looking_for_what_is_missing_is_not_found_and_costs_nothing(
        self, connect: Connect, name: str
    ) -> None:
        link = await connect()

        for missing in (Queue(name), Exchange(name)):
            with pytest.raises(NotFound, match=name):
                await link.declare(missing, passive=True)

        assert not link.lost.done()
        await link.close()

    @on_loop
    async def test_a_difference_is_named(self, connect: Connect, name: str) -> None:
        link = await connect()
        await link.declare(Exchange(name), Queue(name, arguments={**CLASSIC, "x-message-ttl": 1000}))

        with pytest.raises(TopologyMismatch, match="x-message-ttl") as caught:
            await link.declare(Queue(name, arguments={**CLASSIC, "x-message-ttl": 2000}))
        with pytest.raises(TopologyMismatch, match="type"):
            await link.declare(Exchange(name, "topic"))

        assert caught.value.code == 406
        assert "1000" in str(caught.value)
        assert "2000" in str(caught.value)
        await link.close()

    @on_loop
    async def test_an_exclusive_queue_is_its_links_alone_and_goes_with_it(
        self, connect: Connect, name: str
    ) -> None:
        link, other = await connect(), await connect()
        await link.declare(Queue(name, durable=False, exclusive=True))

        with pytest.raises(ResourceLocked, match=name):
            await other.declare(Queue(name, durable=False, exclusive=True))
        with pytest.raises(ResourceLocked):
            await Inbox().consume(other, name)
        published = await send(other, message(name))
        await link.close()

        assert published == [None]
        fate: TransportError | None = None
        while not isinstance(fate, Unroutable):
            [fate] = await send(other, message(name))
        await other.close()

    @on_loop
    async def test_an_auto_delete_queue_goes_with_its_last_consumer(
        self, connect: Connect, name: str
    ) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Queue(name, auto_delete=True, arguments=CLASSIC))
        one = await inbox.consume(link, name)
        two = await inbox.consume(link, name)

        await one.close()
        [while_one_is_left] = await send(link, message(name))
        await two.close()

        assert while_one_is_left is None
        fate: TransportError | None = None
        while not isinstance(fate, Unroutable):
            [fate] = await send(link, message(name))
        await link.close()

    @on_loop
    async def test_purge_get_and_delete(self, connect: Connect, name: str) -> None:
        link = await connect()
        await link.declare(Queue(name, arguments=QUORUM))
        await send(link, message(name, b"a"), message(name, b"b"), message(name, b"c"))

        got = await link.get(name)
        purged = await link.purge(name)
        empty = await link.get(name)
        await send(link, message(name))
        deleted = await link.delete_queue(name)
        missing = await link.delete_queue(name)

        assert got is not None
        assert (got.body, purged, empty, deleted, missing) == (b"a", 2, None, 1, 0)
        with pytest.raises(NotFound):
            await link.purge(name)
        await link.close()

    # --- the end ---------------------------------------------------------------------------------------

    @on_loop
    async def test_a_closed_link_says_so_to_everybody(self, connect: Connect, name: str) -> None:
        link, inbox = await connect(), Inbox()
        await link.declare(Queue(name, arguments=QUORUM))
        consumer = await inbox.consume(link, name)

        await link.close()
        [fate] = await send(link, message(name))

        assert isinstance(link.lost.result(), TransportError)
        assert isinstance(fate, ConnectionLost)
        assert not inbox.cancelled
        consumer.ack(1)
        consumer.nack(1)
        with pytest.raises(ConnectionLost):
            await link.declare(Queue(name), passive=True)
        with pytest.raises(ConnectionLost):
            await inbox.consume(link, name)
        await link.close()

    @on_loop
    async def test_a_link_knows_its_server(self, connect: Connect) -> None:
        link = await connect()

        assert link.server.product
        assert link.server.version_tuple >= (3, 10)
        assert link.blocked is None
        await link.close()
