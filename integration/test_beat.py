"""Beats that are killed while they send: every due run is admitted once, and none is skipped.

The run in CI is small; AMQPTASKS_TEST_FAULTS=full has more than 10,000 due runs and twenty kills inside bursts. `-s` shows the
figures.
"""

import json
import os
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks.beat.sending import UNDER_WAY
from integration.support import WorkerProcess, wait_until
from integration.support.beats import APP, Start, beat, effects, leader, schedule
from integration.support.calls import count

FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
INSIDE = 20 if FULL else 2
"""Kills that must hit a burst when a part of it is sent."""
ENTRIES = 1_000 if FULL else 400
EVERY = 4.0 if FULL else 3.0
__all__ = ["beat"]

pytestmark = pytest.mark.timeout(600)


def test_each_due_run_is_admitted_once_though_leaders_are_killed_inside_bursts(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path, beat: Start, worker: Callable[..., WorkerProcess]
) -> None:
    url = node.url(fresh_vhost)
    env = {"BEAT_EFFECTS": str(tmp_path / "effects"), "BEAT_ENTRIES": str(ENTRIES)}
    working = worker(APP, "-c", "2", "-l", "INFO", broker_url=url, env=env, ready=r" ready\.")
    beats = [beat(entries=ENTRIES, every=EVERY) for _ in range(3)]
    slowest, inside, kills = 0.0, 0, 0
    delay = 0.01
    wait_until(lambda: len(effects(tmp_path)) >= ENTRIES, 60, "the first burst")
    while inside < INSIDE and kills < 8 * INSIDE + 20:  # when the machine lets us kill is luck
        victim = wait_until(lambda: leader(beats), 30, "a leader")
        _wait_for_burst(tmp_path, _next_burst(tmp_path))
        time.sleep(delay)
        os.kill(victim.pid, signal.SIGKILL)
        kills, killed = kills + 1, time.monotonic()
        beats.remove(victim)
        following = wait_until(lambda: leader(beats), 30, "the next leader", 0.01)
        slowest = max(slowest, time.monotonic() - killed)
        left = int(re.findall(r"(\d+) due already", following.log())[-1])
        inside += 0 < left < ENTRIES
        # Earlier next time when all of it was sent, later when nothing was: how long a burst takes, the machine says.
        delay *= 1.5 if left == ENTRIES else 0.7 if left == 0 else 1.03
        print(f"kill {kills}: {left} of {ENTRIES} were left to {following.pid}")
        beats.append(beat(entries=ENTRIES, every=EVERY))
    done = len(effects(tmp_path))
    wait_until(lambda: len(effects(tmp_path)) >= done + 2 * ENTRIES, 60, "two more bursts", 0.1)
    for each in beats:
        each.stop()
    wait_until(lambda: count(url, "amqptasks") == 0, 60, "an empty queue")
    assert working.stop() == 0
    runs = effects(tmp_path)
    admitted = Counter((entry, due) for _, entry, due in runs)
    dropped = len(re.findall(r"dropped a redelivery of|came again and is not run twice", working.log()))
    received = len(re.findall(r"tick\[.*received", working.log()))
    print(
        f"due={len(admitted)} kills={kills} inside_bursts={inside} admitted_twice={sum(n > 1 for n in admitted.values())} "
        f"published={received + dropped} doubles_dropped={dropped} slowest_handover={slowest:.1f} s"
    )
    assert inside >= INSIDE
    assert dropped <= kills * 2 * UNDER_WAY, "what was noted is not sent again"
    assert not [run for run, times in admitted.items() if times > 1]
    assert len({task for task, _, _ in runs}) == len(admitted), "each due run has an id of its own"
    assert _gaps(runs) == []


def _next_burst(folder: Path) -> datetime:
    """The next due time that all entries share, a moment ahead."""
    due = max(due for _, _, due in effects(folder))
    soon = datetime.now(UTC) + timedelta(seconds=0.05)
    while due < soon:
        due += timedelta(seconds=EVERY)
    return due


def _wait_for_burst(folder: Path, due: datetime) -> None:
    """Return when a part of it was sent: the first of its runs is there."""
    path = folder / "effects"
    known = path.stat().st_size

    def begun() -> bool:
        with path.open("rb") as file:
            file.seek(known)
            return any(datetime.fromisoformat(line.split()[2].decode()) >= due for line in file)

    wait_until(begun, 30, "the next burst", 0.001)


