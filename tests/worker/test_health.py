"""The probes' server, against clients of every kind; and a worker's answers, without a broker."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import click
import pytest

from amqptasks import App
from amqptasks.errors import ImproperlyConfigured, WorkerError
from amqptasks.testing import running_worker
from amqptasks.worker import health, probes
from amqptasks.worker.health import JSON, Answer, HealthServer
from amqptasks.worker.options import WorkerOptions
from tests.test_docs import parse


async def echo(path: str, accept: str) -> Answer:
    if path == "/broken":
        raise ValueError("as asked")
    return Answer(HTTPStatus.OK, JSON, json.dumps([path, accept]).encode())


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is cut off, and no loop called stuck, because the machine stands still for a while."""
    monkeypatch.setattr(health, "PATIENCE", 60.0)
    monkeypatch.setattr(probes, "TURN", 60.0)


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    serving = HealthServer("127.0.0.1", 0, echo)
    yield serving.start()
    serving.close()


def ask(address: tuple[str, int], path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*address, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw(address: tuple[str, int], request: bytes) -> bytes:
    """What comes back until the end; empty when the connection is cut."""
    with socket.create_connection(address, timeout=60) as sock:
        sock.sendall(request)
        answer = b""
        try:
            while piece := sock.recv(65536):
                answer += piece
        except ConnectionResetError:
            return b""
        return answer


def test_a_request_and_its_answer(server) -> None:
    status, body = ask(server, "/livez?verbose", Accept="text/plain")

    assert (status, json.loads(body)) == (200, ["/livez", "text/plain"])


def test_head_has_no_body(server) -> None:
    assert ask(server, "/livez", "HEAD") == (200, b"")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"GET / HTTP/2\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (b"GET /broken HTTP/1.1\r\n\r\n", b"500"),
    ],
)
def test_other_requests_are_refused(server, request_: bytes, status: bytes) -> None:
    answer = raw(server, request_)

    assert answer[:12] in (b"HTTP/1.1 " + status, b"")  # cut off, if it still wrote when it was refused
    assert ask(server, "/livez")[0] == 200


def test_who_is_slow_is_cut_off(server, monkeypatch) -> None:
    """A byte now and then does not keep a connection."""
    monkeypatch.setattr(health, "PATIENCE", 0.3)

    with socket.create_connection(server, timeout=60) as sock:
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < began + 60:
                sock.sendall(b"G")
                sock.settimeout(0.05)
                try:
                    if sock.recv(1) == b"":
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        assert time.monotonic() < began + 60


def test_a_crowd_does_not_keep_others_out_for_long(server, monkeypatch) -> None:
    monkeypatch.setattr(health, "PATIENCE", 0.5)
    crowd = [socket.create_connection(server, timeout=60) for _ in range(3 * health.CROWD)]
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert ask(server, "/livez")[0] == 200
                break
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < deadline
    finally:
        for sock in crowd:
            sock.close()


def test_a_port_in_use_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(
            WorkerError, match=f"the health port {port} on 127.0.0.1 cannot be opened: .*in use"
        ):
            HealthServer("127.0.0.1", port, echo).start()


def test_an_address_that_is_not_ours_says_so() -> None:
    with pytest.raises(WorkerError, match=r"192\.0\.2\.1 cannot be opened"):
        HealthServer("192.0.2.1", 0, echo).start()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_both_families_are_served_by_one_address() -> None:
    serving = HealthServer("::", 0, echo)
    _, port = serving.start()
    try:
        assert ask(("127.0.0.1", port), "/livez")[0] == 200
        assert ask(("::1", port), "/livez")[0] == 200
    finally:
        serving.close()


def test_a_name_that_is_no_host_says_so() -> None:
    with pytest.raises(WorkerError, match=r"on nobody\.invalid cannot be opened"):
        HealthServer("nobody.invalid", 0, echo).start()


def test_the_port_is_free_again_after_the_end() -> None:
    def is_free(address: tuple[str, int]) -> bool:
        """Another program may have been given the port in this very moment."""
        try:
            socket.create_server(address).close()
        except OSError:
            return False
        return True

    before = set(threading.enumerate())
    for attempt in range(5):
        serving = HealthServer("127.0.0.1", 0, echo)
        address = serving.start()
        (running,) = set(threading.enumerate()) - before
        serving.close()
        running.join(60)  # `close` does not wait for long

        assert not running.is_alive()
        if is_free(address):
            break
        assert attempt < 4


# --- a worker --------------------------------------------------------------------------------------------


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Iterator[App]:
    app = App("probed", broker=f"memory://{request.node.name}")
    app.conf.worker_health_port = 0
    with app:
        yield app


