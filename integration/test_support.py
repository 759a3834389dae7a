"""The tools of this suite do what they say; else a green run would prove nothing."""

import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pika
import pika.exceptions
import pytest
from broker import PrivateNode, answers

from .support import Process, Proxy, wait_until


def connect(url: str, **options: object) -> pika.BlockingConnection:
    parameters = pika.URLParameters(url)
    parameters.connection_attempts, parameters.socket_timeout = 1, 3
    for name, value in options.items():
        setattr(parameters, name, value)
    return pika.BlockingConnection(parameters)


def test_a_vhost_is_there_and_another_is_not(node: PrivateNode, broker_url: str) -> None:
    assert answers(broker_url)
    assert not answers(node.url("nowhere"))


def test_persistent_messages_survive_the_death_of_the_node(node: PrivateNode, broker_url: str) -> None:
    """Also those in queues that were declared a moment ago."""
    with connect(broker_url) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for kind in ("classic", "quorum"):
            channel.queue_declare(kind, durable=True, arguments={"x-queue-type": kind})
            channel.basic_publish("", kind, b"x", pika.BasicProperties(delivery_mode=2), mandatory=True)
        pid, port = node.pid, node.port
        node.kill()
        with pytest.raises(pika.exceptions.AMQPError):
            connection.process_data_events(60)

    assert not answers(broker_url)
    node.start()
    assert node.port == port
    assert node.pid != pid
    with connect(broker_url) as connection:
        for kind in ("classic", "quorum"):
            assert connection.channel().basic_get(kind, auto_ack=True)[2] == b"x"


def test_restart_is_orderly(node: PrivateNode, broker_url: str) -> None:
    node.restart()
    assert answers(broker_url)


def test_kill_9_of_the_owner_ends_the_node(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.path.insert(0, 'scripts'); import broker, pathlib\n"
        f"node = broker.PrivateNode('orphan', folder=pathlib.Path({str(tmp_path)!r}))\n"
        "node.start(); print('port', node.port, 'up', flush=True); time.sleep(600)"
    )
    owner = Process([sys.executable, "-c", code], ready="up", log=tmp_path / "log", timeout=35)
    with owner:
        assert len(owner.children()) >= 3, "guard, epmd, Erlang VM"
        port = int(owner.wait_log(r"port (\d+)").group(1))
        owner.kill()  # asserts that nothing is left

    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), 1):
        pass


def test_proxy_passes(proxy: Proxy, vhost: str) -> None:
    with connect(proxy.url(vhost)) as connection:
        channel = connection.channel()
        channel.queue_declare("passing")
        channel.confirm_delivery()
        body = bytes(300_000)
        channel.basic_publish("", "passing", body, mandatory=True)
        assert channel.basic_get("passing", auto_ack=True)[2] == body

    wait_until(lambda: proxy.connections == 0, 5, "the connection ends at both sides")
    assert proxy.accepted == 1
    assert proxy.passed("s2c") > 300_000 < proxy.passed("c2s")


@pytest.mark.parametrize("fault", ["rst", "fin"])
def test_proxy_ends_connections(proxy: Proxy, vhost: str, fault: str) -> None:
    connection = connect(proxy.url(vhost))
    getattr(proxy, fault)()
    with pytest.raises(pika.exceptions.AMQPError):
        connection.process_data_events(30)


def test_proxy_refuses_and_accepts_again(proxy: Proxy, vhost: str) -> None:
    with connect(proxy.url(vhost)) as before:
        proxy.refuse()
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            connect(proxy.url(vhost), retry_delay=0)
        before.channel()  # what exists stays

    proxy.accept()
    connect(proxy.url(vhost)).close()


@pytest.mark.parametrize("direction", ["c2s", "s2c"])
def test_proxy_blackhole_holds_back_and_restores(proxy: Proxy, vhost: str, direction: str) -> None:
    with connect(proxy.url(vhost)) as connection:
        proxy.blackhole(direction)  # type: ignore[arg-type]
        started = time.monotonic()
        threading.Timer(0.5, proxy.restore).start()
        connection.channel()
        assert time.monotonic() - started > 0.45


def test_proxy_delays(proxy: Proxy, vhost: str) -> None:
    with connect(proxy.url(vhost)) as connection:
        proxy.delay(0.2, "s2c")
        started = time.monotonic()
        connection.channel()
        assert time.monotonic() - started > 0.19


def test_proxy_cuts_after_so_many_bytes(proxy: Proxy, vhost: str) -> None:
    connection = connect(proxy.url(vhost))
    channel = connection.channel()
    before = proxy.passed("s2c")
    proxy.cut_after(5)
    with pytest.raises(pika.exceptions.AMQPError):
        channel.queue_declare("never-answered")
    assert proxy.passed("s2c") - before == 5


def test_proxy_swallows_confirms(proxy: Proxy, broker_url: str, vhost: str) -> None:
    connection = connect(proxy.url(vhost))
    channel = connection.channel()
    channel.queue_declare("swallowed")
    channel.confirm_delivery()
    proxy.swallow_confirms()
    threading.Thread(target=lambda: (wait_until(lambda: proxy.swallowed, 10), proxy.rst())).start()
    with pytest.raises(pika.exceptions.AMQPError):
        channel.basic_publish("", "swallowed", b"x", mandatory=True)

    with connect(broker_url) as direct:
        assert direct.channel().queue_declare("swallowed", passive=True).method.message_count == 1


def test_a_process_is_watched_to_its_last_child(tmp_path: Path) -> None:
    code = "import subprocess, time; subprocess.Popen(['sleep', '600'], start_new_session=True); print('up', flush=True); time.sleep(600)"
    process = Process([sys.executable, "-c", code], ready="up", log=tmp_path / "log").start()
    assert len(process.children()) == 1

    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with pytest.raises(AssertionError, match="sleep"):
        process.assert_gone(0.2)
    process.end()
    process.assert_gone()


def test_a_process_that_ends_early_shows_its_log(tmp_path: Path) -> None:
    process = Process([sys.executable, "-c", "print('no such app')"], ready="up", log=tmp_path / "log")
    with pytest.raises(AssertionError, match="no such app"):
        process.start()


def test_celery_worker_starts_and_stops(tmp_path: Path, broker_url: str, celery_worker: object) -> None:
    (tmp_path / "peer.py").write_text(
        "import os, celery\napp = celery.Celery(broker=os.environ['AMQPTASKS_BROKER_URL'])\n"
    )
    worker = celery_worker("peer", "-P", "solo", broker_url=broker_url, cwd=tmp_path)  # type: ignore[operator]
    assert worker.stop() == 0


# --- a page in a browser -----------------------------------------------------------------------------------


def test_a_page_reaches_no_other_host_and_its_complaints_are_kept(browser: Any) -> None:
    from integration.support.browser import tab

    page = (
        "<title>It</title><script>console.error('said'); nobody()</script><img src=http://example.com/i.png>"
    )
    with tab(browser, "data:text/html,") as made:
        made.open(page)

        assert made.page.title() == "It"
        assert made.outside == ["http://example.com/i.png"]
        with pytest.raises(AssertionError, match=r"console: said.*nobody is not defined"):
            made.assert_quiet()
        with pytest.raises(AssertionError, match=r"wants .*example\.com"):
            made.assert_quiet()
