"""The contract of every link, kept by pika's and by aio-pika's against a real RabbitMQ."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from broker import PrivateNode

from amqptasks.amqp import Queue
from amqptasks.errors import ImproperlyConfigured
from amqptasks.transport import aio, loop
from amqptasks.transport.base import Connect
from amqptasks.transport.url import parse
from integration.support import Proxy, wait_until
from integration.support.links import until
from tests.transport.contract import LinkContract


class TestLoopLink(LinkContract):
    @pytest.fixture
    def connect(self, broker_url: str) -> Connect:
        return lambda: loop.connect(parse(broker_url), name="contract")


class TestAioLink(LinkContract):
    @pytest.fixture
    def connect(self, broker_url: str) -> Connect:
        return lambda: aio.connect(parse(broker_url), name="contract")


@pytest.mark.parametrize("connect", [loop.connect, aio.connect], ids=["loop", "aio"])
def test_a_consumer_that_cannot_start_leaves_no_channel_open(
    node: PrivateNode, vhost: str, broker_url: str, connect: Callable[..., Any]
) -> None:
    """The broker closes a channel that asks for a queue which is not there; of what was never asked it knows nothing."""

    async def scenario() -> None:
        link = await connect(parse(broker_url), name="leaks")
        await link.declare(Queue("leaks"))
        for _ in range(3):
            with pytest.raises(ImproperlyConfigured, match="cannot be written"):
                await link.consume("leaks", print, print, prefetch=1, arguments={"x-unwritable": object()})
        await asyncio.to_thread(
            wait_until, lambda: not open_channels(node, vhost), 10, lambda: open_channels(node, vhost)
        )
        await link.close()

    asyncio.run(asyncio.wait_for(scenario(), 100))


@pytest.mark.parametrize("connect", [loop.connect, aio.connect], ids=["loop", "aio"])
def test_a_close_that_is_given_up_leaves_no_connection_open(
    proxy: Proxy, vhost: str, connect: Callable[..., Any]
) -> None:
    """The peer is silent; who closes has less patience than the link."""

    async def scenario() -> None:
        link = await connect(parse(proxy.url(vhost)), name="given up", timeout=30.0)
        proxy.blackhole("both")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await link.close()

        await until(link.lost.done, "its end")
        assert link.fileno() == -1

    asyncio.run(asyncio.wait_for(scenario(), 100))


def open_channels(node: PrivateNode, vhost: str) -> str:
    """Those of the module, whoever else has some on the node; empty when there are none."""
    ours = f'(catch rabbit_channel:info(Pid, [vhost])) =:= [{{vhost, <<"{vhost}">>}}]'
    return node.eval(f"[Pid || Pid <- rabbit_channel:list(), {ours}]").strip("[]")
