"""Consuming from a real broker: deliveries, acks, another prefetch, and every way in which it ends."""

import asyncio
from functools import partial

from broker import PrivateNode

from amqptasks.amqp import Binding, Delivery, Exchange, Queue
from amqptasks.transport.codec import decode_header
from amqptasks.transport.loop import LoopLink
from integration.support import wait_until
from integration.support.links import TASKS, Inbox, fates, filled, linked, parcel
from integration.support.queues import unacknowledged


async def ready(url: str, queue: str = "tasks") -> int:
    """The messages that a passive declare counts once nobody holds any."""
    async with linked(url) as link:
        [info] = await link.declare(Queue(queue), passive=True)
        return info.messages


async def emptied(url: str, messages: int = 0) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 30
    while (found := await ready(url)) != messages:
        assert loop.time() < deadline, f"{found} messages are ready, not {messages}"
        await asyncio.sleep(0.01)


# --- deliveries and acks ---------------------------------------------------------------------------------


def test_a_delivery_says_all_and_its_header_is_untouched(fresh_url: str) -> None:
    sent = parcel("topics", "a.b", b"body", headers={"task": "add", "eta": None}, priority=3)

    async def scenario() -> Delivery:
        async with linked(fresh_url) as link:
            await link.declare(Exchange("topics", "topic"), TASKS, Binding("topics", "tasks", "a.*"))
            await fates(link, [sent])
            inbox = Inbox()
            consumer = await link.consume("tasks", inbox.deliveries.append, print, prefetch=1)
            await inbox.count(1)
            assert inbox.deliveries[0].generation == consumer.generation
            return inbox.deliveries[0]

    delivery = asyncio.run(scenario())

    assert (delivery.queue, delivery.exchange, delivery.routing_key) == ("tasks", "topics", "a.b")
    assert (delivery.tag, delivery.redelivered, delivery.body) == (1, False, b"body")
    received, wanted = decode_header(delivery.header), decode_header(sent.header)
    assert received.message_id == wanted.message_id
    assert received.priority == 3
    assert {"task": "add", "eta": None}.items() <= dict(received.headers or {}).items()


