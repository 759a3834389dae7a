"""Opening a link to a real broker, and every way in which it is refused."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import PrivateNode, free_ports

from amqptasks.errors import (
    AccessRefused,
    BrokerUnavailable,
    TLSFailed,
    VhostNotFound,
)
from amqptasks.transport.loop import connect
from amqptasks.transport.url import parse
from integration.support.links import linked


def refusal(url: str | list[str], timeout: float = 20.0, **options: Any) -> BrokerUnavailable:
    with pytest.raises(BrokerUnavailable) as caught:
        asyncio.run(connect(parse(url), name="test", timeout=timeout, **options))
    return caught.value


@contextlib.contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """A peer that is no broker: it answers `answer`, or is silent."""
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    kept.append(client)
                    if answer is not None:
                        client.recv(100)
                        client.sendall(answer)
                        client.shutdown(socket.SHUT_WR)

        kept: list[socket.socket] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for client in kept:
            client.close()


# --- let in ----------------------------------------------------------------------------------------------


def test_the_link_knows_the_server(broker_url: str) -> None:
    async def scenario() -> None:
        async with linked(broker_url) as link:
            assert link.server.product == "RabbitMQ"
            assert link.server.version_tuple >= (3, 8)
            assert link.server.capabilities["publisher_confirms"] is True
            assert link.blocked is None
            assert not link.lost.done()

    asyncio.run(scenario())


def test_the_broker_shows_who_we_are(node: PrivateNode, broker_url: str) -> None:
    async def scenario() -> str:
        async with linked(broker_url, name="amqptasks worker w1@host consuming"):
            return await asyncio.to_thread(
                node.ctl, "list_connections", "client_properties", "--formatter", "json"
            )

    shown = json.loads(asyncio.run(scenario()))

    told = [{key: value for key, _, value in one["client_properties"]} for one in shown]
    [properties] = [one for one in told if one.get("connection_name") == "amqptasks worker w1@host consuming"]
    assert properties["product"] == "amqptasks"
    capabilities = {key: value for key, _, value in properties["capabilities"]}
    assert {
        "consumer_cancel_notify",
        "connection.blocked",
        "publisher_confirms",
        "basic.nack",
        "authentication_failure_close",
    } <= {key for key, value in capabilities.items() if value is True}


def test_close_is_clean_and_lost_says_so(broker_url: str) -> None:
    async def scenario() -> None:
        async with linked(broker_url) as link:
            pass
        assert link.lost.done()
        assert "closed by us" in str(link.lost.result())
        await link.close()  # again does nothing

    asyncio.run(scenario())


def test_a_dead_host_is_skipped(broker_url: str) -> None:
    [dead] = free_ports(1)

    async def scenario() -> None:
        async with linked([f"amqp://guest@127.0.0.1:{dead}//", broker_url]) as link:
            assert link.server.port == parse(broker_url)[0].port

    asyncio.run(scenario())


def test_the_order_of_hosts_is_the_callers(broker_url: str) -> None:
    [dead] = free_ports(1)
    tried: list[int] = []

    def backwards(urls: Any) -> Any:
        tried.extend(url.port for url in reversed(urls))
        return list(reversed(urls))

    async def scenario() -> None:
        async with linked([broker_url, f"amqp://guest@127.0.0.1:{dead}//"], order=backwards):
            pass

    asyncio.run(scenario())

    assert tried[0] == dead


# --- refused ---------------------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    [port] = free_ports(1)

    error = refusal(f"amqp://guest@127.0.0.1:{port}//")

    assert type(error) is BrokerUnavailable
    assert str(error) == f"127.0.0.1:{port} refused the connection; is RabbitMQ running there?"


def test_nobody_listens_on_a_name_with_several_addresses() -> None:
    [port] = free_ports(1)

    assert "refused the connection" in str(refusal(f"amqp://guest@localhost:{port}//"))


def test_the_name_is_unknown() -> None:
    error = refusal("amqp://guest@no-such-host.invalid//", timeout=90)  # servers of names may be silent

    assert "'no-such-host.invalid' cannot be resolved" in str(error)


def test_the_peer_is_silent() -> None:
    with listening(None) as port:
        started = time.monotonic()
        error = refusal(f"amqp://guest@127.0.0.1:{port}//", timeout=0.3)

    assert "did not answer within 0.3 s" in str(error)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n", b""])
def test_the_peer_is_no_broker(answer: bytes) -> None:
    with listening(answer) as port:
        error = refusal(f"amqp://guest@127.0.0.1:{port}//")

    assert re.search("does not speak AMQP|closed the connection during the handshake", str(error))


def test_a_plain_port_asked_for_tls(node: PrivateNode) -> None:
    error = refusal(f"amqps://guest@127.0.0.1:{node.port}//")

    assert isinstance(error, TLSFailed)
    assert "amqp://" in str(error)


def test_a_missing_certificate_file_is_named(node: PrivateNode) -> None:
    error = refusal(f"amqps://guest@127.0.0.1:{node.port}//?cacertfile=/nowhere/ca.pem")

    assert isinstance(error, TLSFailed)
    assert "/nowhere/ca.pem" in str(error)


def test_a_wrong_password(node: PrivateNode, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        error = refusal(f"amqp://guest:hunter2@127.0.0.1:{node.port}//")

    assert isinstance(error, AccessRefused)
    assert "refused the user 'guest'" in str(error)
    assert "hunter2" not in str(error) + repr(error) + caplog.text
    assert not [record for record in caplog.records if record.name.startswith("pika")]


def test_an_unknown_vhost(node: PrivateNode) -> None:
    error = refusal(node.url("not there"))

    assert isinstance(error, VhostNotFound)
    assert str(error).endswith(
        "has no virtual host 'not there'; create it: rabbitmqctl add_vhost 'not there'"
    )


def test_a_vhost_that_the_user_may_not_use(node: PrivateNode) -> None:
    node.eval('rabbit_vhost:add(<<"closed">>, <<"t">>)')
    try:
        error = refusal(node.url("closed"))
    finally:
        node.delete_vhost("closed")

    assert isinstance(error, AccessRefused)
    assert "rabbitmqctl set_permissions -p closed guest" in str(error)


def test_of_many_reasons_the_most_specific_counts(node: PrivateNode) -> None:
    [dead] = free_ports(1)

    error = refusal([f"amqp://guest@127.0.0.1:{dead}//", f"amqp://guest:wrong@127.0.0.1:{node.port}//"])

    assert isinstance(error, AccessRefused)
    assert "refused the connection" in str(error)
    assert "refused the user" in str(error)


# --- TLS -------------------------------------------------------------------------------------------------


def test_tls_with_a_trusted_certificate(tls_node: tuple[PrivateNode, int, Path]) -> None:
    _, port, certificate = tls_node

    async def scenario() -> None:
        async with linked(f"amqps://guest@localhost:{port}//?cacertfile={certificate}") as link:
            assert await link.declare(passive=True) == []

    asyncio.run(scenario())


def test_tls_with_an_unknown_authority(tls_node: tuple[PrivateNode, int, Path]) -> None:
    error = refusal(f"amqps://guest@localhost:{tls_node[1]}//")

    assert isinstance(error, TLSFailed)
    assert "is not trusted" in str(error)


def test_tls_port_asked_in_plain(tls_node: tuple[PrivateNode, int, Path]) -> None:
    error = refusal(f"amqp://guest@localhost:{tls_node[1]}//")

    assert "write amqps://" in str(error)
