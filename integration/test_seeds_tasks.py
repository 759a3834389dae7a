"""What the project set out to be, as far as it takes processes that die: acknowledgement, loss, one task a process.

Each test is named after its rows, its docstring is what they say. What was shown before is in `test_seeds.py`.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from broker import PrivateNode

from amqptasks import states
from amqptasks.errors import TimeLimitExceeded, WorkerLost
from integration.apps import seed_tasks as tasks
from integration.support import WorkerProcess, wait_until
from integration.support.calls import TASKS, count, headers, take
from integration.support.queues import unacknowledged

APP = "integration.apps.seed_tasks"


@pytest.fixture(scope="module")
def shared(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """The worker of the module: two children, every queue."""
    log = tmp_path_factory.mktemp("seeds") / "worker.log"
    tasks.app.conf.broker_url = broker_url
    options = ("-c", "2", "-Ofair", "-n", "w1@%h")
    with WorkerProcess(APP, *options, log=log, broker_url=broker_url) as worker:
        yield worker
        tasks.app.close()


@pytest.fixture
def elsewhere(node: PrivateNode, fresh_vhost: str) -> Iterator[str]:
    """A vhost without a worker; the app is on it during the test."""
    before, url = tasks.app.conf.broker_url, node.url(fresh_vhost)
    tasks.app.close()
    tasks.app.conf.broker_url = url
    yield url
    tasks.app.close()
    tasks.app.conf.broker_url = before


def runs(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# --- E. acknowledgement, reservation, loss -------------------------------------------------------------------


@pytest.mark.parametrize(("task", "times"), [(tasks.early, 1), (tasks.late, 2)], ids=["early", "late"])
def test_rows_72_74_76_to_78_what_had_started_when_the_power_failed(
    elsewhere: str,
    worker: Callable[..., WorkerProcess],
    held: Callable[[], int],
    tmp_path: Path,
    task: Any,
    times: int,
) -> None:
    """By default a call that has started is never executed again; with `acks_late` it is."""
    path, gate = tmp_path / "runs", tmp_path / "gate"
    first = worker(APP, "-c", "1", "-n", "first@%h", broker_url=elsewhere)
    task.delay(str(path), str(gate))
    wait_until(lambda: runs(path), 20, "the start")
    inspect = tasks.app.control.inspect(timeout=20.0, limit=1)
    wait_until(lambda: any((inspect.active() or {}).values()), 20, "the worker has heard that it started")
    wait_until(lambda: held() == times - 1, 10, "the ack, or none")

    first.kill()
    gate.touch()
    worker(APP, "-c", "1", "-n", "second@%h", broker_url=elsewhere)
    tasks.pid.delay().get(timeout=60)  # came after it
    wait_until(lambda: held() == 0, 10, "the end of all")

    assert len(runs(path)) == times


@pytest.fixture
def held(node: PrivateNode, fresh_vhost: str) -> Callable[[], int]:
    """How many messages of the default queue its workers have not acknowledged, as the broker counts."""
    return partial(unacknowledged, node, fresh_vhost, TASKS)


def test_rows_82_to_84_a_killed_task_does_not_come_back(shared: WorkerProcess, tmp_path: Path) -> None:
    """An administrator who kills a task does not want it back, nor is what ran out of memory to do so again."""
    path = tmp_path / "runs"
    result = tasks.late.delay(str(path), str(tmp_path / "gate"))
    (victim,) = wait_until(lambda: runs(path), 20, "the start")

    os.kill(int(victim), signal.SIGKILL)

    with pytest.raises(WorkerLost, match="SIGKILL"):
        result.get(timeout=60)
    assert runs(path) == [victim]
    assert tasks.pid.delay().get(timeout=60) != int(victim)


def test_row_85_what_fails_for_ever_stops_by_itself(
    shared: WorkerProcess, broker_url: str, tmp_path: Path
) -> None:
    """A task that always kills its process does not become a loop: it ends in the dead letters."""
    path = tmp_path / "runs"

    with pytest.raises(WorkerLost, match="died 3 times"):
        tasks.poison.delay(str(path)).get(timeout=60)

    assert runs(path) == ["ran"] * 3
    wait_until(lambda: count(broker_url, "amqptasks.dead") == 1, 10, "the dead letter")
    (dead,) = take(broker_url, "amqptasks.dead", 1)
    assert headers(dead)["x-amqptasks-reason"] == "crashed"


@pytest.mark.parametrize("crashes", [1, 3])
def test_row_86_what_lost_its_process_may_be_retried(
    shared: WorkerProcess, tmp_path: Path, crashes: int
) -> None:
    """`retry_on_worker_lost` runs it again as `retry()` does: after its delay, at most `max_retries` times."""
    path = tmp_path / "runs"

    result = tasks.recovers.delay(str(path), crashes)

    if crashes <= tasks.recovers.max_retries:
        assert result.get(timeout=60) == crashes
        assert runs(path) == ["0", "1"]
    else:
        with pytest.raises(WorkerLost):
            result.get(timeout=60)
        assert runs(path) == ["0", "1", "2"]


def test_rows_87_89_90_a_task_that_never_ends_holds_its_place_until_its_limit_kills_it(
    elsewhere: str, worker: Callable[..., WorkerProcess]
) -> None:
    """One that blocks for ever stops the others in the end; a time limit really kills its process."""
    lone = worker(APP, "-c", "1", "-n", "lone@%h", broker_url=elsewhere)
    before = tasks.pid.delay().get(timeout=60)
    stuck, waiting = tasks.hangs.delay(), tasks.pid.delay()
    lone.wait_log(re.escape(waiting.id))

    with pytest.raises(TimeLimitExceeded):
        stuck.get(timeout=60)

    # The only place was free again when there was another process in it.
    assert waiting.get(timeout=60) != before


def test_row_91_a_long_task_does_not_delay_short_ones_behind_it(
    shared: WorkerProcess, tmp_path: Path
) -> None:
    """`-Ofair`, which is the default here: short calls go to the child that is free, none waits for the long one."""
    path, gate = tmp_path / "runs", tmp_path / "gate"
    long = tasks.early.delay(str(path), str(gate))
    wait_until(lambda: runs(path), 20, "the start")

    pids = {result.get(timeout=60) for result in [tasks.pid.delay() for _ in range(50)]}
    state = long.state
    gate.touch()

    assert state != states.SUCCESS
    assert long.get(timeout=60) not in pids


def test_row_93_long_and_short_tasks_have_workers_of_their_own(
    elsewhere: str, worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    """Routed by their names, long tasks cannot keep short ones waiting, even with a single process."""
    gate, path = tmp_path / "gate", tmp_path / "runs"
    worker(APP, "-c", "1", "-Q", "long", "-n", "slow@%h", broker_url=elsewhere)
    worker(APP, "-c", "1", "-Q", "short", "-n", "quick@%h", broker_url=elsewhere)
    long = tasks.long_wait.delay(str(path), str(gate))
    wait_until(lambda: runs(path), 20, "the start")

    node, queue = tasks.short_answer.delay().get(timeout=60)
    gate.touch()

    assert (node.partition("@")[0], queue) == ("quick", "short")
    assert isinstance(long.get(timeout=60), int)


# --- H. one task a process -----------------------------------------------------------------------------------


def test_rows_152_153_what_a_task_opened_stays_open_in_its_process(shared: WorkerProcess) -> None:
    """Two processes, forty calls: each process has one task, which opened its database once."""
    opened = {tuple(result.get(timeout=60)) for result in [tasks.rows.delay() for _ in range(40)]}

    pids = [pid for pid, _ in opened]
    assert len(set(pids)) == len(pids) <= 2
    assert set(pids) <= set(shared.children())