@pytest.fixture
def address(caplog: pytest.LogCaptureFixture) -> Callable[[], tuple[str, int]]:
    """Where the worker answers, as it has logged: any port, for one that is free now need not be so later."""
    caplog.set_level(logging.INFO, "amqptasks.worker.vitals")

    def found() -> tuple[str, int]:
        (said,) = re.findall(r"health: http://([\d.]+):(\d+)/", caplog.text)
        return said[0], int(said[1])

    return found


def test_a_worker_that_consumes_is_live_and_ready(app, address) -> None:
    with running_worker(app):
        live, ready = ask(address(), "/livez"), ask(address(), "/readyz")

    assert live[0] == ready[0] == 200
    assert json.loads(ready[1]) == {"ready": True, "node": "test@localhost", "reasons": []}


def test_other_paths_name_what_there_is(app, address) -> None:
    with running_worker(app):
        status, body = ask(address(), "/")

    assert status == 404
    assert b"/livez, /readyz" in body


def test_a_loop_that_does_not_turn_is_neither_live_nor_ready(app, address, monkeypatch) -> None:
    monkeypatch.setattr(probes, "TURN", 0.2)
    go_on = threading.Event()
    with running_worker(app) as worker:
        worker._loop.call_soon_threadsafe(go_on.wait, 200)
        try:
            for path in ("/livez", "/readyz"):
                status, body = ask(address(), path)
                assert (status, json.loads(body)["reasons"]) == (503, ["the worker's loop does not turn"])
            assert ask(address(), "/metrics")[0] == 503
        finally:
            go_on.set()
        monkeypatch.setattr(probes, "TURN", 60.0)
        assert ask(address(), "/livez")[0] == 200


def test_a_worker_without_a_health_port_measures_nothing() -> None:
    before = set(threading.enumerate())
    with App("plain", broker="memory://plain") as app, running_worker(app) as worker:
        assert type(worker._worker.dispatch.counters).__name__ == "Counters"
        assert type(worker._worker.publisher).__name__ == "Publisher"
        assert "health" not in [thread.name for thread in set(threading.enumerate()) - before]


def test_a_lost_queue_is_named(app, address) -> None:
    with running_worker(app) as worker:

        async def lose() -> None:
            worker._worker.consumers._lanes.pop("amqptasks")

        asyncio.run_coroutine_threadsafe(lose(), worker._loop).result(60)
        status, body = ask(address(), "/readyz")

    assert status == 503
    assert json.loads(body)["reasons"] == ["queue amqptasks is not consumed"]


def test_a_broker_that_blocks_for_long_is_named(app, address, monkeypatch) -> None:
    monkeypatch.setattr(probes, "BLOCKED", 0.0)
    with running_worker(app) as worker:

        async def block(reason: str | None) -> None:
            worker._worker.publisher.link.blocked = reason
            worker._worker._vitals._probes.look()

        asyncio.run_coroutine_threadsafe(block("low on memory"), worker._loop).result(60)
        status, body = ask(address(), "/readyz")
        asyncio.run_coroutine_threadsafe(block(None), worker._loop).result(60)

        assert ask(address(), "/readyz")[0] == 200
    assert status == 503
    assert json.loads(body)["reasons"] == ["the broker takes no messages: low on memory"]


@pytest.mark.parametrize("port", ["http", -1, 65536, 80.5])
def test_what_is_no_port_is_refused(port: Any) -> None:
    app = App("p", broker="memory://p")

    with pytest.raises(ImproperlyConfigured, match="worker_health_port"):
        app.conf.worker_health_port = port


@pytest.mark.parametrize("prefix", ["9lives_", "a-b", "a b", "é"])
def test_what_is_no_prefix_is_refused(prefix: str) -> None:
    app = App("p", broker="memory://p")

    with pytest.raises(ImproperlyConfigured, match="worker_metrics_prefix"):
        app.conf.worker_metrics_prefix = prefix


@pytest.mark.parametrize("port", ["http", "-1", "65536", "80.5", ""])
def test_what_is_no_port_is_refused_on_the_command_line_too(port: str) -> None:
    with pytest.raises(click.BadParameter, match="is no port; name a number up to 65535, or 0 for any"):
        parse(["-A", "proj", "worker", "--health-port", port])


def test_the_options_are_the_settings_and_any_port_is_one() -> None:
    given = WorkerOptions(health_port=0, health_host="::").settings

    assert given == {"worker_health_port": 0, "worker_health_host": "::"}
    assert "worker_health_port" not in WorkerOptions().settings
