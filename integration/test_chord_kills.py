"""Chords of late-acknowledged tasks while children, workers and the broker are killed at random: each body runs.

The run in CI is small; AMQPTASKS_TEST_FAULTS=full runs 200 chords of 50. `-s` shows the figures: bodies that joins
published, those that workers dropped as doubles, and runs, each counted where it happens.
"""

import os
import random
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks import chord
from amqptasks.amqp import Binding, Queue
from amqptasks.transport.codec import decode_header
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

DROPPED = re.compile(r"\('([-0-9a-f]{36})'.*(?:ran here before|not run twice)")
COPIES = "copies"
"""The queue that has a copy of each call that was published."""

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
        self.started: list[WorkerProcess] = []
        self.workers = {name: self._worker(name) for name in ("w1@here", "w2@here")}
        self.kills = 0

    def _worker(self, name: str) -> WorkerProcess:
        process = self._start(
            "integration.apps.canvas_tasks",
            *("-c", "2", "--prefetch-multiplier", "4", "-n", name, "-l", "info"),
            broker_url=self.url,
            env={"FAULT_EFFECTS": str(self.effects.path), "CHORD_BODIES": str(self.bodies)},
            ready=r" ready\.",
        )
        self.started.append(process)
        return process

    def publish(self) -> None:
        with app:
            app.connection.declare(
                Queue(COPIES, arguments={"x-queue-type": "classic"}),
                Binding("amqptasks", COPIES, "amqptasks"),
            )
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

    def published(self) -> Counter[str]:
        """How often each body was published, by its id."""
        ids: Counter[str] = Counter()
        with app:
            while (delivery := app.connection.get(COPIES)) is not None:
                headers = decode_header(delivery.header).headers or {}
                if headers["task"] == body.name:
                    ids[headers["id"]] += 1
        return ids

    def dropped(self, ids: Collection[str]) -> int:
        """How many doubles of bodies workers took and did not run."""
        lines = (line for process in self.started for line in process.log().splitlines())
        found = (DROPPED.search(line) for line in lines)
        return sum(match is not None and match[1] in ids for match in found)

    def log(self) -> str:
        return "".join(f"--- {process}\n{process.log()[-4000:]}" for process in self.started)

    # --- kills ---------------------------------------------------------------------------------------------

    def kill_child(self) -> None:
        """One that has run members: now it runs another, or counts, or joins."""
        # Of those that live: the number of a dead one may be somebody else's by now.
        ours = {pid for process in self.workers.values() for pid in process.children()}
        pids = {effect.pid for effect in self.effects.all()[-40:]} & ours
        if pids:
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
    kills = (
        [chords.kill_child] * CHILD_KILLS
        + [chords.kill_worker] * WORKER_KILLS
        + [chords.kill_broker] * BROKER_KILLS
    )
    chords.random.shuffle(kills)
    total, recovered = CHORDS * MEMBERS, defaultdict[str, float](float)
    for number, kill in enumerate(kills, 1):
        least = total * number // (len(kills) + 1)
        wait_until(lambda least=least: chords.effects.finished >= least, 120, chords.log)
        before, began = chords.effects.finished, time.monotonic()
        kill()
        wait_until(lambda before=before: chords.effects.finished > min(before, total - 1), 120, chords.log)
        recovered[kill.__name__] = max(recovered[kill.__name__], time.monotonic() - began)
    last = time.monotonic()

    wait_until(
        lambda: len(chords.runs()) == CHORDS,
        LONGEST,
        lambda: (
            f"{len(chords.runs())} of {CHORDS} bodies; waiting: {count(chords.url, 'amqptasks')}, "
            f"internal {count(chords.url, 'amqptasks.internal')}; " + chords.log()
        ),
        0.2,
    )
    ended = time.monotonic() - last
    runs, published = chords.runs(), chords.published()
    twice, run = sum(published.values()) - len(published), sum(map(len, runs.values()))
    times = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in recovered.items())
    print(
        f"chords={CHORDS} members={total} kills={chords.kills} bodies: published={sum(published.values())} "
        f"dropped={chords.dropped(published)} run={run}; until the next task ended, at most: {times}; "
        f"all bodies had run {ended:.1f} s after the last kill"
    )
    for number, each in runs.items():
        first = number * MEMBERS
        assert {(values, whole) for _, values, whole in each} == {
            (MEMBERS, sum(range(first, first + MEMBERS)))
        }, "each body has every member's value, once"
        assert len({task_id for task_id, _, _ in each}) == 1, "a body that runs again is the same call"
    assert set(published) == {task_id for each in runs.values() for task_id, _, _ in each}
    assert twice <= chords.kills, "a join publishes its body again only when it was cut short"
    assert run - CHORDS <= chords.kills
