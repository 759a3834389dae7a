"""What the project set out to be, as far as it takes a broker and processes: each test's docstring is the statement."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from broker import PrivateNode

from amqptasks import states
from amqptasks.errors import TimeLimitExceeded, WorkerLost
from integration.apps.seed_src import tasks
from integration.support import WorkerProcess, queues, wait_until
from integration.support.calls import REPLIES, TASKS, answers, count, post
from integration.support.links import parcel
from integration.support.processes import ROOT, Process

SRC = "integration.apps.seed_src"


@pytest.fixture(scope="module")
def shared(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """The worker of the module: two children, the default queue and `lopri`."""
    log = tmp_path_factory.mktemp("seeds") / "worker.log"
    tasks.app.conf.broker_url = broker_url
    options = ("-c", "2", "-Q", "amqptasks,lopri", "-Ofair", "-n", "w1@%h")
    with WorkerProcess(SRC, *options, log=log, broker_url=broker_url) as worker:
        yield worker
        tasks.app.close()


@pytest.fixture
def unacknowledged(node: PrivateNode, vhost: str) -> Callable[[], int]:
    """How many messages of the default queue are with a worker, not yet acknowledged."""
    return partial(queues.unacknowledged, node, vhost, TASKS)


# --- a worker and its clients --------------------------------------------------------------------------------


def test_a_client_puts_a_message_a_worker_runs_it(shared: WorkerProcess) -> None:
    """Worker processes watch the queues all the time; a call runs in one of their children, not here."""
    task_id, node, pid = tasks.who.delay().get(timeout=60)

    assert uuid.UUID(task_id)
    assert node.startswith("w1@")
    assert pid in shared.children()


def test_a_result_travels_back(shared: WorkerProcess) -> None:
    """`res = add.delay(2, 2); res.get(timeout=1)` is 4, and the state SUCCESS."""
    res = tasks.add.delay(2, 2)

    assert res.get(timeout=60) == 4
    assert (res.state, res.successful(), res.failed()) == (states.SUCCESS, True, False)


def test_an_exception_travels_back(shared: WorkerProcess) -> None:
    """`add.delay(2, '2')`: get() raises the TypeError, `propagate=False` returns it, `failed()` is True."""
    res = tasks.add.delay(2, "2")

    with pytest.raises(TypeError) as raised:
        res.get(timeout=60)

    assert str(raised.value) == "unsupported operand type(s) for +: 'int' and 'str'"
    assert repr(res.get(propagate=False)) == repr(raised.value)
    assert (res.failed(), res.successful(), res.state) == (True, False, states.FAILURE)
    assert "in add\n    return x + y" in res.traceback


def test_a_queue_of_low_priority_and_a_countdown(shared: WorkerProcess) -> None:
    """`add.apply_async((2, 2), queue='lopri', countdown=...)` waits on the broker and runs from `lopri`."""
    sent = time.monotonic()
    res = tasks.add.apply_async((2, 2), queue="lopri", countdown=1)

    assert res.get(timeout=60) == 4
    assert time.monotonic() - sent > 0.9


def test_any_language_can_call_a_task(shared: WorkerProcess, broker_url: str) -> None:
    """The protocol can be spoken from any language: a message with a task, an id and JSON is enough."""
    task_id = str(uuid.uuid4())
    headers = {"task": tasks.add.name, "id": task_id}
    body = b"[[2, 2], {}, {}]"

    refused = post(
        broker_url,
        [parcel("", "amqptasks", body, headers=headers, reply_to=REPLIES, correlation_id=task_id)],
    )
    (answer,) = answers(broker_url, 1)

    assert refused == [None]
    assert (answer["task_id"], answer["status"], answer["result"]) == (task_id, states.SUCCESS, 4)


def test_several_workers_share_a_queue(
    shared: WorkerProcess, worker: Callable[..., WorkerProcess], broker_url: str
) -> None:
    """Several workers on one queue share its messages: high availability and horizontal scale."""
    worker(SRC, "-c", "1", "-n", "w2@%h", broker_url=broker_url)

    with tasks.app.batch():
        results = [tasks.who.delay() for _ in range(400)]
    nodes = {result.get(timeout=60)[1].partition("@")[0] for result in results}

    assert nodes == {"w1", "w2"}


# --- acknowledgement, reservation, loss ----------------------------------------------------------------------


@pytest.mark.parametrize(("task", "held"), [(tasks.early, 0), (tasks.late, 1)], ids=["early", "late"])
def test_when_a_message_is_acknowledged(
    shared: WorkerProcess, unacknowledged: Callable[[], int], tmp_path: Path, task: Any, held: int
) -> None:
    """By default a message is acknowledged just before its task runs; with `acks_late` after it returned."""
    task.track_started = True
    result = task.delay(str(tmp_path / "go"))
    shared.wait_log(rf"{re.escape(result.id)}\] received")
    wait_until(lambda: unacknowledged() == held, 10, f"{held} unacknowledged")
    assert tasks.add.delay(2, 2).get(timeout=60) == 4  # another, there and back: time for what is on its way
    wait_until(lambda: unacknowledged() == held, 10, f"still {held} unacknowledged")
    state = result.state

    (tmp_path / "go").touch()
    result.get(timeout=60)

    assert state != states.SUCCESS
    wait_until(lambda: unacknowledged() == 0, 10, "all acknowledged")


@pytest.mark.parametrize("task", [tasks.leave, tasks.crash], ids=["sys.exit", "signal"])
def test_a_task_that_ends_its_process_is_acknowledged_all_the_same(
    shared: WorkerProcess, unacknowledged: Callable[[], int], tmp_path: Path, task: Any
) -> None:
    """Even with acks_late: a child that calls sys.exit(), or is killed, does not get its task run again."""
    result = task.delay(str(tmp_path / "runs"))

    with pytest.raises(WorkerLost):
        result.get(timeout=60)

    wait_until(lambda: unacknowledged() == 0, 10, "acknowledged")
    assert len((tmp_path / "runs").read_text().splitlines()) == 1
    assert tasks.add.delay(2, 2).get(timeout=60) == 4


def test_reject_on_worker_lost_runs_it_again(shared: WorkerProcess, tmp_path: Path) -> None:
    """`reject_on_worker_lost` has a task whose process died run again."""
    result = tasks.crash_once.delay(str(tmp_path / "runs"))

    assert result.get(timeout=60) == "second time"
    assert (tmp_path / "runs").read_text().splitlines() == ["ran", "ran"]


def test_what_a_dead_worker_had_reserved_goes_to_another(
    worker: Callable[..., WorkerProcess], node: PrivateNode, fresh_vhost: str, tmp_path: Path
) -> None:
    """A worker may reserve many messages ahead; if it dies by a power cut, they go to another worker."""
    url = node.url(fresh_vhost)
    app = tasks.app
    before, app.conf.broker_url = app.conf.broker_url, url
    app.close()
    try:
        first = worker(SRC, "-c", "1", "--prefetch-multiplier", "10", "-n", "first@%h", broker_url=url)
        running = tasks.late.delay(str(tmp_path / "go"))
        first.wait_log(re.escape(running.id))
        reserved = [tasks.who.delay() for _ in range(5)]
        first.wait_log(re.escape(reserved[-1].id))

        first.kill()
        (tmp_path / "go").touch()
        worker(SRC, "-c", "1", "-n", "second@%h", broker_url=url)

        assert running.get(timeout=60) == str(tmp_path / "go")
        assert {result.get(timeout=60)[1].partition("@")[0] for result in reserved} == {"second"}
    finally:
        app.close()
        app.conf.broker_url = before


def test_reject_is_the_broker_s_own_reject(shared: WorkerProcess, broker_url: str) -> None:
    """`raise Reject(reason, requeue=False)` under acks_late is basic.reject: the broker dead-letters the message."""
    result = tasks.refuse.delay("not mine")

    failure = result.get(timeout=60, propagate=False)

    assert "not mine" in str(failure)
    wait_until(lambda: count(broker_url, "amqptasks.dead") == 1, 10, "the dead letter")


def test_a_time_limit_kills_the_process_and_no_other(shared: WorkerProcess) -> None:
    """A time limit makes every task return in time: it really kills the process, and the worker goes on."""
    with pytest.raises(TimeLimitExceeded):
        tasks.for_ever.delay().get(timeout=60)

    assert tasks.add.delay(2, 2).get(timeout=60) == 4


# --- the command line ----------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's folder with the package `src`."""
    package = tmp_path / "src"
    shutil.copytree(ROOT / "integration/apps/seed_src", package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in package.glob("*.py"):
        file.write_text(file.read_text().replace(SRC, "src"))
    return tmp_path


def test_a_worker_without_an_app_on_its_command_line(
    project: Path, node: PrivateNode, fresh_vhost: str
) -> None:
    """`amqptasks worker -Q queue`: the environment names the app. See `test_seeds_workers` for `-A`."""
    url = node.url(fresh_vhost)
    environment = {"AMQPTASKS_BROKER_URL": url, "AMQPTASKS_APP": "src"}
    words = ("worker", "-Q", "amqptasks", "-l", "INFO")
    command = [sys.executable, "-m", "amqptasks", *words, "-c", "1"]

    with Process(command, ready=" ready", env=environment, cwd=project, log=project / "log") as worker:
        said = worker.log()
        code = worker.stop()

    assert code == 0
    assert re.search(r"^\.> app: +src", said, re.MULTILINE)
    assert re.search(rf"^\.> transport: +amqp://guest:\*+@\S+/{fresh_vhost}", said, re.MULTILINE)
    assert re.search(r"^\.> amqptasks exchange=amqptasks\(direct\) key=amqptasks$", said, re.MULTILINE)
    assert re.search(r"^  \. src\.tasks\.add$", said, re.MULTILINE)


@pytest.mark.parametrize(("main", "name"), [("", "__main__.add"), ("'tasks'", "tasks.add")])
def test_python_tasks_py_is_a_worker(
    tmp_path: Path, node: PrivateNode, fresh_vhost: str, main: str, name: str
) -> None:
    """`python tasks.py`, which ends in `app.worker_main()`, is a worker; its tasks are named after `__main__`."""
    (tmp_path / "tasks.py").write_text(
        "from amqptasks import App\n"
        f"app = App({main})\n\n"
        "@app.task\n"
        "def add(x, y): return x + y\n\n"
        "if __name__ == '__main__':\n"
        "    app.worker_main()\n"
    )
    environment = {"AMQPTASKS_BROKER_URL": node.url(fresh_vhost), "AMQPTASKS_WORKER_LOGLEVEL": "INFO"}

    with Process(
        [sys.executable, "tasks.py"], ready=" ready", env=environment, cwd=tmp_path, log=tmp_path / "log"
    ) as worker:
        said = worker.log()
        called = subprocess.run(
            [sys.executable, "-m", "amqptasks", "-b", node.url(fresh_vhost), "call", name, "2", "2", "--wait"],
            capture_output=True, text=True, timeout=100, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert f"  . {name}\n" in said
    assert called.stdout == "4\n", called.stderr
    assert code == 0
