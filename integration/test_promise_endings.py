"""Promises 4, 6 and 7: a task that kills its child costs that alone, no task waits behind a long one while a child
is idle, and a worker's end, however it comes, loses nothing and leaves no process."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from broker import PrivateNode

from integration.support import WorkerProcess, wait_until
from integration.support.calls import TASKS, answers, count
from integration.support.faults import Bench
from integration.support.queues import unacknowledged


@pytest.fixture
def bench(node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]) -> Bench:
    return Bench(node, fresh_vhost, tmp_path, worker)


def given_back(bench: Bench, number: int) -> None:
    """So many lie in the queue again: the broker puts them there once the worker's connection has ended."""
    wait_until(
        lambda: count(bench.url, "amqptasks") == number, 10, lambda: str(count(bench.url, "amqptasks"))
    )


def test_sigterm_finishes_what_runs_gives_back_the_rest_and_exits_0(bench: Bench) -> None:
    worker = bench.worker()
    bench.hold("waits_late_for", *range(8))

    worker.signal(signal.SIGTERM)
    worker.wait_log("Warm shutdown")
    wait_until(lambda: count(bench.url, "amqptasks") == 6, 10, "what has not started goes back at once")
    bench.release()

    assert worker.wait() == 0
    worker.assert_gone()
    assert len(bench.starts()) == len(bench.ends()) == 2
    given_back(bench, 6)


@pytest.mark.parametrize("signals", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGQUIT,)])
def test_a_colder_end_gives_late_tasks_back(bench: Bench, signals: tuple[int, ...]) -> None:
    worker = bench.worker()
    bench.hold("waits_late_for", *range(4))

    for number, text in zip(signals, ("Warm", "Cold") if len(signals) == 2 else ("Cold",), strict=True):
        worker.signal(number)
        worker.wait_log(f"{text} shutdown")
    worker.wait()

    worker.assert_gone()
    given_back(bench, 4)  # two that ran and two that had not started
    assert bench.ends() == {}


def test_a_cold_end_answers_for_early_tasks_that_it_killed(bench: Bench, fresh_vhost: str) -> None:
    worker = bench.worker()
    bench.hold("waits_for", 1, 2, 3)
    held = partial(unacknowledged, bench.node, fresh_vhost, TASKS)
    wait_until(lambda: held() == 1, 10, "the worker has heard that two have started")

    worker.signal(signal.SIGQUIT)
    worker.wait()

    worker.assert_gone()
    assert [answer["status"] for answer in answers(bench.url, 2)] == ["FAILURE", "FAILURE"]
    given_back(bench, 1)  # the one that had not started


def test_sighup_finishes_what_runs_and_starts_again(bench: Bench) -> None:
    worker = bench.worker()
    bench.hold("waits_late_for", 1)
    pid = worker.pid

    worker.signal(signal.SIGHUP)
    worker.wait_log("Warm shutdown")
    bench.release()
    worker.wait_log(r"(?s) ready\..* ready\.")
    bench.send(("early", 2))

    bench.finished(1, 2)
    assert worker.pid == pid
    assert worker.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_process_group_does_not_reach_tasks(bench: Bench, number: int) -> None:
    worker = bench.worker()
    bench.hold("waits_for", 1, 2)

    os.killpg(worker.pid, number)
    worker.wait_log("Warm shutdown")
    bench.release()

    assert worker.wait() == 0
    worker.assert_gone()
    assert bench.ends() == {1: 1, 2: 1}


def test_no_process_is_left_when_the_parent_is_killed(bench: Bench) -> None:
    worker = bench.worker()
    bench.hold("waits_late_for", 1, 2)
    assert len(worker.children()) >= 3, "a zygote and two children"

    worker.kill()  # asserts that all are gone

    wait_until(lambda: count(bench.url, "amqptasks") == 2, 10, "both tasks are the broker's again")


def test_a_killed_zygote_costs_its_children_and_no_task(bench: Bench) -> None:
    worker = bench.worker()
    bench.hold("waits_late_for", 1, 2)
    ran = {effect.pid for effect in bench.effects.running()}
    (zygote,) = set(worker.children()) - ran - {pid for pid in worker.children() if _parent(pid) in ran}

    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: bench.starts() == {1: 2, 2: 2}, 15, lambda: f"{bench.starts()} {worker.log()[-2000:]}")
    bench.release()

    bench.finished(1, 2)
    assert worker.stop() == 0


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_second_worker_of_the_same_name_exits_73_with_one_line(bench: Bench) -> None:
    worker = bench.worker()

    second = bench.worker(ready=None)

    assert second.wait() == 73
    lines = [line for line in second.log().splitlines() if "w@here" in line and "named" in line]
    assert len(lines) == 1, second.log()
    assert "Traceback" not in second.log()
    assert worker.stop() == 0


def test_a_task_that_kills_its_child_costs_that_child_and_that_task_alone(bench: Bench) -> None:
    worker = bench.worker()
    bench.hold("waits_for", 1)
    (bystander,) = (effect.pid for effect in bench.effects.running())

    bench.send(("kills_its_child", 2), ("early", 3), ("exits", 4, 3), ("early", 5))
    bench.finished(3, 5)
    assert {effect.pid for effect in bench.effects.running() if effect.number == 1} == {bystander}
    bench.release()
    bench.finished(1)

    told = {answer["task_id"]: answer["status"] for answer in answers(bench.url, 5)}
    assert sorted(told.values()) == ["FAILURE", "FAILURE", "SUCCESS", "SUCCESS", "SUCCESS"]
    assert set(bench.starts().values()) == {1}
    assert worker.stop() == 0


def test_a_task_that_kills_every_child_ends_as_a_dead_letter(bench: Bench) -> None:
    worker = bench.worker("--", "worker_lost_limit=3")
    bench.release()

    bench.send(("kills_its_child_while", 1, str(bench.flag)), ("late", 2))

    (answer,) = (answer for answer in answers(bench.url, 2) if answer["status"] == "FAILURE")
    assert type(answer["result"]).__name__ == "WorkerLost"
    assert bench.starts() == {1: 3, 2: 1}
    wait_until(lambda: count(bench.url, "amqptasks.dead") == 1, 10, "the dead letter")
    assert worker.stop() == 0


def test_no_task_waits_behind_a_long_one_while_a_child_is_idle(bench: Bench) -> None:
    worker = bench.worker("--prefetch-multiplier", "32")
    bench.send(*(("late", number) for number in range(1, 50)), ("waits_late_for", 0, str(bench.flag)))
    bench.send(*(("late", number) for number in range(50, 100)))

    bench.finished(*range(1, 100), timeout=10)

    assert 0 not in bench.ends(), "the long one still runs"
    bench.release()
    bench.finished(0)
    assert worker.stop() == 0
