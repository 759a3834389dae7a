"""Tasks that fail twice before they succeed, while children, worker and broker are killed at random.

A retry is part of its run's outcome: published and confirmed before the ack. So a kill may cost further runs, but
never a task. The run in CI is small; AMQPTASKS_TEST_FAULTS=full has 1,000 tasks. `-s` shows the figures.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks import delay
from integration.apps.fault_effects import Effect, Effects
from integration.support import WorkerProcess, wait_until
from integration.support.calls import answers, call, count, send
from integration.support.clients import holds_nothing
from integration.support.figures import Figures

APP = "integration.apps.retry_tasks"
FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
TASKS = 1_000 if FULL else 150
KILLS = {"child": 30, "worker": 8, "broker": 4} if FULL else {"child": 6, "worker": 2, "broker": 1}
CHILDREN = 4
NODE = "storm@here"
HELD = 4 * CHILDREN
"""Messages that the worker may hold unacknowledged."""
SECONDS = 0.05
"""How long an attempt runs: long enough to be hit."""
SEED = int(os.environ.get("AMQPTASKS_TEST_SEED", "11"))
STARTS, ENDS = "012", "abc"

pytestmark = pytest.mark.timeout(900)


@dataclass
class Counted(Figures):
    """Runs of attempts. `extra` is what the kills cost over three runs a task: `interrupted` runs had not ended when
    their process was killed, `repeated` ones had, but their outcome or its ack had not arrived, or an attempt
    before had been repeated, and each of its runs led to the next.
    """

    tasks: int
    kills: int
    runs: int
    extra: int
    interrupted: int
    repeated: int
    succeeded: int
    lost: int


class Storm:
    """A worker at work on tasks that fail twice, and what is killed meanwhile."""

    def __init__(
        self, node: PrivateNode, vhost: str, folder: Path, start: Callable[..., WorkerProcess]
    ) -> None:
        self.node, self.url = node, node.url(vhost)
        self.effects = Effects(folder / "effects")
        self._start = start
        self.worker: WorkerProcess

    def start_worker(self) -> None:
        self.worker = self._start(
            APP,
            *("-c", str(CHILDREN), "--prefetch-multiplier", "4", "-n", NODE),
            broker_url=self.url,
            env={"FAULT_EFFECTS": str(self.effects.path)},
            ready=r" ready\.",
        )

    def send(self, numbers: range) -> None:
        """A third of the retries come back at once, the others over two rungs of the ladder."""
        send(self.url, [call(f"{APP}.third_time", n, SECONDS, n % 3) for n in numbers])

    def declare_topology(self) -> None:
        """Have every queue in use declared before the first kill: what is declared after `kill` has settled the node,
        and before it is dead, RabbitMQ 3.10 forgets. Not ours to prove.
        """
        early = range(TASKS, TASKS + 2 * CHILDREN)
        self.send(early)
        wait_until(lambda: set(early) <= self.done(), 60, "the first tasks")

    def done(self) -> set[int]:
        return set(self.effects.counts("c"))

    def ended(self) -> int:
        return sum(1 for effect in self.effects.all() if effect.kind in ENDS)

    def kill_child(self) -> None:
        """One that runs an attempt."""
        victim = wait_until(lambda: _running(self.effects.all()), 30, "a running attempt")[-1]
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{victim.pid}").exists(), 10, "the child's end")

    def kill_worker(self) -> None:
        self.worker.kill()
        self.start_worker()

    def kill_broker(self) -> None:
        self.node.kill()
        self.node.start()

    def go(self, rng: random.Random) -> Counted:
        self.start_worker()
        self.declare_topology()
        self.send(range(TASKS))
        kills = [kind for kind, times in KILLS.items() for _ in range(times)]
        rng.shuffle(kills)
        before = self.ended()
        for number, kind in enumerate(kills):
            # Spread over the progress of all attempts, but the last: there is work in hand at every kill.
            goal = before + TASKS * 3 * (number + rng.random()) / (len(kills) + 1)
            wait_until(lambda goal=goal: self.ended() >= goal, 120, lambda: self.worker.log()[-3000:])
            getattr(self, f"kill_{kind}")()
        wait_until(
            lambda: len(self.done()) == TASKS + 2 * CHILDREN,
            180,
            lambda: f"{len(self.done())} done; {self.worker.log()[-3000:]}",
        )
        wait_until(self._quiet, 60, "nothing in flight")
        assert self.worker.stop() == 0
        return self._count(len(kills))

    def _quiet(self) -> bool:
        """Nothing waits on the ladder, in the queue or in the worker, and nothing has happened for a moment: also those
        attempts that a kill had doubled have ended."""
        before = len(self.effects.all())
        held = [f"{delay.PREFIX}.0.{digit}" for digit in (1, 2)]
        if any(count(self.url, queue) for queue in (*held, "amqptasks")) or not holds_nothing(self.url, NODE):
            return False
        quiet_until = time.monotonic() + 1.0
        while time.monotonic() < quiet_until:
            if len(self.effects.all()) != before:
                return False
            time.sleep(0.05)
        return True

    def _count(self, kills: int) -> Counted:
        starts = Counter((e.number, STARTS.index(e.kind)) for e in self.effects.all() if e.kind in STARTS)
        ends = Counter((e.number, ENDS.index(e.kind)) for e in self.effects.all() if e.kind in ENDS)
        self.answers = answers(self.url)
        good = {answer["task_id"] for answer in self.answers if answer["status"] == "SUCCESS"}
        every = TASKS + 2 * CHILDREN
        return Counted(
            tasks=every,
            kills=kills,
            runs=starts.total(),
            extra=starts.total() - 3 * every,
            interrupted=starts.total() - ends.total(),
            repeated=ends.total() - 3 * every,
            succeeded=len(good),
            lost=every - len(self.done()),
        )


def _running(effects: list[Effect]) -> list[Effect]:
    """The attempts that a living process has started and not ended, latest last."""
    open_: dict[int, Effect] = {}
    for effect in effects:
        if effect.kind in STARTS:
            open_[effect.pid] = effect
        else:
            open_.pop(effect.pid, None)
    return [effect for effect in open_.values() if Path(f"/proc/{effect.pid}").exists()]


@pytest.fixture
def storm(node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]) -> Storm:
    return Storm(node, fresh_vhost, tmp_path, worker)


def test_every_task_that_fails_twice_succeeds_whatever_is_killed(storm: Storm) -> None:
    figures = storm.go(random.Random(SEED))

    print(f"retries, kills of {KILLS}: {figures}")
    assert figures.lost == 0
    assert figures.succeeded == figures.tasks
    assert {answer["status"] for answer in storm.answers} <= {"SUCCESS", "RETRY"}, "nobody is told of a kill"
    assert count(storm.url, "amqptasks.dead") == count(storm.url, delay.LOST) == 0
    # A child's death cuts its own run short, a worker's those of all its children, a broker's none.
    assert figures.interrupted <= KILLS["child"] + KILLS["worker"] * CHILDREN
    # What had ended but was not acknowledged may be repeated, and each repetition leads to all the attempts after it.
    assert figures.repeated <= (KILLS["worker"] + KILLS["broker"]) * HELD * 3
    assert figures.extra == figures.interrupted + figures.repeated


def test_what_ends_while_the_broker_is_down_goes_on_when_it_is_back(storm: Storm, tmp_path: Path) -> None:
    """No child has declared anything yet: neither the ladder for the retry, nor the queue of the chain's next step."""
    gate = tmp_path / "gate"
    step = {
        "task": "elsewhere.step", "args": [], "kwargs": {}, "options": {"queue": "elsewhere"},
        "subtask_type": None, "immutable": False,
    }  # fmt: skip
    storm.start_worker()
    send(
        storm.url,
        [
            call(f"{APP}.ends_when_told", 1, str(gate), True, task_id="retried"),
            call(f"{APP}.ends_when_told", 2, str(gate), False, task_id="chained", chain=[step]),
        ],
    )
    wait_until(lambda: len(_running(storm.effects.all())) == 2, 20, "both run")

    storm.node.kill()
    gate.touch()
    wait_until(lambda: storm.ended() == 2, 20, "both have ended")
    storm.node.start()

    wait_until(
        lambda: storm.effects.counts("b")[1] == 1, 60, lambda: f"the retry; {storm.worker.log()[-3000:]}"
    )
    told = answers(storm.url, 3)
    assert storm.worker.stop() == 0
    assert sorted((answer["task_id"], answer["status"]) for answer in told) == [
        ("chained", "SUCCESS"),
        ("retried", "RETRY"),
        ("retried", "SUCCESS"),
    ]
    assert count(storm.url, "elsewhere") == 1
    assert count(storm.url, "amqptasks.dead") == 0
