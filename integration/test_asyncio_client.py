"""The asyncio client on a real RabbitMQ: outages, alarms, hosts, TLS, refusals, and many calls over a restart.

AMQPTASKS_TEST_FAULTS=full sends and gathers 10,000; `-s` shows how long it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import PrivateNode, free_ports

from amqptasks import App, chain, chord, group
from amqptasks.amqp import Queue
from amqptasks.errors import (
    AccessRefused,
    BrokerBlocked,
    BrokerUnavailable,
    PublishTimeout,
    TopologyMismatch,
    Unroutable,
    VhostNotFound,
)
from amqptasks.testing import running_worker
from integration.apps import awaited_tasks
from integration.support import Proxy, WorkerProcess

FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
CALLS = 10_000 if FULL else 2_000
LONGEST = 240.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def make_app() -> Iterator[Callable[..., App]]:
    made: list[App] = []

    def make(url: str, **settings: Any) -> App:
        # Those that try once have no second chance at a broker that is slow for a moment.
        settings = {"broker_connection_timeout": 60} | settings
        app = App("awaited", broker=url, set_as_current=False, result_persistent=True, **settings)
        for task in (awaited_tasks.add, awaited_tasks.total):
            app.task(name=task.name)(task.__wrapped__)
        made.append(app)
        return app

    yield make
    for app in made:
        app.close(5)


def on_loop(scenario: Callable[[], Any], seconds: float = 150.0) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(seconds):
            return await scenario()

    return asyncio.run(bounded())


def start(worker: Callable[..., WorkerProcess], url: str) -> WorkerProcess:
    return worker("integration.apps.awaited_tasks", "-c", "2", broker_url=url, ready=r" ready\.")


def test_calls_canvases_and_results(
    node: PrivateNode, fresh_vhost: str, worker: Callable[..., WorkerProcess], make_app: Callable[..., App]
) -> None:
    url = node.url(fresh_vhost)
    start(worker, url)
    app = make_app(url)
    add, total = app.tasks["awaited.add"], app.tasks["awaited.total"]

    async def scenario() -> None:
        async with app:
            assert await (await add.adelay(2, 2)).aget(60) == 4
            assert await (await chain(add.s(1, 2), add.s(3)).aapply_async()).aget(60) == 6
            grouped = await group(add.s(number, 1) for number in range(50)).aapply_async()
            assert sorted([await result.aget(60) async for result in grouped]) == list(range(1, 51))
            chorded = await chord([add.s(number, 1) for number in range(20)], total.s()).aapply_async()
            assert await chorded.aget(60) == 210
            later = await add.aapply_async((1, 1), countdown=1)
            assert await later.aget(60) == 2

    on_loop(scenario)


def test_nothing_is_lost_when_the_broker_restarts_in_the_middle(
    node: PrivateNode, fresh_vhost: str, worker: Callable[..., WorkerProcess], make_app: Callable[..., App]
) -> None:
    """All are published and gathered by one coroutine each; the broker goes away while both go on."""
    url = node.url(fresh_vhost)
    start(worker, url)
    app = make_app(url, task_publish_retry_policy={"max_retries": None}, broker_publish_timeout=120)
    add = app.tasks["awaited.add"]
    begun = asyncio.Event()
    ended = [0]

    async def one(number: int) -> int:
        called = await add.adelay(number, 1)
        value = await called.aget(LONGEST)
        ended[0] += 1
        if ended[0] == CALLS // 10:
            begun.set()
        return int(value)

    async def scenario() -> list[int]:
        calls = [asyncio.ensure_future(one(number)) for number in range(CALLS)]
        await begun.wait()
        outage = time.monotonic()
        await asyncio.to_thread(node.restart)
        print(
            f"\nbroker away for {time.monotonic() - outage:.1f} s with {CALLS - ended[0]} of {CALLS} outstanding"
        )
        values = await asyncio.gather(*calls)
        await app.aclose()
        return values

    started = time.monotonic()
    values = on_loop(scenario, LONGEST)

    print(f"{CALLS} published and gathered in {time.monotonic() - started:.1f} s, restart included")
    assert values == [number + 1 for number in range(CALLS)]


def test_an_alarm_is_told_of_in_time_and_ends(
    node: PrivateNode, fresh_vhost: str, make_app: Callable[..., App]
) -> None:
    app = make_app(node.url(fresh_vhost))
    add = app.tasks["awaited.add"]

    async def scenario() -> None:
        await add.adelay(1, 1)
        await asyncio.to_thread(node.ctl, "set_vm_memory_high_watermark", "absolute", "1")
        try:
            with pytest.raises(BrokerBlocked, match="memory"):
                while True:
                    # Until the broker has said so, it is only late.
                    with contextlib.suppress(PublishTimeout):
                        await add.aapply_async((1, 2), timeout=1)
        finally:
            await asyncio.to_thread(node.ctl, "set_vm_memory_high_watermark", "0.4")
        await add.aapply_async((1, 2), timeout=60)
        await app.aclose()

    on_loop(scenario)


def test_the_connection_is_dropped_under_calls(
    node: PrivateNode, fresh_vhost: str, proxy: Proxy, make_app: Callable[..., App]
) -> None:
    """Whoever calls does not notice, and every message is in the queue at least once."""
    app = make_app(proxy.url(fresh_vhost))
    add = app.tasks["awaited.add"]

    async def scenario() -> int:
        await add.adelay(0, 0)
        calls = [asyncio.ensure_future(add.adelay(number, 1)) for number in range(500)]
        for _ in range(3):
            await asyncio.sleep(0)
            await asyncio.to_thread(proxy.rst)
        await asyncio.gather(*calls)
        waiting = 0
        while waiting < 501:  # a queue that does not answer the broker at once is said to be empty
            [info] = await app.aconnection.declare(Queue("amqptasks"), passive=True)
            waiting = info.messages
        await app.aclose()
        return waiting

    assert on_loop(scenario) >= 501


def test_the_next_host_is_tried_and_each_refusal_is_told(
    node: PrivateNode, fresh_vhost: str, make_app: Callable[..., App]
) -> None:
    url, [shut] = node.url(fresh_vhost), free_ports(1)
    down = f"amqp://guest@127.0.0.1:{shut}//"

    async def calling(where: str) -> None:
        app = make_app(where, task_publish_retry=False, task_ignore_result=True)
        try:
            await app.tasks["awaited.add"].adelay(1, 2)
        finally:
            await app.aclose()

    on_loop(lambda: calling(f"{down};{url}"))
    with pytest.raises(BrokerUnavailable, match="refused the connection"):
        on_loop(lambda: calling(down))
    with pytest.raises(VhostNotFound, match="rabbitmqctl add_vhost nowhere"):
        on_loop(lambda: calling(node.url("nowhere")))
    with pytest.raises(AccessRefused, match="refused the user"):
        on_loop(
            lambda: calling(url.replace("guest@", "guest:wrong@").replace("guest:guest@", "guest:wrong@"))
        )


def test_calls_and_results_over_tls(
    tls_node: tuple[PrivateNode, int, Path], make_app: Callable[..., App]
) -> None:
    _, port, certificate = tls_node
    app = make_app(f"amqps://guest@localhost:{port}//?cacertfile={certificate}")
    add = app.tasks["awaited.add"]

    async def scenario() -> int:
        async with app:
            return int(await (await add.adelay(2, 2)).aget(60))

    with running_worker(app):
        assert on_loop(scenario) == 4


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqps://guest@localhost:{tls}//", "is not trusted.*ca_certs"),
        (
            "amqps://guest@localhost:{tls}//?cacertfile=/nowhere/ca.pem",
            "TLS files.*'/nowhere/ca.pem'.*cannot be used",
        ),
        ("amqps://guest@localhost:{plain}//", "does not speak TLS.*write amqp://"),
        ("amqp://guest@localhost:{tls}//", "write amqps://"),
    ],
)
def test_a_refusal_of_tls_is_told_with_its_cure(
    tls_node: tuple[PrivateNode, int, Path], make_app: Callable[..., App], url: str, said: str
) -> None:
    node, port, _ = tls_node
    app = make_app(url.format(tls=port, plain=node.port), task_publish_retry=False, task_ignore_result=True)

    async def scenario() -> None:
        async with app:
            await app.tasks["awaited.add"].adelay(1, 2)

    with pytest.raises(BrokerUnavailable, match=said):
        on_loop(scenario)


def test_what_is_not_there_is_named(
    node: PrivateNode, fresh_vhost: str, make_app: Callable[..., App]
) -> None:
    app = make_app(node.url(fresh_vhost), task_ignore_result=True)

    async def scenario() -> None:
        await app.aconnection.declare(Queue("other", arguments={"x-queue-type": "classic"}))
        with pytest.raises(TopologyMismatch, match="x-queue-type"):
            await app.aconnection.declare(Queue("other", arguments={"x-queue-type": "quorum"}))
        with pytest.raises(Unroutable, match="no queue is bound"):
            await app.asend_task("awaited.add", (1, 1), exchange="amq.direct", routing_key="nowhere")
        await app.asend_task("awaited.add", (1, 1), queue="other")
        await app.aclose()

    on_loop(scenario)


def test_a_program_that_forgets_to_close_ends_quietly(node: PrivateNode, fresh_vhost: str) -> None:
    program = (
        "import asyncio\n"
        "from integration.apps.awaited_tasks import app, add\n"
        "async def main():\n"
        "    await asyncio.gather(*[add.adelay(n, 1) for n in range(100)])\n"
        "asyncio.run(main())\n"
        "print('done')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        # A connection that is opened twice would be told of.
        env=os.environ
        | {"AMQPTASKS_BROKER_URL": node.url(fresh_vhost), "AMQPTASKS_BROKER_CONNECTION_TIMEOUT": "60"},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "done\n", "")
