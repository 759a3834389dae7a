"""`amqptasks multi` with three nodes: what runs is finished, nothing is lost, no process is left."""

import grp
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from broker import PrivateNode

from amqptasks import App
from integration.support import wait_until
from integration.support.calls import call, count, send
from integration.support.processes import ROOT

APP = "integration.apps.multi_tasks"
NAMES = ("w1", "w2", "w3")

pytestmark = pytest.mark.timeout(300)


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
        return self.run("multi", command, *words)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "amqptasks", *words]
        return subprocess.run(
            line, cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=120, check=False
        )

    def start(self, *options: str) -> None:
        done = self("start", *NAMES, "-A", APP, "-b", self.url, "-c", "2", "-l", "INFO", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        self.ready(1)

    def ask(self, what: str) -> dict[str, Any]:
        """What the three nodes answer to `inspect`."""
        with App("asking", broker=self.url, set_as_current=False) as app:
            answers = getattr(app.control.inspect(timeout=60.0, limit=3), what)() or {}
        assert len(answers) == 3, answers
        return dict(answers)

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

    def assert_gone(self) -> None:
        """The parents have ended: what they had killed ends, too."""
        wait_until(lambda: self.processes() == [], 5, lambda: f"their end; {self.processes()}")

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
    wait_until(lambda: len(multi.processes()) >= 12, 10, "parent, zygote and two children of each")
    done = multi("stopwait", *NAMES)

    assert done.returncode == 0, done.stderr
    assert sorted(multi.effects("F")) == [str(number) for number in range(6)]
    multi.assert_gone()
    assert multi.pids() == {}
    assert multi("stopwait", *NAMES).stdout.count("DOWN") == 3


def test_stop_signals_and_returns_and_what_runs_is_finished(multi: Nodes, tmp_path: Path) -> None:
    multi.start()
    go = tmp_path / "go"
    send(multi.url, [call("held", number, str(go)) for number in range(6)])
    wait_until(lambda: len(multi.effects("S")) == 6, 20, "six running tasks")
    parents = multi.pids()
    before = time.monotonic()
    done = multi("stop", *NAMES)
    took = time.monotonic() - before

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("SIGTERM") == 3
    assert multi.effects("F") == [], "it did not wait for them"
    print(f"stop took {took:.2f} s, the interpreter's start included")
    go.touch()
    wait_until(lambda: multi.processes() == [], 30, "the nodes' end")
    assert len(parents) == 3
    assert len(multi.effects("F")) == 6


def test_nodes_have_their_own_options_queues_and_files(multi: Nodes, tmp_path: Path) -> None:
    """By name and by range; `stop_verify` is `stopwait`; a template names a file of each."""
    host = "here.example.org"
    own = (
        "short", "long", "third", f"--hostname={host}", "-A", APP, "-b", multi.url, "-l", "INFO", "-c", "3",
        "-c:1-2", "1", "-Q:long", "long", f"--pidfile={tmp_path}/run/%n-%d.pid",
        f"--logfile={tmp_path}/log/%p-%h%I.log",
    )  # fmt: skip
    names = [f"{name}@{host}" for name in ("short", "long", "third")]
    started = multi("start", *own)
    assert started.returncode == 0, started.stdout + started.stderr
    logs = {name: tmp_path / "log" / f"{name}-{host}.log" for name in names}
    for name, log in logs.items():
        wait_until(lambda name=name, log=log: log.exists() and f"{name} ready." in log.read_text(), 30, name)

    pids = {name: tmp_path / "run" / f"{name.partition('@')[0]}-example.org.pid" for name in names}
    asked = multi.ask("stats")
    assert {name: answer["pool"]["max-concurrency"] for name, answer in asked.items()} == {
        names[0]: 1, names[1]: 1, names[2]: 3,
    }  # fmt: skip
    assert {name: answer["pid"] for name, answer in asked.items()} == {
        name: int(path.read_text()) for name, path in pids.items()
    }
    queues = {name: [queue["name"] for queue in found] for name, found in multi.ask("active_queues").items()}
    assert queues == {names[0]: ["amqptasks"], names[1]: ["long"], names[2]: ["amqptasks"]}

    assert multi("expand", f"{tmp_path}/run/%n-%d.pid", *own).stdout.split() == [
        str(path) for path in pids.values()
    ]
    assert multi("stop_verify", *own).returncode == 0
    multi.assert_gone()
    assert not any(path.exists() for path in pids.values())


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
    multi.assert_gone()


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
    multi.assert_gone()


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


@pytest.mark.parametrize("user", ["nobody", None])
def test_a_detached_worker_has_the_user_the_group_and_the_files_that_were_said(
    node: PrivateNode, fresh_vhost: str, user: str | None
) -> None:
    """As any user what needs no other one: group and files alone."""
    account = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    group = grp.getgrgid(account.pw_gid).gr_name
    if user and (why := _cannot_become(user)):
        pytest.skip(why)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        nodes = Nodes(folder, node.url(fresh_vhost))
        nodes.effects_file.touch()
        nodes.effects_file.chmod(0o666)
        whose = (account.pw_uid, account.pw_gid)
        try:
            _check_a_detached_worker(nodes, folder, ["--uid", user] if user else [], group, whose)
        finally:
            for pid in nodes.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _check_a_detached_worker(
    nodes: Nodes, folder: Path, become: list[str], group: str, whose: tuple[int, int]
) -> None:
    options = ("--pidfile", f"{folder}/run/%n.pid", "--logfile", f"{folder}/log/%n%I.log", "-n", "w1@here")
    line = ("-A", APP, "-b", nodes.url, "worker", "--detach", *options, *become, "--gid", group, "-c", "1")
    done = nodes.run(*line, "-l", "INFO")
    assert done.returncode == 0, done.stdout + done.stderr
    log, pid_file = folder / "log" / "w1.log", folder / "run" / "w1.pid"
    wait_until(lambda: log.exists() and "w1@here ready." in log.read_text(), 30, lambda: done.stdout)
    _work(nodes, 1, 0.0)
    wait_until(lambda: nodes.effects("F") == ["0"], 30, log.read_text)

    assert int(pid_file.read_text()) in nodes.processes()
    assert len(nodes.processes()) >= 3, "parent, zygote, child"
    for pid in nodes.processes():
        assert _ids(pid) == whose
    for path in (folder / "run", folder / "log", log, pid_file):
        assert (path.stat().st_uid, path.stat().st_gid) == whose, path

    os.kill(int(pid_file.read_text()), signal.SIGTERM)
    wait_until(lambda: nodes.processes() == [], 30, log.read_text)
    assert not pid_file.exists()


def _ids(pid: int) -> tuple[int, int]:
    """The user and the group that a process acts as."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.partition(":")[0]: line.split()[2] for line in lines if line.startswith(("Uid:", "Gid:"))}
    return int(found["Uid"]), int(found["Gid"])


def _cannot_become(user: str) -> str:
    """Why no worker can run as this user here; empty when it can."""
    if os.geteuid() != 0:
        return "only root may start a process as another user: run the tests as root"
    line = [sys.executable, "-c", "import amqptasks.worker.worker"]
    try:
        done = subprocess.run(line, user=user, extra_groups=[], cwd=ROOT, capture_output=True, check=False)
    except PermissionError:
        return f"the interpreter {sys.executable} lies where the user {user} cannot run it"
    return "" if done.returncode == 0 else f"the user {user} cannot read this checkout or its libraries"
