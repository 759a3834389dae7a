"""Thousands of tasks with random delays: none early, none lost, none twice, whatever becomes of broker and queues.

The run in CI is small; AMQPTASKS_TEST_FAULTS=full sends 20,000 with delays of up to a minute. `-s` shows the figures.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles

import pytest
from broker import PrivateNode

from amqptasks import App
from amqptasks.entities import LOST
from integration.apps.delay_tasks import notes
from integration.support import WorkerProcess, wait_until
from integration.support.calls import call, send, take
from integration.support.processes import ROOT

FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
TASKS = 20_000 if FULL else 2_000
LONGEST = 60.0 if FULL else 12.0
"""Seconds of the longest delay."""
APP = "integration.apps.delay_tasks"
GONE = "gone"
FLAT = 16 * 1024
"""KiB by which the parent may grow over the run: what it needs for a full prefetch, whatever is delayed."""

pytestmark = pytest.mark.timeout(1500)


@dataclass
class Figures:
    """What was counted over one run; lateness in milliseconds."""

    sent: int
    ran: int
    twice: int
    early: int
    p50: float
    p99: float
    most: float

    def __str__(self) -> str:
        return " ".join(
            f"{name}={value:.0f}" if isinstance(value, float) else f"{name}={value}"
            for name, value in vars(self).items()
        )


class Load:
    """A client with an app of its own, a worker for two queues, and what they note."""

    def __init__(
        self, node: PrivateNode, vhost: str, folder: Path, start: Callable[..., WorkerProcess]
    ) -> None:
        self.node, self.url, self.path = node, node.url(vhost), folder / "notes"
        self.app = App("load", broker=self.url, set_as_current=False, task_ignore_result=True)
        self._start = start
        self._rng = random.Random(3)
        self.sent: dict[str, int] = {}
        self.due: dict[int, tuple[str, float]] = {}
        self._lost: set[int] = set()
        self.workers: list[WorkerProcess] = []

    def start_worker(self, *queues: str) -> WorkerProcess:
        """One more worker, for these queues."""
        self.workers.append(
            self._start(
                APP,
                *("-c", "4", "-n", f"delay{len(self.workers)}@here", "-Q", ",".join(queues)),
                broker_url=self.url,
                env={"DELAY_NOTES": str(self.path)},
                ready=r" ready\.",
            )
        )
        return self.workers[-1]

    def send(self, count: int, *queues: str, later: float = 0.0) -> None:
        """Send to the queues in turn, each task with a delay of its own, `later` seconds added; all is confirmed when
        this returns.
        """
        first = sum(self.sent.values())
        with self.app.batch():
            for number in range(first, first + count):
                queue = queues[number % len(queues)]
                # What is for the queue to be deleted must not be there before that.
                due = (
                    time.time() + later + self._rng.uniform(LONGEST * 2 / 3 if queue == GONE else 0, LONGEST)
                )
                self.app.send_task(
                    f"{APP}.note", (number, due), queue=queue, eta=datetime.fromtimestamp(due, UTC)
                )
                self.sent[queue] = self.sent.get(queue, 0) + 1
                self.due[number] = queue, due
        self.end = time.time() + later + LONGEST

    def ready(self, queue: str) -> int:
        return self.app.connection.inspect(queue).messages

    def wait(self, ran: int) -> None:
        """Wait until so many numbers have run, each counted once."""
        wait_until(
            lambda: self.ran() >= ran,
            self.patience(),
            lambda: (
                f"{ran} runs; {len(notes(self.path))} now; waiting on the broker: {self._on_ladder()}; "
                f"{self.workers[-1].log()[-3000:]}"
            ),
            0.1,
        )

    def ran(self) -> int:
        """Numbers that ran, each counted once."""
        return len({number for number, _, _ in notes(self.path)})

    def missing(self, numbers: set[int]) -> set[int]:
        """Those that have neither run nor come to the lost."""
        return numbers - {number for number, _, _ in notes(self.path)} - self.lost()

    def lost(self) -> set[int]:
        """The numbers that lay among the lost so far. A copy of one (RabbitMQ's restart may make one) counts once."""
        if self.ready(LOST):
            self._lost.update(json.loads(one.body)[0][0] for one in take(self.url, LOST))
        return self._lost

    def stop(self) -> None:
        """Stop the workers; whatever they held and had not run would be in a queue again."""
        for each in self.workers:
            assert each.stop() == 0, each.log()
        assert self.ready("first") == self.ready("second") == 0

    def figures(self) -> Figures:
        found = notes(self.path)
        late = [1000 * (now - due) for _, due, now in found]
        times = Counter(number for number, _, _ in found)
        cuts = quantiles(late, n=100)
        return Figures(
            sent=sum(self.sent.values()),
            ran=len(times),
            twice=sum(1 for number in times.values() if number > 1),
            early=sum(1 for one in late if one < 0),
            p50=cuts[49],
            p99=cuts[98],
            most=max(late),
        )

    def patience(self) -> float:
        """Until the last is due and RabbitMQ has tried once more: what it has passed on without an answer, because the
        next queue was not up yet, holds its rung for three minutes (dead_letter_worker_publisher_confirm_timeout).
        """
        return max(0.0, self.end - time.time()) + 240

    def _on_ladder(self) -> dict[str, int]:
        """What each rung holds, but for what is just on its way to the next."""
        listed = self.node.ctl(
            "-q", "-p", self.url.rpartition("/")[2], "list_queues", "--no-table-headers", "name", "messages"
        )
        rows = (line.split() for line in listed.splitlines() if line.startswith("amqptasks.delay."))
        return {name: int(messages) for name, messages in rows if messages != "0"}


def resident(worker: WorkerProcess) -> int:
    """KiB that the worker's parent has in memory."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.fixture
def load(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> Iterator[Load]:
    made = Load(node, fresh_vhost, tmp_path, worker)
    yield made
    made.app.close(5)


def restarted(node: PrivateNode) -> None:
    node.stop()
    node.start()


def killed(node: PrivateNode) -> None:
    node.kill()
    node.start()


FAULTS: dict[str, Callable[[PrivateNode], None]] = {"none": lambda node: None, "killed": killed}
if FULL:
    FAULTS["restarted"] = restarted


def cli(load: Load, *words: str) -> str:
    command = [sys.executable, "-m", "amqptasks", "-A", APP, *words]
    env = os.environ | {"AMQPTASKS_BROKER_URL": load.url, "DELAY_NOTES": str(load.path)}
    ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_every_task_runs_once_and_none_early(load: Load, fault: str) -> None:
    """On two queues and one that is deleted while they wait; what was for it lies among the lost."""
    worker = load.start_worker("first", "second")
    before = resident(worker)
    load.send(TASKS, "first", "second", GONE)
    # On a machine where sending took longer than the shortest delay, some had come already.
    taken = load.app.connection.delete_queue(GONE)
    wanted = load.sent["first"] + load.sent["second"]
    load.wait(wanted // 3)
    FAULTS[fault](load.node)

    load.wait(wanted)
    shown = {row["name"]: row["messages"] for row in json.loads(cli(load, "queues", "--json"))}
    gone = {number for number, (queue, _) in load.due.items() if queue == GONE}
    wait_until(
        lambda: len(load.lost() & gone) >= len(gone) - taken,
        load.patience(),
        lambda: f"{len(gone)} but {taken}; lost {len(load.lost())}; on the ladder {load._on_ladder()}",
        0.5,
    )
    assert load.lost() <= gone
    grown = resident(worker) - before
    load.stop()

    found = load.figures()
    print(f"{fault}: {found} lost={len(load.lost())} taken={taken} grown={grown} KiB")
    assert found.early == 0
    assert found.ran == wanted
    assert found.twice == 0
    assert shown["first"] == shown["second"] == 0 < shown[LOST]
    assert grown < FLAT, "nothing that is delayed is in the worker"


def test_a_queue_deleted_midway_takes_nothing_along_but_what_was_in_it(load: Load) -> None:
    """What comes while there is no queue lies among the lost; what comes once a worker has declared it anew, runs."""
    load.start_worker("first")
    load.send(TASKS, "first", "second")
    load.send(TASKS // 10, "second", later=LONGEST * 0.75)
    load.wait(load.sent["first"] // 3)
    taken = load.app.connection.delete_queue("second")
    after = time.time() + 1.0  # the ladder is less than a second early
    load.wait(load.sent["first"] // 2)
    load.start_worker("second")
    declared = time.time() + 1.0
    wanted = {number for number, (queue, due) in load.due.items() if queue == "first" or due > after}
    wait_until(lambda: not load.missing(wanted), load.patience(), lambda: f"{len(load.missing(wanted))}", 0.2)
    ran = {number for number, _, _ in notes(load.path) if load.due[number][0] == "second"}
    load.stop()

    print(f"deleted: sent={load.sent['second']} taken={taken} lost={len(load.lost())} ran={len(ran)}")
    assert taken > 0
    assert load.lost()
    # A machine on which the worker took until the last was due leaves none to ask for.
    for number, (queue, due) in load.due.items():
        assert number in ran or queue == "first" or due <= declared, (
            "the ladder finds the queue declared anew"
        )
    assert load.figures().twice == load.figures().early == 0


@pytest.fixture
def impatient(load: Load) -> Iterator[None]:
    """The broker closes, within half a second, the channel of whoever leaves a message unacknowledged for eight."""
    load.node.eval("application:set_env(rabbit, consumer_timeout, 8000)")
    load.node.eval("application:set_env(rabbit, channel_tick_interval, 500)")
    yield
    load.node.eval("application:set_env(rabbit, consumer_timeout, 1800000)")
    load.node.eval("application:set_env(rabbit, channel_tick_interval, 60000)")


@pytest.mark.usefixtures("impatient")
def test_an_eta_beyond_the_consumer_timeout_holds_up_no_channel(load: Load) -> None:
    """Ours are on the ladder; those of senders without one are put on it when they come."""
    worker = load.start_worker("first", "second")
    due = time.time() + 14.0
    eta = datetime.fromtimestamp(due, UTC)
    load.end = due
    with load.app.batch():
        for number in range(50):
            load.app.send_task(f"{APP}.note", (number, due), queue="first", eta=eta)
    send(
        load.url,
        [call(f"{APP}.note", number, due, queue="second", reply_to="", eta=eta) for number in range(50, 100)],
    )
    wait_until(lambda: load.ready("second") == 0, 14, "the foreign messages on the ladder")

    load.wait(100)
    load.stop()

    found = load.figures()
    print(f"consumer_timeout: {found}")
    assert (found.ran, found.twice, found.early) == (100, 0, 0)
    assert "no longer consuming" not in worker.log()
    assert "connection lost" not in worker.log()
