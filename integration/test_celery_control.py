"""Stock Celery's own commands against our worker, and our commands against a Celery worker."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.worker.control import Panel

from amqptasks.worker.commands import COMMANDS
from integration.apps import interop_theirs
from integration.support import CeleryWorker, WorkerProcess, wait_until
from integration.support.clients import state_of
from integration.support.peers import close_celery
from integration.support.processes import ROOT, Process

APP = "integration.apps.control_tasks"
NODE = "ours@here"


def run(*command: str, code: int | None = 0) -> str:
    """A command's stdout; its exit code must be `code`."""
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
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
        # Nobody waits longer than until those have answered that are named; Celery's own second may be too short.
        patience = ("-t", "40") if "-d" in words else ()
        return run(beside, "-b", broker_url, *words, *patience, code=code)

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
    wait_until(lambda: state_of(app, NODE, result.id) == "active", 20)
    yield result
    (tmp_path / "go").touch()
    wait_until(result.ready, 20)


# --- stock Celery asks our worker ------------------------------------------------------------------------


def test_celery_pings_and_lists_our_worker(celery: Any, ours: WorkerProcess) -> None:
    assert json.loads(celery("inspect", "ping", "-j", "-d", NODE)) == {NODE: {"ok": "pong"}}
    wait_until(
        lambda: f"{NODE}: OK" in celery("status", code=None), 20, "a worker that answers within a second"
    )


def test_celery_sees_what_our_worker_runs(celery: Any, held: Any) -> None:
    [task] = json.loads(celery("inspect", "active", "-j", "-d", NODE))[NODE]

    assert (task["id"], task["name"]) == (held.id, "integration.apps.control_tasks.held")
    assert task["worker_pid"] > 0
    assert task["time_start"] > 0


def test_celery_limits_the_rate_of_our_task(celery: Any, ours: WorkerProcess, app: Any) -> None:
    said = celery("control", "rate_limit", f"{APP}.add", "10/m", "-d", NODE)

    assert "new rate limit set successfully" in said
    assert f"{APP}.add [rate_limit=10/m]" in app.control.inspect([NODE], timeout=60.0).registered()[NODE]
    celery("control", "rate_limit", f"{APP}.add", "0", "-d", NODE)


def test_celery_revokes_and_kills_what_our_worker_runs(celery: Any, app: Any, tmp_path: Path) -> None:
    from integration.apps.control_tasks import held

    result = held.delay(str(tmp_path / "never"))
    wait_until(lambda: state_of(app, NODE, result.id) == "active", 20)

    assert result.id in celery("control", "terminate", "SIGTERM", result.id, "-d", NODE)

    wait_until(result.ready, 20)
    assert result.state == "REVOKED"


def test_each_question_of_a_stock_client_is_answered(ours: WorkerProcess, broker_url: str) -> None:
    with Celery(broker=broker_url) as client:
        asked = client.control.inspect([NODE], timeout=60.0)
        words: dict[str, tuple[Any, ...]] = {
            "hello": ("another@here",), "query_task": ("a", "b"), "registered": ("rate_limit",),
            "conf": (True,), "active": (True,), "memdump": (3,), "objgraph": (),
        }  # fmt: skip
        answers = {name: getattr(asked, name)(*words.get(name, ()))[NODE] for name in INSPECTED}

    assert answers["ping"] == {"ok": "pong"}
    assert f"{APP}.add" in answers["registered"]
    assert answers["stats"]["pid"] == ours.pid
    assert answers["conf"]["task_default_queue"] == "amqptasks"
    assert answers["query_task"] == {}
    assert [name for name, answer in answers.items() if "error" in (answer or {})] == ["objgraph"]


def test_an_unknown_command_is_an_error_of_the_reply(app: Any) -> None:
    [reply] = app.control.broadcast("no_such_thing", reply=True, destination=[NODE], timeout=60.0)

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


INSPECTED: dict[str, dict[str, Any]] = {
    "active": {}, "active_queues": {}, "clock": {}, "conf": {}, "hello": {"from_node": "another@here"},
    "memdump": {}, "memsample": {}, "objgraph": {}, "ping": {}, "query_task": {}, "registered": {}, "report": {},
    "reserved": {}, "revoked": {}, "scheduled": {}, "stats": {},
}  # fmt: skip
"""Every question to a stock worker."""

