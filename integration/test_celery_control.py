"""Stock Celery's own commands against our worker, and our commands against a Celery worker."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.support import CeleryWorker, WorkerProcess, wait_until
from integration.support.processes import ROOT, Process

APP = "integration.apps.control_tasks"
NODE = "ours@here"


def run(*command: str, code: int | None = 0) -> str:
    """A command's stdout; its exit code must be `code`."""
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert code is None or answer.returncode == code, (
        command,
        answer.returncode,
        answer.stdout,
        answer.stderr,
    )
    return answer.stdout


@pytest.fixture(scope="module")
def ours(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    log = tmp_path_factory.mktemp("ours") / "worker.log"
    with WorkerProcess(APP, "-c", "2", "-n", NODE, log=log, broker_url=broker_url) as worker:
        yield worker


@pytest.fixture(scope="module")
def app(broker_url: str, ours: WorkerProcess) -> Iterator[Any]:
    """A client of ours."""
    from integration.apps.control_tasks import app

    app.conf.update(broker_url=broker_url)
    yield app
    app.close()


@pytest.fixture(scope="module")
def celery(broker_url: str) -> Any:
    beside = str(Path(sys.executable).with_name("celery"))

    def command(*words: str, code: int | None = 0) -> str:
        return run(beside, "-b", broker_url, *words, code=code)

    return command


@pytest.fixture
def amqptasks(broker_url: str) -> Any:
    def command(*words: str, code: int | None = 0) -> Any:
        out = run(sys.executable, "-m", "amqptasks", "-b", broker_url, *words, "--json", code=code)
        return json.loads(out)

    return command


@pytest.fixture
def held(app: Any, tmp_path: Path) -> Iterator[Any]:
    """A call that runs until the test is over."""
    from integration.apps.control_tasks import held

    result = held.delay(str(tmp_path / "go"))
    wait_until(
        lambda: app.control.inspect([NODE]).query_task(result.id)[NODE].get(result.id, [""])[0] == "active",
        20,
    )
    yield result
    (tmp_path / "go").touch()
    wait_until(result.ready, 20)


# --- stock Celery asks our worker ------------------------------------------------------------------------


def test_celery_pings_and_lists_our_worker(celery: Any, ours: WorkerProcess) -> None:
    assert json.loads(celery("inspect", "ping", "-j", "-d", NODE)) == {NODE: {"ok": "pong"}}
    assert f"{NODE}: OK" in celery("status")


def test_celery_sees_what_our_worker_runs(celery: Any, held: Any) -> None:
    [task] = json.loads(celery("inspect", "active", "-j", "-d", NODE))[NODE]

    assert (task["id"], task["name"]) == (held.id, "integration.apps.control_tasks.held")
    assert task["worker_pid"] > 0
    assert task["time_start"] > 0


def test_celery_limits_the_rate_of_our_task(celery: Any, ours: WorkerProcess, app: Any) -> None:
    said = celery("control", "rate_limit", f"{APP}.add", "10/m", "-d", NODE)

    assert "new rate limit set successfully" in said
    assert f"{APP}.add [rate_limit=0.166667/s]" in app.control.inspect([NODE]).registered()[NODE]
    celery("control", "rate_limit", f"{APP}.add", "0", "-d", NODE)


def test_celery_revokes_and_kills_what_our_worker_runs(celery: Any, app: Any, tmp_path: Path) -> None:
    from integration.apps.control_tasks import held

    result = held.delay(str(tmp_path / "never"))
    wait_until(
        lambda: app.control.inspect([NODE]).query_task(result.id)[NODE].get(result.id, [""])[0] == "active",
        20,
    )

    assert result.id in celery("control", "terminate", "SIGTERM", result.id, "-d", NODE)

    wait_until(result.ready, 20)
    assert result.state == "REVOKED"


def test_an_unknown_command_is_an_error_of_the_reply(app: Any) -> None:
    [reply] = app.control.broadcast("no_such_thing", reply=True, destination=[NODE])

    assert reply == {NODE: {"error": "KeyError('no_such_thing')"}}


# --- replies compared with a stock worker's --------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("theirs") / "celery.log"
    worker = CeleryWorker(
        "integration.apps.interop_theirs", "-Q", "theirs", "-c", "1", "-P", "prefork", "-n", "theirs@here",
        "--without-mingle", "--without-gossip", log=log, broker_url=broker_url,
    )  # fmt: skip
    worker.start()
    yield "theirs@here"
    worker.end()


def keys(value: Any, path: str = "") -> set[str]:
    """Every key below a reply, as a path; what is listed counts by its first element."""
    if isinstance(value, dict):
        return {f"{path}/{key}" for key in value} | {
            found for key, inner in value.items() for found in keys(inner, f"{path}/{key}")
        }
    return keys(value[0], f"{path}[]") if isinstance(value, list) and value else set()


@pytest.mark.parametrize("command", ["stats", "active_queues", "ping", "clock", "report"])
def test_a_reply_has_the_keys_of_a_stock_workers(app: Any, theirs: str, command: str) -> None:
    replies = app.control.inspect([NODE, theirs], timeout=10.0).request(command)

    missing = keys(replies[theirs]) - keys(replies[NODE])
    # Of the pool's internals Celery alone has these; and names of tasks are the user's.
    kept = {"/pool/writes/avg", "/pool/writes/all", "/pool/writes/raw"}
    assert {key for key in missing if not key.startswith(("/total/", "/broker/transport_options/"))} <= kept


@pytest.mark.parametrize("command", ["active", "reserved", "scheduled", "revoked", "registered", "conf"])
def test_both_workers_answer_alike(app: Any, theirs: str, command: str) -> None:
    replies = app.control.inspect([NODE, theirs], timeout=10.0).request(command)

    assert type(replies[NODE]) is type(replies[theirs])


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("enable_events", {}),
        ("disable_events", {}),
        ("rate_limit", {"task_name": "nobody.knows", "rate_limit": "1/s"}),
        ("time_limit", {"task_name": "nobody.knows", "soft": 1.0, "hard": 2.0}),
        ("revoke", {"task_id": ["a"]}),
        ("terminate", {"task_id": ["a"], "signal": "SIGKILL"}),
        ("revoke_by_stamped_headers", {"headers": {"k": ["v"]}}),
        ("add_consumer", {"queue": "another"}),
        ("cancel_consumer", {"queue": "another"}),
        ("pool_grow", {"n": 1}),
        ("pool_shrink", {"n": 1}),
        ("pool_restart", {}),
        ("autoscale", {"max": 3, "min": 1}),
        ("nothing", {}),
    ],
)
def test_control_commands_answer_as_a_stock_workers(
    app: Any, theirs: str, command: str, arguments: dict[str, Any]
) -> None:
    replies = app.control.broadcast(command, arguments, reply=True, destination=[NODE, theirs], timeout=10.0)

    both = {node: answer for reply in replies for node, answer in reply.items()}
    assert both[NODE].keys() == both[theirs].keys(), both


