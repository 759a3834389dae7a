"""The FastAPI example: its own server and worker, a real HTTP client, a real broker."""

import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from broker import PrivateNode, free_ports

from integration.support import WorkerProcess, wait_until
from integration.support.processes import ROOT, Process

EXAMPLE = ROOT / "examples" / "fastapi_app"


@pytest.fixture
def server(tmp_path: Path, node: PrivateNode, fresh_vhost: str) -> Iterator[Process]:
    [port] = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "web:web", "--port", str(port)]
    process = Process(
        command,
        ready=f"running on http://127.0.0.1:{port}",
        env={"AMQPTASKS_BROKER_URL": node.url(fresh_vhost)},
        cwd=EXAMPLE,
        log=tmp_path / "server.log",
    ).start()
    yield process
    process.end()


@pytest.fixture
def client(server: Process) -> Iterator[httpx.Client]:
    where = server.wait_log(r"running on (http://127.0.0.1:\d+)")[1]
    with httpx.Client(base_url=where, timeout=90) as made:
        yield made


def start(worker: Callable[..., WorkerProcess], url: str) -> WorkerProcess:
    return worker("tasks", "-c", "2", broker_url=url, ready=r" ready\.", cwd=EXAMPLE)


def test_requests_start_tasks_and_await_them(
    client: httpx.Client, worker: Callable[..., WorkerProcess], node: PrivateNode, fresh_vhost: str
) -> None:
    started = client.post("/prices/tea", params={"amount": 3})
    too_early = client.get(f"/prices/{started.json()['id']}", params={"seconds": 0})
    start(worker, node.url(fresh_vhost))
    answered = client.get(f"/prices/{started.json()['id']}", params={"seconds": 50})

    assert (started.status_code, too_early.status_code) == (202, 504)
    assert answered.json() == {"price": 9}
    assert client.get("/prices/unknown").status_code == 404


def test_a_hundred_requests_at_once_are_answered_each_with_its_own(
    client: httpx.Client, worker: Callable[..., WorkerProcess], node: PrivateNode, fresh_vhost: str
) -> None:
    start(worker, node.url(fresh_vhost))

    def ask(number: int) -> int:
        answer = client.get("/totals", params={"articles": ["x" * number, "tea"]})
        return int(answer.raise_for_status().json()["total"])

    with ThreadPoolExecutor(20) as threads:
        totals = list(threads.map(ask, range(1, 101)))

    assert totals == [number + 3 for number in range(1, 101)]


def test_a_broker_that_is_down_is_a_503_and_comes_back(
    client: httpx.Client, node: PrivateNode, server: Process
) -> None:
    assert client.post("/prices/tea").status_code == 202
    node.stop()
    try:
        refused = client.post("/prices/tea")
    finally:
        node.start()

    assert refused.status_code == 503
    assert "refused the connection" in refused.json()["detail"]
    # A queue of a broker that has just started may take longer to be there than a request waits.
    wait_until(lambda: client.post("/prices/tea").status_code == 202, 20)
    assert server.stop() in (0, -signal.SIGTERM)  # uvicorn raises the signal again once it is done
    assert "Application shutdown complete" in server.log()
    assert "Exception in ASGI application" not in server.log()
