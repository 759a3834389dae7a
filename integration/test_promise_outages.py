"""Promises 5 and 6: after any outage the worker consumes again by itself, what runs keeps running, and no heartbeat
waits for a task."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker import PrivateNode

from integration.support import Proxy, WorkerProcess
from integration.support.calls import answers, count
from integration.support.faults import Bench


@pytest.fixture
def bench(node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]) -> Bench:
    return Bench(node, fresh_vhost, tmp_path, worker)


@pytest.fixture
def patient_node(node: PrivateNode) -> Iterator[PrivateNode]:
    """Looks every half a second for deliveries that have waited for three."""
    node.eval("application:set_env(rabbit, consumer_timeout, 3000)")
    node.eval("application:set_env(rabbit, channel_tick_interval, 500)")
    yield node
    node.eval("application:set_env(rabbit, consumer_timeout, 1800000)")
    node.eval("application:set_env(rabbit, channel_tick_interval, 60000)")


def each_ran_once(bench: Bench, worker: WorkerProcess, *numbers: int) -> None:
    """Every task started once, finished once and was answered once, and the broker has nothing left."""
    once = dict.fromkeys(numbers, 1)
    bench.finished(*numbers)
    told = answers(bench.url, len(numbers))
    assert worker.stop() == 0, worker.log()
    assert bench.starts() == bench.ends() == once
    assert [answer["status"] for answer in told] == ["SUCCESS"] * len(numbers)
    assert count(bench.url, "amqptasks") == count(bench.url, "fault-replies") == 0


@pytest.mark.parametrize("fault", ["rst", "fin"])
@pytest.mark.parametrize("task", ["waits_for", "waits_late_for"])
def test_running_tasks_outlive_a_cut_connection(
    bench: Bench, proxy: Proxy, fresh_vhost: str, fault: str, task: str
) -> None:
    worker = bench.worker(broker_url=proxy.url(fresh_vhost))
    bench.hold(task, 1, 2)

    getattr(proxy, fault)()
    worker.wait_log("consuming again")
    bench.send(("early", 3))
    bench.release()

    each_ran_once(bench, worker, 1, 2, 3)
    assert "unknown delivery tag" not in worker.log()


def test_a_pulled_cable_is_noticed_by_heartbeats_and_outlived(
    bench: Bench, proxy: Proxy, fresh_vhost: str
) -> None:
    worker = bench.worker("--", "broker_heartbeat=2", broker_url=proxy.url(fresh_vhost))
    bench.hold("waits_late_for", 1, 2)

    proxy.blackhole()
    worker.wait_log("connection lost", 15)
    proxy.restore()
    worker.wait_log("consuming again", 30)
    bench.send(("early", 3))
    bench.release()

    each_ran_once(bench, worker, 1, 2, 3)


def test_a_worker_told_to_stop_while_the_broker_is_away_stops(
    bench: Bench, proxy: Proxy, fresh_vhost: str
) -> None:
    worker = bench.worker(broker_url=proxy.url(fresh_vhost))
    bench.hold("waits_late_for", 1, 2, 3)
    proxy.refuse()
    proxy.rst()
    worker.wait_log("refused the connection")

    worker.signal(15)
    worker.wait_log("Warm shutdown")
    bench.release()
    bench.finished(1, 2)
    proxy.accept()

    assert worker.wait() == 0
    worker.assert_gone()
    assert set(bench.ends()) == {1, 2}, "it took no more after the signal"
    assert count(bench.url, "amqptasks") >= 1


def test_a_deleted_queue_is_declared_and_consumed_again(bench: Bench) -> None:
    worker = bench.worker()
    bench.hold("waits_late_for", 1)

    bench.delete_queue("amqptasks")
    worker.wait_log("consuming amqptasks again")
    bench.send(("early", 2))
    bench.finished(2)
    bench.release()

    each_ran_once(bench, worker, 1, 2)


def test_a_task_longer_than_the_consumer_timeout_runs_once(bench: Bench, patient_node: PrivateNode) -> None:
    worker = bench.worker("--prefetch-multiplier", "1")
    bench.hold("waits_late_for", 1)

    worker.wait_log("no longer consuming", 20)
    worker.wait_log("consuming amqptasks again")
    bench.send(("early", 2))
    bench.finished(2)
    bench.release()

    each_ran_once(bench, worker, 1, 2)


def test_heartbeats_do_not_wait_for_tasks(bench: Bench) -> None:
    """Two beats missed, four seconds, would cost the connection. So would a machine that stands still as long: once more
    then, as it is not those tasks that it stands still for.
    """
    worker = bench.worker("--", "broker_heartbeat=2")
    for number in (1, 3, 5):
        before = worker.log().count("lost")
        bench.send(("sleep_in_c", number, 10.0), ("hog_interpreter", number + 1, 8.0))
        bench.finished(number, number + 1, timeout=30)
        if kept := worker.log().count("lost") == before:
            break
    bench.send(("early", number + 2))

    each_ran_once(bench, worker, *range(1, number + 3))
    assert kept, worker.log()
