"""How a link to a real broker ends: cut, silent, killed, closed by either side."""

import asyncio
import time

import pytest
from broker import PrivateNode

from amqptasks.errors import ConnectionLost
from amqptasks.transport.loop import connect
from amqptasks.transport.url import parse
from integration.support import Proxy
from integration.support.links import until


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_a_cut_ends_the_link_once(proxy: Proxy, vhost: str, how: str) -> None:
    async def scenario() -> None:
        link = await connect(parse(proxy.url(vhost)), name="test")
        getattr(proxy, how)()
        reason = await asyncio.wait_for(link.lost, 20)

        assert isinstance(reason, ConnectionLost)
        with pytest.raises(ConnectionLost):
            await link.purge("q")
        await link.close()

    asyncio.run(scenario())


def test_silence_ends_the_link_by_heartbeats(proxy: Proxy, vhost: str) -> None:
    async def scenario() -> None:
        link = await connect(parse(proxy.url(vhost)), name="test", heartbeat=1)
        proxy.blackhole("both")
        reason = await asyncio.wait_for(link.lost, 30)

        assert "heartbeat" in str(reason)

    asyncio.run(scenario())


def test_the_brokers_reason_is_passed_on(node: PrivateNode, broker_url: str, vhost: str) -> None:
    async def scenario() -> None:
        link = await connect(parse(broker_url), name="test")
        await asyncio.to_thread(node.ctl, "close_all_connections", "--vhost", vhost, "drill")
        reason = await asyncio.wait_for(link.lost, 20)

        assert "320" in str(reason)
        assert "drill" in str(reason)

    asyncio.run(scenario())


def test_a_killed_node_ends_the_link(node: PrivateNode, vhost: str, broker_url: str) -> None:
    async def scenario() -> None:
        link = await connect(parse(broker_url), name="test")
        await asyncio.to_thread(node.kill)
        await until(link.lost.done, "the link to end", 5)

    try:
        asyncio.run(scenario())
    finally:
        node.start()


def test_close_is_bounded_when_the_peer_is_silent(proxy: Proxy, vhost: str) -> None:
    async def scenario() -> float:
        link = await connect(parse(proxy.url(vhost)), name="test")
        link._timeout = 0.5  # only now: on a busy machine the handshake may take longer
        proxy.blackhole("both")
        started = time.monotonic()
        await link.close()
        return time.monotonic() - started

    assert asyncio.run(scenario()) < 20
