"""What is revoked is read before a task is taken, also while the broker takes no messages, or has just lost a worker."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks import App, revokes
from amqptasks.transport import codec
from integration.apps import control_tasks
from integration.support import Proxy, WorkerProcess, wait_until
from integration.support.clients import lines, on_broker
from integration.support.links import fates, linked

APP = "integration.apps.control_tasks"
ARGUMENTS = ("-c", "1", "-n", "w1@here", "--prefetch-multiplier", "16")
"""Under an alarm no outcome is published, so that what has run is held: all that a test sends."""
ALARM = "{resource_limit, memory, node()}"
RECORDS = 3000
Start = Callable[..., WorkerProcess]


@pytest.fixture
def app(fresh_url: str) -> Iterator[App]:
    yield from on_broker(control_tasks.app, fresh_url)


@pytest.fixture
def set_alarm(node: PrivateNode) -> Iterator[Callable[[], object]]:
    """Raises the memory alarm, until the test ends: all connections have been told when the alarms are."""
    yield lambda: node.eval(f"rabbit_alarm:set_alarm({{{ALARM}, []}}), rabbit_alarm:get_alarms()")
    node.eval(f"rabbit_alarm:clear_alarm({ALARM})")


def revoke_one_by_one(url: str) -> None:
    """Write a record for each of these ids, so that a worker reads for a while."""

    async def write() -> None:
        async with linked(url) as link:
            await link.declare(revokes.stream(7 * 86400.0))
            records = [codec.pack(revokes.record([f"id-{number}"])) for number in range(RECORDS)]
            assert await fates(link, records) == [None] * RECORDS

    asyncio.run(write())


def send(effects: Path) -> None:
    """Call what is revoked by the last records, and then what is not."""
    for number in range(RECORDS - 5, RECORDS):
        control_tasks.note.apply_async((str(effects), "revoked"), task_id=f"id-{number}")
    control_tasks.note.delay(str(effects), "free")


def test_a_worker_that_starts_under_an_alarm_runs_nothing_that_is_revoked(
    app: App, fresh_url: str, worker: Start, effects: Path, set_alarm: Callable[[], object]
) -> None:
    revoke_one_by_one(fresh_url)
    send(effects)
    set_alarm()

    worker(APP, *ARGUMENTS, broker_url=fresh_url)

    wait_until(lambda: "free" in lines(effects), 20)
    assert lines(effects) == ["free"]


def test_a_worker_that_consumes_again_under_an_alarm_runs_nothing_that_was_revoked_meanwhile(
    app: App,
    node: PrivateNode,
    fresh_vhost: str,
    fresh_url: str,
    proxy: Proxy,
    worker: Start,
    effects: Path,
    set_alarm: Callable[[], object],
) -> None:
    """Its connection that publishes lives on, and is blocked."""
    reading = f"broker_read_url={proxy.url(fresh_vhost)}"
    process = worker(APP, *ARGUMENTS, "--", reading, broker_url=fresh_url)
    proxy.refuse()
    proxy.rst()
    process.wait_log("connection lost")
    revoke_one_by_one(fresh_url)
    send(effects)
    set_alarm()
    states = "[(catch rabbit_reader:info(P, [state])) || P <- rabbit_networking:connections()]"
    wait_until(lambda: "blocked" in node.eval(states), 20, "it publishes a heartbeat")

    proxy.accept()

    wait_until(lambda: "free" in lines(effects), 30, process.log)
    assert lines(effects) == ["free"]
