"""How a consumer of a real broker ends: deleted, refused, timed out, lost."""

import asyncio

import pytest
from broker import PrivateNode

from amqptasks.amqp import Queue
from amqptasks.errors import ChannelClosed, NotFound, ResourceLocked
from amqptasks.transport.loop import connect
from amqptasks.transport.url import parse
from integration.support import Proxy
from integration.support.links import Inbox, filled, linked, until


def test_a_missing_queue_is_told_at_once(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            inbox = Inbox()
            with pytest.raises(NotFound, match="no queue 'absent'"):
                await link.consume("absent", inbox.deliveries.append, inbox.cancelled.append, prefetch=1)
            assert inbox.cancelled == []
            assert not link.lost.done()

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_a_deleted_queue_cancels_once(fresh_url: str, kind: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link, linked(fresh_url) as other:
            await filled(link, 2, Queue("tasks", arguments={"x-queue-type": kind}))
            inbox = Inbox()
            consumer = await link.consume(
                "tasks", inbox.deliveries.append, inbox.cancelled.append, prefetch=5
            )
            await inbox.count(2)
            await other.delete_queue("tasks")
            await until(lambda: inbox.cancelled)
            consumer.ack(1)
            await consumer.renew(5)

            [reason] = inbox.cancelled
            assert isinstance(reason, ChannelClosed)
            assert "'tasks'" in str(reason)
            await filled(link, 1)  # the link lives on
            assert len(inbox.cancelled) == 1

    asyncio.run(scenario())


def test_a_void_tag_closes_the_channel_not_the_link(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await filled(link, 1)
            inbox = Inbox()
            consumer = await link.consume(
                "tasks", inbox.deliveries.append, inbox.cancelled.append, prefetch=5
            )
            await inbox.count(1)
            consumer.ack(99)
            await until(lambda: inbox.cancelled)

            assert "unknown delivery tag 99" in str(inbox.cancelled[0])
            again = await link.consume("tasks", inbox.deliveries.append, inbox.cancelled.append, prefetch=5)
            await inbox.count(2)
            assert again.generation > consumer.generation

    asyncio.run(scenario())


def test_the_consumer_timeout_cancels_with_the_cure(node: PrivateNode, fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await filled(link, 1)
            inbox = Inbox()
            await link.consume("tasks", inbox.deliveries.append, inbox.cancelled.append, prefetch=5)
            await until(lambda: inbox.cancelled, timeout=20)
            assert "raise consumer_timeout" in str(inbox.cancelled[0])

    node.eval(
        "application:set_env(rabbit,consumer_timeout,1000), application:set_env(rabbit,channel_tick_interval,500)"
    )
    try:
        asyncio.run(scenario())
    finally:
        node.eval(
            "application:set_env(rabbit,consumer_timeout,1800000), application:set_env(rabbit,channel_tick_interval,60000)"
        )


def test_a_loss_is_no_cancel_and_its_tags_are_void(proxy: Proxy, fresh_vhost: str) -> None:
    async def scenario() -> None:
        link = await connect(parse(proxy.url(fresh_vhost)), name="test")
        await filled(link, 3)
        inbox = Inbox()
        consumer = await link.consume("tasks", inbox.deliveries.append, inbox.cancelled.append, prefetch=5)
        await inbox.count(3)
        proxy.rst()
        await link.lost
        consumer.ack(3, multiple=True)
        await consumer.renew(5)
        await consumer.cancel()
        await consumer.close()

        assert inbox.cancelled == []

    asyncio.run(scenario())


def test_an_exclusive_queue_of_another_connection(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as owner, linked(fresh_url) as other:
            await owner.declare(Queue("mine", durable=False, exclusive=True))
            with pytest.raises(ResourceLocked, match="belongs to another connection"):
                await other.consume("mine", print, print, prefetch=1)

    asyncio.run(scenario())