def test_our_command_line_asks_a_celery_worker(amqptasks: Any, theirs: str) -> None:
    assert amqptasks("inspect", "ping", "-d", theirs) == {theirs: {"ok": "pong"}}
    assert "interop.add" in " ".join(amqptasks("inspect", "registered", "-d", theirs)[theirs])
    assert amqptasks("status", "-d", theirs)[theirs] == {"ok": "pong"}


def test_nobody_there_is_exit_code_69_with_json(amqptasks: Any) -> None:
    answer = amqptasks("inspect", "ping", "-d", "nobody@nowhere", "-t", "0.3", code=69)

    assert answer["error"]["code"] == 69


# --- events ----------------------------------------------------------------------------------------------


def test_celery_events_dumps_what_our_worker_tells(
    celery: Any, app: Any, broker_url: str, tmp_path: Path
) -> None:
    from integration.apps.control_tasks import add, fail

    beside = str(Path(sys.executable).with_name("celery"))
    dump = Process([beside, "-b", broker_url, "events", "--dump"], log=tmp_path / "dump", cwd=ROOT)
    app.control.enable_events(destination=[NODE], reply=True)
    with dump.start() as running:
        running.wait_log("heartbeat: ", 30)
        assert add.delay(2, 3).get(timeout=20) == 5
        with pytest.raises(ValueError, match="no reason"):
            fail.delay("no reason").get(timeout=20)

        for line in ("task received", "task started", "task succeeded", "task failed"):
            running.wait_log(line, 20)
        assert NODE in running.log()
        running.end()
    app.control.disable_events(destination=[NODE], reply=True)


def test_events_have_the_fields_of_a_stock_workers(app: Any, theirs: str) -> None:
    from integration.apps.control_tasks import add, fail

    app.control.enable_events(destination=[NODE, theirs], reply=True)
    told: dict[str, dict[str, set[str]]] = {NODE: {}, theirs: {}}
    calls = [
        lambda: add.delay(1, 1),
        lambda: fail.delay("no reason"),
        lambda: app.send_task("interop.add", (1, 1), queue="theirs"),
        lambda: app.send_task("interop.divide", (1, 0), queue="theirs"),
    ]
    wanted = {"task-received", "task-started", "task-succeeded", "task-failed", "worker-heartbeat"}
    events = app.events.Receiver().itercapture(timeout=20)
    for event in events:
        if calls:
            calls.pop(0)()
        told.setdefault(event["hostname"], {})[event["type"]] = set(event)
        if wanted <= set(told[NODE]) and wanted <= set(told[theirs]):
            break
    app.control.disable_events(destination=[NODE, theirs], reply=True)

    for kind in wanted:
        assert told[theirs][kind] - {"principal"} <= told[NODE][kind], kind


def test_a_state_knows_workers_and_tasks(app: Any, ours: WorkerProcess) -> None:
    from integration.apps.control_tasks import add

    app.control.enable_events(destination=[NODE], reply=True)
    state, result = app.events.State(), None
    for event in app.events.Receiver(state=state).itercapture(timeout=20):
        if result is None:
            result = add.delay(4, 4)
        elif event["type"] == "task-succeeded" and event.get("uuid") == result.id:
            break
    app.control.disable_events(destination=[NODE], reply=True)

    assert result is not None
    task = state.tasks[result.id]
    assert (task.name, task.state, task.worker, task.result) == (f"{APP}.add", "SUCCESS", NODE, "8")
    assert NODE in [worker.hostname for worker in state.alive_workers()]


def test_our_command_line_prints_events_as_json(broker_url: str, ours: WorkerProcess) -> None:
    out = run(sys.executable, "-m", "amqptasks", "-b", broker_url, "events", "--json", "-n", "2", "-t", "20")

    assert {"type", "hostname", "timestamp"} <= set(json.loads(out.splitlines()[0]))
