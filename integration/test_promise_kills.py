"""Promise 2: what becomes of tasks when a child, the parent or the broker is killed while they run.

Every kill hits a worker that has work in hand; every start and finish is a line in a file. The run in CI is small;
AMQPTASKS_TEST_FAULTS=full kills twenty times of each kind among 10,000 tasks. `-s` shows the figures.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from broker import PrivateNode

from integration.apps.fault_effects import Effects
from integration.support import WorkerProcess, wait_until
from integration.support.calls import answers, call, count, send
from integration.support.clients import holds_nothing
from integration.support.figures import Figures

FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
TASKS = 10_000 if FULL else 1_500
CHILD_KILLS = 40 if FULL else 20
PARENT_KILLS = 20 if FULL else 4
BROKER_KILLS = 20 if FULL else 1
CHILDREN = 4
NODE = "fault@here"
HELD = 4 * CHILDREN
"""Messages that the worker may hold unacknowledged: a fixed prefetch, so that what a kill may double is bounded."""
SECONDS = 0.004
"""How long a task runs."""

pytestmark = pytest.mark.timeout(900)


@dataclass
class Counted(Figures):
    """What was counted over one run; `doubled` counts numbers that started more than once."""

    attempted: int
    confirmed: int
    kills: int
    started: int
    finished: int
    lost: int
    doubled: int
    succeeded: int
    failed: int


class Run:
    """A worker at work on numbered tasks, and what is killed meanwhile."""

    def __init__(
        self, node: PrivateNode, vhost: str, folder: Path, start: Callable[..., WorkerProcess]
    ) -> None:
        self.node = node
        self.url = node.url(vhost)
        self.effects = Effects(folder / "effects")
        self._start = start
        self._kills = 0
        self.worker: WorkerProcess

    def start_worker(self) -> None:
        self.worker = self._start(
            "integration.apps.fault_tasks",
            *("-c", str(CHILDREN), "--prefetch-multiplier", "4", "-n", NODE),
            broker_url=self.url,
            env={"FAULT_EFFECTS": str(self.effects.path)},
            ready=r" ready\.",
        )

    def go(self, task: str, kill: Callable[[], None], kills: int) -> Counted:
        """Run all tasks, spread the kills evenly over their progress, and count."""
        self.start_worker()  # first, because it declares the queue
        send(self.url, [call(f"integration.apps.fault_tasks.{task}", n, SECONDS) for n in range(TASKS)])
        for number in range(kills):
            self._progressed(TASKS * (number + 1) // (kills + 2))
            kill()
            self._kills += 1
        wait_until(
            self._drained, 120, lambda: f"{self.effects.finished} done; {self.worker.log()[-3000:]}", 0.2
        )
        assert self.worker.stop() == 0
        assert count(self.url, "amqptasks") == 0, "what a stopped worker held went back to the queue"
        return self._count()

    def kill_child(self) -> None:
        """One that has started a task and has not finished it."""
        victim = wait_until(self.effects.running, 20, "a running task")[-1]
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{victim.pid}").exists(), 10, "the child's end")

    def kill_parent(self) -> None:
        self.worker.kill()
        self.start_worker()

    def kill_broker(self) -> None:
        self.node.kill()
        self.node.start()

    def _progressed(self, number: int) -> None:
        wait_until(
            lambda: self.effects.finished >= number,
            60,
            lambda: f"{number} finished; {self.worker.log()[-3000:]}",
        )

    def _drained(self) -> bool:
        """Nothing ready on the broker, nothing in the worker's hands, and nothing has happened for a moment."""
        before = len(self.effects.all())
        if count(self.url, "amqptasks") or not holds_nothing(self.url, NODE):
            return False
        quiet_until = time.monotonic() + 0.5
        while time.monotonic() < quiet_until:
            if len(self.effects.all()) != before:
                return False
            time.sleep(0.05)
        return True

    def _count(self) -> Counted:
        starts, ends = self.effects.counts("S"), self.effects.counts("F")
        self.answers = answers(self.url)
        return Counted(
            attempted=TASKS,
            confirmed=TASKS,
            kills=self._kills,
            started=len(starts),
            finished=len(ends),
            lost=TASKS - len(ends),
            doubled=sum(1 for times in starts.values() if times > 1),
            succeeded=len({answer["task_id"] for answer in self.answers if answer["status"] == "SUCCESS"}),
            failed=len({answer["task_id"] for answer in self.answers if answer["status"] == "FAILURE"}),
        )


@pytest.fixture
def run(node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]) -> Run:
    return Run(node, fresh_vhost, tmp_path, worker)


def test_late_tasks_all_finish_though_their_children_are_killed(run: Run) -> None:
    figures = run.go("late", run.kill_child, CHILD_KILLS)

    print(f"late, child: {figures}")
    assert figures.lost == 0
    assert figures.doubled <= figures.kills, "a kill costs the one task that its child ran"
    assert figures.succeeded == TASKS
    assert len(run.answers) == TASKS, "exactly one answer for each"


def test_a_late_task_whose_child_is_killed_is_answered_worker_lost_once_by_default(run: Run) -> None:
    figures = run.go("answered", run.kill_child, CHILD_KILLS)

    print(f"answered, child: {figures}")
    assert len(run.answers) == TASKS, "exactly one answer for each"
    assert figures.doubled == 0
    assert figures.succeeded + figures.failed == TASKS
    assert figures.lost <= figures.failed <= figures.kills
    assert {type(answer["result"]).__name__ for answer in run.answers if answer["status"] == "FAILURE"} == {
        "WorkerLost"
    }


def test_no_early_task_starts_twice_by_a_childs_death(run: Run) -> None:
    figures = run.go("early", run.kill_child, CHILD_KILLS)

    print(f"early, child: {figures}")
    assert figures.doubled == 0
    # A child may be killed after it has said that it starts and before the task's first line is written.
    assert TASKS - figures.kills <= figures.started <= TASKS
    assert figures.finished + figures.failed >= TASKS
    assert figures.succeeded + figures.failed == len(run.answers) == TASKS
    assert figures.lost <= figures.failed <= figures.kills


def test_late_tasks_all_finish_though_the_parent_is_killed(run: Run) -> None:
    figures = run.go("late", run.kill_parent, PARENT_KILLS)

    print(f"late, parent: {figures}")
    assert figures.lost == 0
    assert figures.succeeded == TASKS
    # A task that had finished comes again when the kill came before its result was confirmed and its ack applied.
    assert figures.doubled <= figures.kills * HELD


def test_of_early_tasks_a_killed_parent_loses_those_that_ran_and_doubles_those_in_flight(run: Run) -> None:
    figures = run.go("early", run.kill_parent, PARENT_KILLS)

    print(f"early, parent: {figures}")
    # Acknowledged when started: what a child ran when its parent was killed is gone, as the promise of early says.
    assert figures.lost <= figures.kills * CHILDREN
    assert figures.doubled <= figures.kills * HELD, "at most those whose ack had not been applied"


def test_late_tasks_all_finish_though_the_broker_is_killed(run: Run) -> None:
    figures = run.go("late", run.kill_broker, BROKER_KILLS)

    print(f"late, broker: {figures}")
    assert figures.lost == 0
    assert figures.succeeded == TASKS
    assert figures.doubled == 0, "the worker lived, so it knows what it has started"


def test_early_tasks_all_finish_though_the_broker_is_killed(run: Run) -> None:
    figures = run.go("early", run.kill_broker, BROKER_KILLS)

    print(f"early, broker: {figures}")
    assert figures.lost == 0
    assert figures.doubled == 0, "the worker lived, so it drops what it has started"