OURS_ALONE = {"stats": ("/counters",)}
THEIRS_ALONE = {"stats": ("/pool/writes/avg", "/pool/writes/all", "/pool/writes/raw")}
"""Where replies differ in their keys: our counts; what a pool of Celery's writes into each of its pipes."""
USERS = {
    "stats": ("/total/", "/broker/transport_options/"),
    "conf": ("/",),
    "active_queues": ("[]/queue_arguments/", "[]/consumer_arguments/"),
}
"""Where keys are names of the user's tasks, settings and arguments."""
OTHER_TYPES = {
    "[]/args": "text, as the sender wrote it: the parent decodes no body",
    "[]/kwargs": "the same",
    "[]/request/args": "the same",
    "[]/request/kwargs": "the same",
    "[][]/args": "the same",
    "[][]/kwargs": "the same",
}
"""Where a value under the same key is of another type."""


def shape(value: Any, path: str = "") -> dict[str, str]:
    """Every key below a reply, as a path, with the type of its value; of a list, of all its elements."""
    kind = "number" if type(value) in (int, float) else type(value).__name__
    found = {path: kind}
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= shape(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for inner in value:
            found |= shape(inner, f"{path}[]")
    return found


@pytest.fixture(scope="class")
def busy(app: Any, theirs: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The ids of what runs."""
    go = tmp_path_factory.mktemp("busy") / "go"
    held = [app.send_task(f"{APP}.held", (str(go),)) for _ in range(2)]
    slept = app.send_task("interop.sleep", (600,), queue="theirs")
    asked = app.control.inspect([NODE, theirs], timeout=60.0)
    wait_until(lambda: active(asked) == {NODE: 2, theirs: 1}, 20)
    app.send_task(f"{APP}.add", (1, 1))
    app.send_task("interop.add", (1, 1), queue="theirs")
    celery = interop_theirs.make(app.conf.broker_url)
    celery.send_task("interop.add", (1, 1), queue="theirs", countdown=600)
    close_celery(celery)
    app.control.revoke("never-sent", destination=[NODE, theirs], reply=True, timeout=60.0)
    wait_until(lambda: all(asked.reserved().values()) and asked.scheduled()[theirs], 20, "those that wait")
    yield [*[call.id for call in held], slept.id]
    go.touch()
    app.control.revoke(slept.id, terminate=True, signal="SIGKILL", destination=[theirs])
    wait_until(lambda: not any(active(asked).values()), 20)


def active(asked: Any) -> dict[str, int]:
    """How many calls each of those that were asked runs."""
    return {node: len(tasks) for node, tasks in (asked.active() or {}).items()}


def both(app: Any, theirs: str, command: str, arguments: dict[str, Any]) -> tuple[Any, Any]:
    replies = app.control.broadcast(command, arguments, reply=True, destination=[NODE, theirs], timeout=60.0)
    found = {node: answer for reply in replies for node, answer in reply.items()}
    assert found.keys() == {NODE, theirs}
    return found[NODE], found[theirs]


def early(app: Any) -> list[Any]:
    """Our `scheduled`, which shows calls in their last second."""

    def seen() -> list[Any]:
        app.send_task(f"{APP}.add", (2, 2), countdown=0.8)
        return app.control.inspect([NODE], timeout=60.0).scheduled()[NODE]

    return wait_until(seen, 20, interval=0.3)


class TestReplies:
    """Of both kinds of worker, while each runs a call, has another one waiting, and a third one early."""

    @pytest.mark.parametrize("command", INSPECTED)
    def test_a_question_is_answered_with_the_same_keys(
        self, app: Any, theirs: str, busy: list[str], command: str
    ) -> None:
        arguments = INSPECTED[command] | ({"ids": busy} if command == "query_task" else {})
        ours, celerys = both(app, theirs, command, arguments)
        if command == "scheduled":
            ours = early(app)
        if command == "query_task":
            assert (len(ours), len(celerys)) == (2, 1)
            ours, celerys = list(ours.values()), list(celerys.values())
        assert ours or not celerys, "an empty reply has no keys to compare"

        mine, other = shape(ours), shape(celerys)
        kept = (*USERS.get(command, ()), *(f"{path}[]" for path in OTHER_TYPES))
        lacking = [key for key in other.keys() - mine.keys() if not key.startswith(kept)]
        extra = [key for key in mine.keys() - other.keys() if not key.startswith(kept)]
        assert set(lacking) == set(THEIRS_ALONE.get(command, ()))
        assert {key for key in extra if not key.startswith(OURS_ALONE.get(command, ("none",)))} == set()
        told = {key: (mine[key], other[key]) for key in mine.keys() & other.keys()}
        differ = {key for key, kinds in told.items() if len({*kinds} - {"NoneType"}) > 1}
        assert {key for key in differ if not key.startswith(kept)} <= OTHER_TYPES.keys(), told

    @pytest.mark.parametrize(
        ("alias", "command"),
        [
            ("dump_active", "active"), ("dump_conf", "conf"), ("dump_reserved", "reserved"),
            ("dump_revoked", "revoked"), ("dump_schedule", "scheduled"), ("dump_tasks", "registered"),
        ],
    )  # fmt: skip
    def test_the_old_names_are_understood(
        self, app: Any, theirs: str, busy: list[str], alias: str, command: str
    ) -> None:
        for answer in both(app, theirs, alias, {}):
            assert type(answer) is (dict if command == "conf" else list)

    def test_attributes_of_tasks_are_told_as_celery_tells_them(
        self, app: Any, theirs: str, busy: list[str]
    ) -> None:
        asked = {"taskinfoitems": ["serializer", "max_retries", "acks_late", "no_such"]}
        ours, celerys = both(app, theirs, "registered", asked)

        assert f"{APP}.add [serializer=json max_retries=3 acks_late=False]" in ours
        assert "interop.add [serializer=json max_retries=3 acks_late=False]" in celerys


CHANGING: list[tuple[str, dict[str, Any]]] = [
    ("enable_events", {}),
    ("enable_events", {}),
    ("disable_events", {}),
    ("heartbeat", {}),
    ("rate_limit", {"task_name": "TASK", "rate_limit": "100/s"}),
    ("rate_limit", {"task_name": "TASK", "rate_limit": 0}),
    ("rate_limit", {"task_name": "TASK", "rate_limit": "a/b"}),
    ("rate_limit", {"task_name": "nobody.knows", "rate_limit": "1/s"}),
    ("rate_limit", {}),
    ("time_limit", {"task_name": "TASK", "soft": 100.0, "hard": 200.0}),
    ("time_limit", {"task_name": "TASK", "soft": None, "hard": None}),
    ("time_limit", {"task_name": "nobody.knows", "soft": 1.0, "hard": 2.0}),
    ("revoke", {"task_id": "a"}),
    ("revoke", {"task_id": ["a", "b"], "terminate": True}),
    ("terminate", {"task_id": ["a"], "signal": "SIGKILL"}),
    ("revoke_by_stamped_headers", {"headers": {"k": ["v"]}}),
    ("revoke_by_stamped_headers", {"headers": {"k": ["v"]}, "terminate": True}),
    ("add_consumer", {"queue": "QUEUE"}),
    ("cancel_consumer", {"queue": "QUEUE"}),
    ("cancel_consumer", {"queue": "QUEUE"}),
    ("pool_grow", {"n": 1}),
    ("pool_shrink", {"n": 1}),
    ("pool_restart", {}),
    ("autoscale", {"max": 3, "min": 1}),
    ("nothing", {}),
]
SILENT = {"shutdown": "Celery's answers nothing", "election": "without gossip Celery's answers an error"}
"""What cannot be compared."""


@pytest.mark.parametrize(("command", "arguments"), CHANGING)
def test_a_change_is_answered_as_by_a_stock_worker(
    app: Any, theirs: str, command: str, arguments: dict[str, Any]
) -> None:
    """Both say ok, in the same words, or both say an error."""
    answers: dict[str, Any] = {}

    def answer(node: str, said: dict[str, Any]) -> str:
        [reply] = app.control.broadcast(command, said, reply=True, destination=[node], timeout=60.0)
        answers[node] = reply[node]
        return str(answers[node])

    for node, meant in ((NODE, {"TASK": f"{APP}.add"}), (theirs, {"TASK": "interop.add"})):
        # Each has a queue of its own: what one has declared the other would declare in another way.
        said = {name: meant.get(str(value), value) for name, value in arguments.items()}
        if "queue" in said:
            said["queue"] = f"extra.{node}"
        # A pool of Celery's that has just grown may say that it is too busy to shrink.
        wait_until(lambda node=node, said=said: "busy" not in answer(node, said), 10)

    ours, celerys = answers[NODE], answers[theirs]
    assert shape(ours) == shape(celerys), answers
    if ours is not None and "ok" in ours:
        assert str(ours["ok"]).replace(NODE, theirs) == str(celerys["ok"])


def test_every_command_of_a_stock_worker_is_compared() -> None:
    compared = INSPECTED.keys() | {command for command, _ in CHANGING} | SILENT.keys()

    assert compared - {"nothing"} == Panel.meta.keys()
    assert COMMANDS.keys() >= Panel.meta.keys() - {"objgraph"}


def test_our_command_line_asks_a_celery_worker(amqptasks: Any, theirs: str) -> None:
    assert amqptasks("inspect", "ping", "-d", theirs, "-t", "40") == {theirs: {"ok": "pong"}}
    assert "interop.add" in " ".join(amqptasks("inspect", "registered", "-d", theirs, "-t", "40")[theirs])
    assert amqptasks("status", "-d", theirs, "-t", "40")[theirs] == {"ok": "pong"}


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
    app.control.enable_events(destination=[NODE], reply=True, timeout=60.0)
    with dump.start() as running:
        running.wait_log("heartbeat: ", 30)
        assert add.delay(2, 3).get(timeout=60) == 5
        with pytest.raises(ValueError, match="no reason"):
            fail.delay("no reason").get(timeout=60)

        for line in ("task received", "task started", "task succeeded", "task failed"):
            running.wait_log(line, 20)
        assert NODE in running.log()
        running.end()
    app.control.disable_events(destination=[NODE], reply=True, timeout=60.0)


def test_events_have_the_fields_of_a_stock_workers(app: Any, theirs: str) -> None:
    from integration.apps.control_tasks import add, fail

    app.control.enable_events(destination=[NODE, theirs], reply=True, timeout=60.0)
    told: dict[str, dict[str, set[str]]] = {NODE: {}, theirs: {}}
    calls = [
        lambda: add.delay(1, 1),
        lambda: fail.delay("no reason"),
        lambda: app.send_task("interop.add", (1, 1), queue="theirs"),
        lambda: app.send_task("interop.divide", (1, 0), queue="theirs"),
    ]
    wanted = {"task-received", "task-started", "task-succeeded", "task-failed", "worker-heartbeat"}
    events = app.events.Receiver().itercapture(timeout=60)
    for event in events:
        if calls:
            calls.pop(0)()
        told.setdefault(event["hostname"], {})[event["type"]] = set(event)
        if wanted <= set(told[NODE]) and wanted <= set(told[theirs]):
            break
    app.control.disable_events(destination=[NODE, theirs], reply=True, timeout=60.0)

    for kind in wanted:
        assert told[theirs][kind] - {"principal"} <= told[NODE][kind], kind


def test_a_state_knows_workers_and_tasks(app: Any, ours: WorkerProcess) -> None:
    from integration.apps.control_tasks import add

    app.control.enable_events(destination=[NODE], reply=True, timeout=60.0)
    state, result = app.events.State(), None
    for event in app.events.Receiver(state=state).itercapture(timeout=60):
        if result is None:
            result = add.delay(4, 4)
        known = result is not None and result.id in state.tasks and state.tasks[result.id]
        # Who is read late may be taken for dead: heartbeats are looked at by the clock.
        if known and known.state == "SUCCESS" and NODE in [each.hostname for each in state.alive_workers()]:
            break
    else:
        pytest.fail("no events any more")
    app.control.disable_events(destination=[NODE], reply=True, timeout=60.0)

    assert result is not None
    task = state.tasks[result.id]
    assert (task.name, task.state, task.worker.hostname, task.result) == (f"{APP}.add", "SUCCESS", NODE, "8")


def test_our_command_line_prints_events_as_json(broker_url: str, ours: WorkerProcess) -> None:
    out = run(sys.executable, "-m", "amqptasks", "-b", broker_url, "events", "--json", "-n", "2", "-t", "20")

    assert {"type", "hostname", "timestamp"} <= set(json.loads(out.splitlines()[0]))
