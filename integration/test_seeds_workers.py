"""What the project set out to be, statement by statement: the worker's command line, `multi`, processes in the background.

Each test is named after its rows, its docstring is what they say; commands stand as a user types them, in the project's
folder. What needs no broker is in `tests/test_seeds_workers.py`.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks.worker.cpus import available
from integration.support import wait_until
from integration.support.processes import ROOT, Process

CELERY = "from amqptasks import App\n\napp = App('src', include=['src.tasks'])\n"
TASKS = """
import os
import time
from pathlib import Path

from .celery import app


@app.task
def add(x, y):
    return x + y


@app.task
def slow(folder):
    Path(folder, "began").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)
    Path(folder, "ended").touch()
"""


class Terminal:
    """The project's folder, and a terminal in it. `typed` is a command line as it stands."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        package = folder / "src"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "celery.py").write_text(CELERY)
        (package / "tasks.py").write_text(TASKS)
        self.home = folder / "home"
        self.home.mkdir()
        self.environment = {
            "AMQPTASKS_BROKER_URL": url,
            "HOME": str(self.home),
            # Where it is by default; only root's files would be elsewhere.
            "XDG_STATE_HOME": str(self.home / ".local/state"),
            "PYTHONPATH": f"{folder}:{ROOT}",
            "SPT_NOENV": "1",
            "SEEDS_FOLDER": str(folder),
        }

    def typed(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *line.split()],
            cwd=self.folder,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def worker(self, line: str, environment: dict[str, str] | None = None) -> Process:
        environment = self.environment if environment is None else environment
        command = [sys.executable, "-m", *line.split()]
        return Process(command, ready=r" ready\.", env=environment, cwd=self.folder, log=self.folder / "log")

    def call(self, name: str, *args: str) -> None:
        done = self.typed(f"amqptasks -A src call src.tasks.{name} {' '.join(args)}")
        assert done.returncode == 0, done.stderr

    def mark(self, name: str) -> Path:
        return self.folder / name

    def processes(self) -> list[int]:
        mark, found = f"SEEDS_FOLDER={self.folder}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                    found.append(int(path.parent.name))
        return found


@pytest.fixture
def terminal(tmp_path: Path, node: PrivateNode, fresh_vhost: str) -> Iterator[Terminal]:
    made = Terminal(tmp_path, node.url(fresh_vhost))
    yield made
    for pid in made.processes():
        with suppress(ProcessLookupError):
            os.kill(pid, 9)


@pytest.mark.parametrize(
    "line",
    ["amqptasks -A src worker -l INFO", "amqptasks worker -A src --loglevel=INFO"],
    ids=["before the command", "after it"],
)
def test_rows_175_to_177_179_181_to_183_a_worker_from_the_project_s_folder_says_what_it_is(
    terminal: Terminal, line: str
) -> None:
    """`src/__init__.py, celery.py, tasks.py`, run from the project's folder; node name and version, platform, app,
    transport, results, concurrency, queues, tasks; as many children as there are CPUs.
    """
    with terminal.worker(line) as worker:
        said = worker.log()
        children = len(worker.children())
        assert worker.stop() == 0

    cpus = available()
    assert re.search(r"^amqptasks@\S+ amqptasks \d+\.\d+\.\d+$", said, re.MULTILINE)
    assert re.search(r"^Linux-.*Python 3\.", said, re.MULTILINE)
    assert re.search(r"^\.> app: +src", said, re.MULTILINE)
    assert re.search(r"^\.> transport: +amqp://guest:\*+@", said, re.MULTILINE)
    assert re.search(r"^\.> results: +rpc://", said, re.MULTILINE)
    assert re.search(rf"^\.> concurrency: +{cpus} \(prefork\)$", said, re.MULTILINE)
    assert re.search(
        r"^\[queues\]\n\.> amqptasks exchange=amqptasks\(direct\) key=amqptasks$", said, re.MULTILINE
    )
    assert re.search(r"^\[tasks\]\n(  \. .+\n)*  \. src\.tasks\.add$", said, re.MULTILINE)
    assert children >= cpus


def test_rows_178_180_the_broker_and_the_number_of_children_are_options(terminal: Terminal) -> None:
    """`-b` the broker's URL; `-c N`."""
    nowhere = terminal.environment | {"AMQPTASKS_BROKER_URL": "amqp://guest@localhost:1//"}
    line = f"amqptasks -A src -b {terminal.url} worker -l INFO -c 3"
    with terminal.worker(line, nowhere) as worker:
        assert ".> concurrency: 3 (prefork)" in re.sub(" +", " ", worker.log())
        terminal.call("add", "2", "2")
        worker.wait_log(r"src\.tasks\.add\[.*succeeded")
        assert worker.stop() == 0


def test_rows_184_to_190_multi_starts_restarts_and_stops_a_worker_in_the_background(
    terminal: Terminal,
) -> None:
    """`multi start w1 -A src -l INFO`, `restart`, `stop` (returns at once, even in mid-task), `stopwait` (current tasks
    finish first). Pid and log files are in a folder that needs not be given by hand.
    """
    state = terminal.home / ".local/state/amqptasks"
    pid, log = state / "w1.pid", state / "w1.log"

    def multi(command: str) -> None:
        done = terminal.typed(f"amqptasks multi {command} w1 -A src -l INFO")
        assert done.returncode == 0, done.stdout + done.stderr

    def ready(times: int) -> None:
        wait_until(lambda: log.exists() and log.read_text().count(" ready.") >= times, 30, "a worker")

    def busy() -> None:
        for name in ("began", "go", "ended"):
            terminal.mark(name).unlink(missing_ok=True)
        terminal.call("slow", f'"{terminal.folder}"')
        wait_until(terminal.mark("began").exists, 20, "a task that runs")

    multi("start")
    ready(1)
    first = int(pid.read_text())
    multi("restart")
    ready(2)
    assert int(pid.read_text()) != first
    wait_until(lambda: first not in terminal.processes(), 5, "the end of the first")
    busy()
    multi("stop")
    assert not terminal.mark("ended").exists(), "it has not waited"
    terminal.mark("go").touch()
    wait_until(lambda: not pid.exists(), 20, "the worker's end")
    assert terminal.mark("ended").exists(), "what ran was finished"

    multi("start")
    ready(3)
    busy()
    before = log.read_text().lower().count("warm shutdown")
    waiting = subprocess.Popen(
        [sys.executable, "-m", "amqptasks", "multi", "stopwait", "w1", "-A", "src", "-l", "INFO"],
        cwd=terminal.folder,
        env=os.environ | terminal.environment,
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: log.read_text().lower().count("warm shutdown") > before, 20, "the signal")
    assert waiting.poll() is None, "it waits for what runs"
    terminal.mark("go").touch()
    assert waiting.wait(100) == 0
    assert terminal.mark("ended").exists()
    wait_until(lambda: terminal.processes() == [], 5, "the end of what the worker had started")