def _gaps(runs: list[tuple[str, str, datetime]]) -> list[tuple[str, datetime, datetime]]:
    """Where an entry's due times are further apart than its interval: something was skipped."""
    dues: dict[str, set[datetime]] = defaultdict(set)
    for _, entry, due in runs:
        dues[entry].add(due)
    assert len(dues) == ENTRIES
    return [
        (entry, earlier, later)
        for entry, times in dues.items()
        for earlier, later in pairwise(sorted(times))
        if later - earlier != timedelta(seconds=EVERY)
    ]


def test_a_restarted_beat_goes_on_where_it_stopped(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path, beat: Start, worker: Callable[..., WorkerProcess]
) -> None:
    env = {"BEAT_EFFECTS": str(tmp_path / "effects"), "BEAT_ENTRIES": "3", "BEAT_EVERY": "1"}
    worker(APP, "-c", "1", broker_url=node.url(fresh_vhost), env=env, ready=r" ready\.")
    for _ in range(2):
        one = beat(entries=3, every=1)
        done = len(effects(tmp_path))
        wait_until(lambda done=done: len(effects(tmp_path)) >= done + 6, 30, "six runs")
        assert one.stop() == 0
    dues = sorted({due for _, entry, due in effects(tmp_path) if entry == "e0"})

    assert {later - earlier for earlier, later in pairwise(dues)} == {timedelta(seconds=1)}
    assert max(Counter((entry, due) for _, entry, due in effects(tmp_path)).values()) == 1


def test_a_beat_goes_on_after_the_brokers_restart(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path, beat: Start, worker: Callable[..., WorkerProcess]
) -> None:
    env = {"BEAT_EFFECTS": str(tmp_path / "effects"), "BEAT_ENTRIES": "3", "BEAT_EVERY": "1"}
    worker(APP, "-c", "1", broker_url=node.url(fresh_vhost), env=env, ready=r" ready\.")
    beat(entries=3, every=1)
    wait_until(lambda: len(effects(tmp_path)) >= 3, 30, "runs")
    node.kill()
    node.start()
    done = len(effects(tmp_path))
    wait_until(lambda: len(effects(tmp_path)) >= done + 9, 60, "runs after the restart")
    dues = sorted({due for _, entry, due in effects(tmp_path) if entry == "e0"})

    assert {later - earlier for earlier, later in pairwise(dues)} == {timedelta(seconds=1)}
    assert max(Counter((entry, due) for _, entry, due in effects(tmp_path)).values()) == 1


def test_the_schedule_is_changed_while_beat_runs_and_stays_so(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path, beat: Start, worker: Callable[..., WorkerProcess]
) -> None:
    url = node.url(fresh_vhost)
    env = {"BEAT_EFFECTS": str(tmp_path / "effects"), "BEAT_ENTRIES": "2", "BEAT_EVERY": "3600"}
    assert schedule(url, "list", patience=5.0).returncode == 69
    worker(APP, "-c", "1", broker_url=url, env=env, ready=r" ready\.")
    first = beat(entries=2, every=3600)
    first.wait_log("beat: leads")
    line = ["add", "fast", f"{APP}.tick", "--every", "1", "-a", '["fast"]']
    assert schedule(url, *line).returncode == 0
    wait_until(lambda: [e for _, e, _ in effects(tmp_path) if e == "fast"], 20, "a run of what was added")
    assert schedule(url, "pause", "e0").stdout.strip() == "pause: e0"
    assert schedule(url, "remove", "e0").returncode == 1
    assert "there is no entry 'none'" in schedule(url, "pause", "none").stderr
    os.kill(first.pid, signal.SIGKILL)
    beat(entries=2, every=3600).wait_log("beat: leads")

    rows = {row["name"]: row for row in json.loads(schedule(url, "list", "--json").stdout)}
    assert {name: (row["paused"], row["added"]) for name, row in rows.items()} == {
        "e0": (True, False),
        "e1": (False, False),
        "fast": (False, True),
    }
    assert schedule(url, "remove", "fast").returncode == 0
    ran = schedule(url, "run", "e1", "--json")
    task = json.loads(ran.stdout)["id"]
    wait_until(lambda: task in (tmp_path / "effects").read_text(), 20, "the run that was wanted")
    assert [row["name"] for row in json.loads(schedule(url, "list", "--json").stdout)] == ["e0", "e1"]
