"""The command line against a broker: the first five minutes, and the mistakes that only a broker can answer."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TASKS = """
from amqptasks import App, Queue

app = App("shop", task_queues=[Queue("short"), Queue("long")], task_default_queue="short")


@app.task
def add(x, y):
    return x + y


@app.task
def fail():
    raise LookupError("no such thing")
"""

SCRIPT = """
from amqptasks import App

app = App({name})


@app.task
def add(x, y):
    return x + y


if __name__ == "__main__":
    app.worker_main(["-l", "INFO", "-c", "1"])
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(TASKS)
    return tmp_path


@pytest.fixture
def cli(folder: Path, node, fresh_vhost):
    """`cli("queues")` runs it in a folder with tasks.py, on a vhost of this test."""

    def run(*words: str, broker: str | None = None) -> Ran:
        url = broker or node.url(fresh_vhost)
        ran = subprocess.run(
            [sys.executable, "-m", "amqptasks", *words],
            cwd=folder,
            env=os.environ | {"AMQPTASKS_APP": "tasks", "AMQPTASKS_BROKER": url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    return run


def test_the_first_five_minutes(cli, worker, folder, node, fresh_vhost) -> None:
    started = worker("tasks", "-c", "1", "-n", "w1@%h", broker_url=node.url(fresh_vhost), cwd=folder)

    result = cli("call", "tasks.add", "2", "3", "--wait")
    failure = cli("call", "tasks.fail", "--wait", "--timeout", "30")
    rows = {row["name"]: row for row in json.loads(cli("queues", "--json").out)}
    code = started.stop()

    assert (result.code, result.out) == (0, "5\n")
    assert failure.code == 1
    assert "raised LookupError: no such thing; see its traceback by --traceback" in failure.err
    assert (rows["short"]["consumers"], rows["short"]["messages"]) == (1, 0)
    assert code == 0
    log = started.log()
    assert ".> short exchange=amqptasks(direct) key=short" in log
    assert "  . tasks.add" in log
    assert "w1@" in log
    assert ":guest@" not in log


def test_ready_is_said_once_it_consumes(cli, worker, folder, node, fresh_vhost) -> None:
    worker("tasks", "-c", "1", "-Q", "long", broker_url=node.url(fresh_vhost), cwd=folder)

    rows = {row["name"]: row for row in json.loads(cli("queues", "--json").out)}

    assert rows["long"]["consumers"] == 1
    assert rows["short"]["consumers"] is None


@pytest.mark.parametrize(("name", "task"), [("", "__main__.add"), ("'tasks'", "tasks.add")])
def test_a_script_that_ends_in_worker_main_is_a_worker(cli, folder, node, fresh_vhost, name, task) -> None:
    (folder / "run.py").write_text(SCRIPT.format(name=name))
    script = subprocess.Popen(
        [sys.executable, "run.py"],
        cwd=folder,
        env=os.environ | {"AMQPTASKS_BROKER_URL": node.url(fresh_vhost)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert script.stderr is not None
        for line in script.stderr:
            if " ready" in line:
                break
        ran = cli("call", task, "2", "3", "--wait", "--by-name", "--queue", "amqptasks", "--timeout", "30")
    finally:
        script.send_signal(signal.SIGTERM)
        script.communicate(timeout=60)

    assert (ran.code, ran.out) == (0, "5\n")
    assert script.returncode == 0


@pytest.mark.parametrize(
    "command", [("worker",), ("queues",), ("call", "tasks.add", "1", "2"), ("dead", "list")], ids=" ".join
)
def test_a_missing_vhost_is_named_with_the_cure(cli, node, command) -> None:
    ran = cli(*command, broker=node.url("absent"))

    assert ran.code == 78
    assert ran.err.strip().splitlines()[-1].startswith("error: ")
    assert "rabbitmqctl add_vhost absent" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", [("worker",), ("queues",), ("dead", "replay", "--all")], ids=" ".join)
def test_a_wrong_password_is_told_and_not_repeated(cli, node, fresh_vhost, command) -> None:
    right = node.url(fresh_vhost)
    wrong = right.replace(right.split("://")[1].split("@")[0], "guest:mistyped")

    ran = cli(*command, broker=wrong)

    assert ran.code == 77
    assert "check user and password" in ran.err
    assert "mistyped" not in ran.out + ran.err
    assert "Traceback" not in ran.err


def test_the_worker_tells_of_a_broken_app_as_the_client_does(cli, folder) -> None:
    (folder / "tasks.py").write_text("1 / 0\n")

    ran = cli("worker")

    assert ran.code == 2
    assert ran.err == (
        "error: importing tasks raised ZeroDivisionError: division by zero (tasks.py, line 1); "
        "correct it, or see --traceback\n"
    )


def test_an_exported_topology_is_what_a_worker_would_declare(cli, worker, folder, node, fresh_vhost) -> None:
    exported = json.loads(cli("topology", "export").out)
    worker("tasks", "-c", "1", broker_url=node.url(fresh_vhost), cwd=folder)

    rows = json.loads(cli("queues", "--json").out)

    assert {queue["vhost"] for queue in exported["queues"]} == {fresh_vhost}
    assert {row["name"] for row in rows} <= {queue["name"] for queue in exported["queues"]}


def test_purge_removes_what_waits(cli) -> None:
    for number in range(3):
        cli("call", "tasks.add", str(number), "1")

    ran = cli("purge", "--force", "--json")

    assert json.loads(ran.out) == {"short": 3}
    assert json.loads(cli("queues", "--json").out)[0]["messages"] == 0
