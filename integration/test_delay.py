"""The ladder on a real broker: not early, to the right place, by every type of exchange, and nothing lost."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest
from broker import PrivateNode

from amqptasks import delay
from amqptasks.amqp import Address, Binding, Delivery, Entity, Exchange, Queue
from amqptasks.entities import LOST
from amqptasks.transport.loop import LoopLink
from integration.support.links import fates, linked, parcel, until

QUORUM = {"x-queue-type": "quorum"}
Arrival = tuple[float, Delivery]


async def listening(link: LoopLink, *queues: str) -> list[Arrival]:
    """Consume the queues; the list grows with what arrives, and when."""
    arrivals: list[Arrival] = []

    def arrived(delivery: Delivery) -> None:
        arrivals.append((time.monotonic(), delivery))

    for queue in queues:
        await link.consume(queue, arrived, lambda reason: None, prefetch=1000, no_ack=True)
    return arrivals


def played(url: str, scenario: Callable[[LoopLink], object]) -> None:
    async def run() -> None:
        async with linked(url) as link:
            await scenario(link)  # type: ignore[misc]

    asyncio.run(run())


def test_random_delays_arrive_once_and_never_early(fresh_url: str) -> None:
    rng = random.Random(7)
    delays = [rng.uniform(1, 12) for _ in range(150)]

    async def scenario(link: LoopLink) -> None:
        await link.declare(
            Queue("a.b", arguments=QUORUM), Queue("b", arguments=QUORUM), *delay.ladder_topology()
        )
        arrivals = await listening(link, "a.b", "b", LOST)
        parcels, due, wanted = [], {}, {}
        for number, seconds in enumerate(delays):
            queue = ("a.b", "b", "gone")[number % 3]
            address, _ = delay.ladder_route(seconds, queue)
            one = parcel(address.exchange, address.routing_key, str(number).encode())
            parcels.append(one)
            due[number] = time.monotonic() + delay.held(seconds)
            wanted[number] = LOST if queue == "gone" else queue
        await link.declare(delay.destination("a.b"), delay.destination("b"))

        assert await fates(link, parcels) == [None] * len(delays)
        await until(lambda: len(arrivals) >= len(delays), "arrivals", 40)

        assert sorted(int(one.body) for _, one in arrivals) == list(range(len(delays)))
        for moment, one in arrivals:
            assert one.queue == wanted[int(one.body)]
            assert moment >= due[int(one.body)]

    played(fresh_url, scenario)


@pytest.mark.parametrize(
    ("exchange", "key", "binding"),
    [
        (Exchange("news", "fanout"), "any", Binding("news", "end")),
        (Exchange("media", "topic"), "video.mp4", Binding("media", "end", "video.#")),
        (Exchange("plain", "direct"), "k", Binding("plain", "end", "k")),
        (
            Exchange("sorter", "headers"),
            "",
            Binding("sorter", "end", arguments={"x-match": "all", "kind": "long"}),
        ),
        (Exchange(""), "end", None),
    ],
    ids=["fanout", "topic", "direct", "headers", "default"],
)
def test_an_address_gets_its_message_with_its_own_key(
    fresh_url: str, exchange: Exchange, key: str, binding: Binding | None
) -> None:
    async def scenario(link: LoopLink) -> None:
        address, entities = delay.ladder_route(1, Address(exchange.name, key))
        mine: list[Entity] = [Queue("end", arguments=QUORUM)]
        await link.declare(*mine, *([exchange, binding] if binding else []), *entities)
        arrivals = await listening(link, "end")
        sent = time.monotonic()

        await fates(link, [parcel(address.exchange, address.routing_key, headers={"kind": "long"})])
        await until(lambda: arrivals, "the message", 15)

        ((moment, one),) = arrivals
        assert moment - sent >= 1
        assert (one.exchange, one.routing_key) == (exchange.name, key)

    played(fresh_url, scenario)


def test_only_the_rungs_of_this_delay_are_declared(node: PrivateNode, fresh_vhost: str) -> None:
    async def scenario(link: LoopLink) -> None:
        _, entities = delay.ladder_route(3600, "end")
        await link.declare(Queue("end", arguments=QUORUM), *entities)

    played(node.url(fresh_vhost), scenario)

    listed = node.ctl("-q", "-p", fresh_vhost, "list_queues", "--no-table-headers", "name").split()
    assert sorted(listed) == ["amqptasks.delay.2.6", "amqptasks.delay.3.3", "amqptasks.lost", "end"]
