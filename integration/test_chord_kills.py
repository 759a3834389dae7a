"""Chords of late-acknowledged tasks while children, workers and the broker are killed at random: each body runs.

The run in CI is small; AMQPTASKS_TEST_FAULTS=full runs 200 chords of 50. `-s` shows the figures.
"""

import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks import chord
from integration.apps.canvas_tasks import app, body, member
from integration.apps.fault_effects import Effects
from integration.support import WorkerProcess, wait_until
from integration.support.calls import count

FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
CHORDS, MEMBERS = (200, 50) if FULL else (30, 20)
CHILD_KILLS, WORKER_KILLS, BROKER_KILLS = (30, 10, 4) if FULL else (6, 2, 1)
SECONDS = 0.005
"""How long a member runs."""
LONGEST = 300.0 if FULL else 120.0

pytestmark = pytest.mark.timeout(900)


class Chords:
    """Two workers at work on chords, and what is killed meanwhile."""

    def __init__(
        self, node: PrivateNode, vhost: str, folder: Path, start: Callable[..., WorkerProcess]
    ) -> None:
        self.node, self.url = node, node.url(vhost)
        self.effects = Effects(folder / "effects")
        self.bodies = folder / "bodies"
        self._start = start
        self.random = random.Random(4)
        self.workers = {name: self._worker(name) for name in ("w1@here", "w2@here")}
        self.kills = 0

    def _worker(self, name: str) -> WorkerProcess:
        return self._start(
            "integration.apps.canvas_tasks",
            *("-c", "2", "--prefetch-multiplier", "4", "-n", name),
            broker_url=self.url,
            env={"FAULT_EFFECTS": str(self.effects.path), "CHORD_BODIES": str(self.bodies)},
            ready=r" ready\.",
        )

    def publish(self) -> None:
        with app:
            for number in range(CHORDS):
                first = number * MEMBERS
                chord(
                    (member.s(first + index, SECONDS) for index in range(MEMBERS)), body.s(number)
                ).apply_async()

    def runs(self) -> dict[int, list[tuple[str, int, int]]]:
        """For each chord its body's runs: id, how many values, their sum."""
        found = defaultdict(list)
        if self.bodies.exists():
            for line in self.bodies.read_text().splitlines():
                number, task_id, values, total = line.split()
                found[int(number)].append((task_id, int(values), int(total)))
        return found

    # --- kills ---------------------------------------------------------------------------------------------

    def kill_child(self) -> None:
        """One that has run members: now it runs another, or counts, or joins."""
        pids = {effect.pid for effect in self.effects.all()[-40:]}
        with suppress(ProcessLookupError):
            os.kill(self.random.choice(sorted(pids)), signal.SIGKILL)
            self.kills += 1

    def kill_worker(self) -> None:
        name = self.random.choice(sorted(self.workers))
        self.workers[name].kill()
        self.kills += 1
        self.workers[name] = self._worker(name)

    def kill_broker(self) -> None:
        self.node.kill()
        self.kills += 1
        self.node.start()


@pytest.fixture
def chords(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> Iterator[Chords]:
    before = app.conf.broker_url
    app.conf.broker_url = node.url(fresh_vhost)
    yield Chords(node, fresh_vhost, tmp_path, worker)
    app.close()
    app.conf.broker_url = before


def test_every_chord_s_body_runs_whatever_is_killed(chords: Chords) -> None:
    chords.publish()
    # See test_promise_kills: RabbitMQ 3.10 forgets quorum queues that were declared just before a crash.
    chords.node.eval("[dets:sync(Table) || Table <- dets:all()]")
    kills = (
        [chords.kill_child] * CHILD_KILLS
        + [chords.kill_worker] * WORKER_KILLS
        + [chords.kill_broker] * BROKER_KILLS
    )
    chords.random.shuffle(kills)
    total = CHORDS * MEMBERS
    for number, kill in enumerate(kills, 1):
        least = total * number // (len(kills) + 1)
        wait_until(lambda least=least: chords.effects.finished >= least, 120, f"{least} members")
        kill()
    last_kill = time.monotonic()

    wait_until(
        lambda: len(chords.runs()) == CHORDS,
        LONGEST,
        lambda: (
            f"{len(chords.runs())} of {CHORDS} bodies; waiting: {count(chords.url, 'amqptasks')}, "
            f"internal {count(chords.url, 'amqptasks.internal')}; "
            + "".join(worker.log()[-3000:] for worker in chords.workers.values())
        ),
        0.2,
    )
    recovered = time.monotonic() - last_kill
    runs = chords.runs()
    doubles = sum(len(each) - 1 for each in runs.values())
    twice = Counter(len(each) for each in runs.values())
    print(
        f"chords={CHORDS} members={total} kills={chords.kills} bodies run={sum(map(len, runs.values()))} "
        f"runs a chord={dict(twice)} all run {recovered:.1f} s after the last kill"
    )
    for number, each in runs.items():
        first = number * MEMBERS
        assert {(values, whole) for _, values, whole in each} == {
            (MEMBERS, sum(range(first, first + MEMBERS)))
        }, "each body has every member's value, once"
        assert len({task_id for task_id, _, _ in each}) == 1, "a body that runs again is the same call"
    assert doubles <= chords.kills
