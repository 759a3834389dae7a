"""A late-acknowledged task that takes longer than RabbitMQ waits, and messages that wait for too long: one run each."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker import PrivateNode

from integration.support import WorkerProcess, wait_until
from integration.support.calls import TASKS, count
from integration.support.notes import APP, Limits

TIMEOUT = 3
"""Seconds that the broker of these tests waits for an acknowledgement."""


@pytest.fixture
def limits(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> Iterator[Limits]:
    """On a broker that looks every half a second."""
    node.eval(f"application:set_env(rabbit, consumer_timeout, {TIMEOUT * 1000})")
    node.eval("application:set_env(rabbit, channel_tick_interval, 500)")
    yield Limits(node, fresh_vhost, tmp_path, worker)
    node.eval("application:set_env(rabbit, consumer_timeout, 1800000)")
    node.eval("application:set_env(rabbit, channel_tick_interval, 60000)")


def test_a_task_of_more_than_two_timeouts_runs_once_and_is_acknowledged_in_the_end(
    limits: Limits, tmp_path: Path
) -> None:
    """Each time the channel is closed the message comes again, and waits for the outcome of the one run."""
    process, go = limits.worker("-c", "2", "--prefetch-multiplier", "1"), tmp_path / "go"
    with limits.client() as client:
        result = client.send("lasts", 1, str(go))

        process.wait_log("consuming amqptasks again", 3 * TIMEOUT)
        other = client.send("plain", 2)
        assert other.get(timeout=60) == 2, "the worker does not go on"
        wait_until(
            lambda: process.log().count("no longer consuming amqptasks") >= 2, 5 * TIMEOUT, process.log
        )
        process.wait_log("came again and is not run twice", 3 * TIMEOUT)
        go.touch()
        assert result.get(timeout=60) == 1

    wait_until(lambda: count(limits.url, TASKS) == 0, 10)
    assert process.stop() == 0
    assert count(limits.url, TASKS) == 0, "it was not acknowledged"
    assert Counter(note.number for note in limits.notes("S")) == {1: 1, 2: 1}
    log = process.log()
    assert "raise consumer_timeout on the broker above the longest task" in log


def test_what_waits_for_its_rate_goes_by_the_ladder_before_the_broker_loses_patience(limits: Limits) -> None:
    # The broker has more patience than the worker is told, so that a machine that stands still for seconds costs none.
    limits.node.eval(f"application:set_env(rabbit, consumer_timeout, {10 * TIMEOUT * 1000})")
    process = limits.worker(
        "-c", "1", "--prefetch-multiplier", "10", "--", f"broker_consumer_timeout={TIMEOUT}"
    )
    with limits.client() as client:
        client.send_many(*(("hourly", number) for number in range(5)))

        wait_until(lambda: process.log().count("has waited here for 1 s and is given back") >= 8, 5 * TIMEOUT)
        assert process.stop() == 0
        second = limits.worker("-c", "1", "--", "worker_disable_rate_limits=true")
        wait_until(lambda: len(limits.notes("S", "hourly")) == 5, 10, second.log)

    assert set(Counter(note.number for note in limits.notes("S", "hourly")).values()) == {1}
    assert "no longer consuming" not in process.log()


def test_the_risk_is_named_at_the_start_with_the_cure(limits: Limits) -> None:
    process = limits.worker("-c", "1", "--time-limit", "20", "--", f"broker_consumer_timeout={TIMEOUT}")

    (line,) = (line for line in process.log().splitlines() if "may run longer than the 3 s" in line)
    assert f"{APP}.plain" in line
    assert "write consumer_timeout = 21500 into rabbitmq.conf" in line or "set_policy" in line
    assert process.stop() == 0
