"""`amqptasks multi` with three nodes: what runs is finished, nothing is lost, no process is left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from broker import PrivateNode

from integration.support import wait_until
from integration.support.calls import call, count, send
from integration.support.processes import ROOT

APP = "integration.apps.multi_tasks"
NAMES = ("w1", "w2", "w3")

pytestmark = pytest.mark.timeout(300)

Multi = Callable[..., subprocess.CompletedProcess[str]]


class Nodes:
    """A folder of pid and log files, the environment that goes with it, and everything that was started in it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.state = folder / "amqptasks"
        self.effects_file = folder / "effects"
        self.url = url
        self._env = os.environ | {
            "XDG_STATE_HOME": str(folder),
            "MULTI_EFFECTS": str(self.effects_file),
            "PYTHONPATH": str(ROOT),
            "SPT_NOENV": "1",
        }

    def __call__(self, command: str, *words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "amqptasks", "multi", command, *words]
        return subprocess.run(
            line, cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=120, check=False
        )

    def start(self, *options: str) -> None:
        done = self("start", *NAMES, "-A", APP, "-b", self.url, "-c", "2", "-l", "INFO", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        self.ready(1)

    def ready(self, times: int) -> None:
        for name in NAMES:
            wait_until(
                lambda name=name: self.log(name).count(" ready.") >= times,
                30,
                lambda name=name: f"{name}: {self.log(name)[-2000:]}",
            )

    def log(self, name: str) -> str:
        path = self.state / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def effects(self, what: str) -> list[str]:
        lines = self.effects_file.read_text().splitlines() if self.effects_file.exists() else []
        return [line.split()[1] for line in lines if line.split()[0] == what]

    def pids(self) -> dict[str, int]:
        return {path.stem: int(path.read_text()) for path in self.state.glob("*.pid")}

    def processes(self) -> list[int]:
        """Every process that has our environment: parents, zygotes, children, beats."""
        mark = f"MULTI_EFFECTS={self.effects_file}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes():
                    found.append(int(path.parent.name))
        return found


@pytest.fixture
def multi(tmp_path: Path, node: PrivateNode, fresh_vhost: str) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, node.url(fresh_vhost))
    yield nodes
    for pid in nodes.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _work(multi: Nodes, tasks: int, seconds: float) -> None:
    send(multi.url, [call("work", number, seconds) for number in range(tasks)])


def test_stopwait_returns_when_all_that_ran_has_finished(multi: Nodes) -> None:
    multi.start()
    _work(multi, 6, 3.0)
    wait_until(lambda: len(multi.effects("S")) == 6, 20, "six running tasks")
    assert len(multi.processes()) >= 12, "parent, zygote and two children of each"
    done = multi("stopwait", *NAMES)

    assert done.returncode == 0, done.stderr
    assert sorted(multi.effects("F")) == [str(number) for number in range(6)]
    assert multi.processes() == []
    assert multi.pids() == {}
    assert multi("stopwait", *NAMES).stdout.count("DOWN") == 3


def test_stop_signals_and_returns_and_what_runs_is_finished(multi: Nodes) -> None:
    multi.start()
    _work(multi, 6, 3.0)
    wait_until(lambda: len(multi.effects("S")) == 6, 20, "six running tasks")
    parents = multi.pids()
    before = time.monotonic()
    done = multi("stop", *NAMES)
    took = time.monotonic() - before

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("SIGTERM") == 3
    assert multi.effects("F") == [], "it did not wait for them"
    print(f"stop took {took:.2f} s, the interpreter's start included")
    wait_until(lambda: multi.processes() == [], 30, "the nodes' end")
    assert len(parents) == 3
    assert len(multi.effects("F")) == 6


def test_a_restart_under_load_loses_no_task_and_leaves_no_process(multi: Nodes) -> None:
    multi.start()
    _work(multi, 60, 0.3)
    wait_until(lambda: len(multi.effects("S")) >= 8, 20, "tasks that run")
    old = multi.pids()
    done = multi("restart", *NAMES, "-A", APP, "-b", multi.url, "-c", "2", "-l", "INFO")
    assert done.returncode == 0, done.stdout + done.stderr
    multi.ready(2)
    new = multi.pids()
    assert set(new) == set(NAMES)
    assert not set(old.values()) & set(new.values())
    wait_until(lambda: len(set(multi.effects("F"))) == 60, 60, "all tasks")

    assert multi("stopwait", *NAMES).returncode == 0
    assert len(multi.effects("F")) == 60, "none ran twice"
    assert count(multi.url, "amqptasks") == 0
    assert multi.processes() == []


def test_kill_leaves_no_process_and_gives_back_what_ran(multi: Nodes) -> None:
    multi.start()
    _work(multi, 6, 60.0)
    wait_until(lambda: len(multi.effects("S")) == 6, 20, "six running tasks")

    assert multi("kill", *NAMES).returncode == 0
    wait_until(lambda: multi.processes() == [], 10, "their end")
    assert multi.pids() == {}
    wait_until(lambda: count(multi.url, "amqptasks") == 6, 20, "the tasks back in the queue")


def test_a_node_is_not_started_twice(multi: Nodes) -> None:
    multi.start()
    again = multi("start", "w1", "-A", APP, "-b", multi.url)

    assert again.returncode == 1
    assert "has the pid file" in again.stderr
    assert len(multi.pids()) == 3


def test_hangup_starts_a_detached_worker_again_under_its_pid(multi: Nodes) -> None:
    multi.start()
    pids = multi.pids()
    assert multi("stop", *NAMES, "-HUP").stdout.count("SIGHUP") == 3
    multi.ready(2)

    assert multi.pids() == pids
    assert multi("stopwait", *NAMES).returncode == 0
    assert multi.processes() == []


def test_an_embedded_beat_leads_runs_and_ends_with_its_worker(multi: Nodes) -> None:
    multi.start("-B")
    wait_until(lambda: len(multi.effects("B")) >= 3, 30, "periodic tasks")
    assert sum("beat: leads" in multi.log(name) for name in NAMES) == 1
    leading = next(name for name in NAMES if "beat: leads" in multi.log(name))
    os.kill(multi.pids()[leading], signal.SIGKILL)
    others = [name for name in NAMES if name != leading]
    wait_until(lambda: any("beat: leads" in multi.log(name) for name in others), 20, "the next to lead")
    assert multi("stopwait", *NAMES).returncode == 0
    wait_until(lambda: multi.processes() == [], 10, "their end")