def test_prefetch_bounds_what_is_held_and_multiple_acks_the_prefix(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await filled(link, 50)
            inbox = Inbox()
            consumer = await link.consume("tasks", inbox.deliveries.append, print, prefetch=10)
            await inbox.count(10)
            consumer.ack(7, multiple=True)
            await inbox.count(17)
            consumer.ack(9)
            await inbox.count(18)
            assert [delivery.tag for delivery in inbox.deliveries] == list(range(1, 19))
        await emptied(fresh_url, 42)

    asyncio.run(scenario())


def test_an_ack_before_close_is_applied(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await filled(link, 200)
            inbox = Inbox()
            consumer = await link.consume("tasks", inbox.deliveries.append, print, prefetch=300)
            await inbox.count(200)
            consumer.ack(inbox.deliveries[-1].tag, multiple=True)
        await emptied(fresh_url)

    asyncio.run(scenario())


def test_reject_drops_or_dead_letters_and_nack_gives_back(fresh_url: str) -> None:
    arguments = {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "dead",
    }

    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await link.declare(Queue("dead", arguments={"x-queue-type": "quorum"}))
            await filled(link, 3, Queue("tasks", arguments=arguments))
            inbox = Inbox()
            consumer = await link.consume("tasks", inbox.deliveries.append, print, prefetch=3)
            await inbox.count(3)
            consumer.ack(1)
            consumer.reject(2, requeue=False)
            consumer.nack(3)
            await inbox.count(4)
            again = inbox.deliveries[3]

            assert (again.body, again.redelivered) == (b"2", True)
            dead = await until_got(link, "dead")
            assert dead.body == b"1"
            consumer.reject(again.tag, requeue=True)
            await inbox.count(5)

    asyncio.run(scenario())


async def until_got(link: LoopLink, queue: str) -> Delivery:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 30
    while (delivery := await link.get(queue)) is None:
        assert loop.time() < deadline, f"nothing came into {queue}"
        await asyncio.sleep(0.01)
    return delivery


def test_without_acks_all_comes_at_once(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            queue = Queue("replies", arguments={"x-queue-type": "classic"})
            await filled(link, 100, queue)
            inbox = Inbox()
            await link.consume("replies", inbox.deliveries.append, print, prefetch=1, no_ack=True)
            await inbox.count(100)
            assert inbox.bodies == [str(number).encode() for number in range(100)]

    asyncio.run(scenario())


def test_a_callback_that_raises_costs_neither_link_nor_neighbours(fresh_url: str) -> None:
    async def scenario() -> list[str]:
        errors: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["message"]))
        async with linked(fresh_url) as link:
            await filled(link, 5)
            inbox = Inbox()

            def take(delivery: Delivery) -> None:
                inbox.deliveries.append(delivery)
                if delivery.tag == 2:
                    raise RuntimeError("of the callee's own")

            await link.consume("tasks", take, print, prefetch=10)
            await inbox.count(5)
            assert not link.lost.done()
        return errors

    assert asyncio.run(scenario()) == ["taking a delivery of 'tasks' raised"]


# --- another prefetch ------------------------------------------------------------------------------------


def test_renew_under_load_loses_and_doubles_nothing(
    node: PrivateNode, fresh_vhost: str, fresh_url: str
) -> None:
    total = 5000

    async def scenario() -> Inbox:
        async with linked(fresh_url) as link, linked(fresh_url) as publishing:
            await link.declare(TASKS)
            inbox = Inbox()
            # Acked late and out of step, so that tags of the old consumer are settled after a renewal.
            held: list[Delivery] = []

            def take(delivery: Delivery) -> None:
                inbox.deliveries.append(delivery)
                held.append(delivery)
                if len(held) > 5:
                    consumer.ack(held.pop(0).tag)

            consumer = await link.consume("tasks", take, inbox.cancelled.append, prefetch=20)
            parcels = [parcel("", "tasks", str(number).encode()) for number in range(total)]
            posting = asyncio.create_task(fates(publishing, parcels))
            prefetch = 20
            while len(inbox.deliveries) < total:
                prefetch = 7 if prefetch > 500 else prefetch * 2
                await consumer.renew(prefetch)
                assert consumer.prefetch == prefetch
            assert await posting == [None] * total
            for delivery in held:
                consumer.ack(delivery.tag)
            # The end of a channel may overtake acks that a busy queue has not heard of yet.
            left = partial(unacknowledged, node, fresh_vhost, "tasks")
            await asyncio.to_thread(
                wait_until, lambda: left() == 0, 20, lambda: f"{left()}: {inbox.bodies[total:]}"
            )
        await emptied(fresh_url)
        return inbox

    inbox = asyncio.run(scenario())

    assert sorted(map(int, inbox.bodies)) == list(range(total))
    assert inbox.cancelled == []


def test_cancel_stops_deliveries_and_keeps_tags(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await filled(link, 10)
            inbox = Inbox()
            consumer = await link.consume(
                "tasks", inbox.deliveries.append, inbox.cancelled.append, prefetch=4
            )
            await inbox.count(4)
            await consumer.cancel()
            consumer.ack(4, multiple=True)
            await consumer.renew(100)  # what is cancelled stays so
            [info] = await link.declare(TASKS)
            assert info.messages == 6
            assert len(inbox.deliveries) == 4
            await consumer.cancel()
            assert inbox.cancelled == []

    asyncio.run(scenario())


def test_close_gives_back_what_is_unacked(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await filled(link, 10)
            inbox = Inbox()
            consumer = await link.consume(
                "tasks", inbox.deliveries.append, inbox.cancelled.append, prefetch=4
            )
            await inbox.count(4)
            consumer.ack(1)
            await consumer.close()
            consumer.ack(2)
            consumer.nack(3)
            consumer.reject(4, requeue=False)
            await consumer.close()
            await emptied(fresh_url, 9)
            assert inbox.cancelled == []
            assert not link.lost.done()

    asyncio.run(scenario())
