"""What monitors hear: our events beside a stock Celery worker's, for the same calls; and the programs that listen."""

import itertools
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pika
import pytest

from amqptasks import App

from .apps import interop_ours
from .conftest import ROOT
from .support import CeleryWorker, WorkerProcess, wait_until
from .support.peers import OURS, THEIRS, printed_queues

MINE, OTHER = "ours@here", "theirs@here"
Event = dict[str, Any]


class Heard:
    """Every event on the exchange, as it was sent."""

    def __init__(self, broker_url: str) -> None:
        self.events: list[Event] = []
        parameters = pika.URLParameters(broker_url)
        parameters.heartbeat = 0  # nobody is there to answer one while the other programs are tested
        self.connection = pika.BlockingConnection(parameters)
        channel = self.connection.channel()
        channel.exchange_declare("celeryev", "topic", durable=True)
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "celeryev", "#")
        channel.basic_consume(queue, self._take, auto_ack=True)

    def _take(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        assert (properties.content_type, properties.content_encoding) == ("application/json", "utf-8")
        assert properties.delivery_mode == 1
        told = json.loads(body)
        for event in told if isinstance(told, list) else [told]:
            self.events.append(event)
            one = event["type"].replace("-", ".")
            assert method.routing_key == ("task.multi" if isinstance(told, list) else one)
            assert properties.headers["hostname"] == event["hostname"]

    def until(self, found: Callable[[], Any], timeout: float = 60.0) -> Any:
        """`found()` as soon as it is true."""
        deadline = time.monotonic() + timeout
        while not (answer := found()):
            assert time.monotonic() < deadline, [event["type"] for event in self.events]
            self.connection.process_data_events(0.2)
        return answer

    def one(self, kind: str, **fields: Any) -> Event:
        """The first event of a kind with these fields."""

        def found() -> Event | None:
            for event in self.events:
                if event["type"] == kind and fields.items() <= event.items():
                    return event
            return None

        return self.until(found)


@pytest.fixture(scope="module")
def heard(broker_url: str) -> Iterator[Heard]:
    """From before the workers start to after their end."""
    listener = Heard(broker_url)
    yield listener
    listener.connection.close()


@pytest.fixture(scope="module")
def workers(
    broker_url: str, heard: Heard, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[WorkerProcess, CeleryWorker]]:
    folder = tmp_path_factory.mktemp("events")
    queues = {"INTEROP_QUEUES": printed_queues(broker_url, folder)}
    ours = WorkerProcess(OURS, "-c", "1", "-E", "-n", MINE, log=folder / "ours.log", broker_url=broker_url)
    theirs = CeleryWorker(
        THEIRS, "-Q", "theirs", "-c", "1", "-E", "-n", OTHER, "--without-gossip", "--without-mingle",
        log=folder / "celery.log", broker_url=broker_url, env=queues,
    )  # fmt: skip
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(lambda worker: worker.start(), (ours, theirs)))
    with ours:
        yield ours, theirs
        theirs.end()


@pytest.fixture(scope="module")
def app(broker_url: str, workers: Any) -> Iterator[App]:
    with interop_ours.make(broker_url) as client:
        yield client


def kind_of(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def compared(mine: Event, other: Event) -> None:
    """The same fields, of the same types; where one has nothing there, the other may have something."""
    assert mine.keys() == other.keys()
    for name in mine:
        kinds = {kind_of(mine[name]), kind_of(other[name])} - {"NoneType"}
        assert len(kinds) <= 1, (name, mine[name], other[name])


Call = Callable[[App, str], Any]


def _revoked(app: App, queue: str) -> Any:
    call = f"revoked-{queue}"
    assert app.control.revoke(
        call, reply=True, timeout=60.0, destination=[MINE if queue == "ours" else OTHER]
    )
    return app.send_task("interop.add", (1, 1), queue=queue, task_id=call)


def _terminated(app: App, queue: str) -> Any:
    result = app.send_task("interop.sleep", (60,), queue=queue)
    node = MINE if queue == "ours" else OTHER
    inspect = app.control.inspect([node], timeout=20.0)
    wait_until(lambda: result.id in json.dumps(inspect.active()), 20)
    app.control.revoke(result.id, terminate=True, signal="SIGTERM", destination=[node])
    return result


CALLS: dict[str, tuple[Call, tuple[str, ...]]] = {
    "succeeds": (
        lambda app, queue: app.send_task("interop.add", (2, 2), queue=queue),
        ("task-received", "task-started", "task-succeeded"),
    ),
    "fails": (
        lambda app, queue: app.send_task("interop.divide", (1, 0), queue=queue),
        ("task-received", "task-started", "task-failed"),
    ),
    "is retried": (
        lambda app, queue: app.send_task("interop.flaky", (1,), queue=queue),
        ("task-retried", "task-succeeded"),
    ),
    "is rejected": (
        lambda app, queue: app.send_task("interop.rejected", queue=queue),
        ("task-started", "task-rejected"),
    ),
    "is late": (
        lambda app, queue: app.send_task(
            "interop.add", (1, 1), queue=queue, expires=datetime.now(UTC) - timedelta(seconds=5)
        ),
        ("task-revoked",),
    ),
    "is revoked": (_revoked, ("task-revoked",)),
    "is ended": (_terminated, ("task-started", "task-revoked")),
}


@pytest.mark.parametrize("what", CALLS)
def test_the_events_of_a_call_are_a_stock_workers(app: App, heard: Heard, what: str) -> None:
    """The same kinds, with the same fields of the same types."""
    send, kinds = CALLS[what]
    calls = {node: send(app, queue).id for queue, node in (("ours", MINE), ("theirs", OTHER))}

    for kind in kinds:
        mine = heard.one(kind, uuid=calls[MINE], hostname=MINE)
        other = heard.one(kind, uuid=calls[OTHER], hostname=OTHER)
        compared(mine, other)
        for name in ("terminated", "expired", "signum", "requeue", "retries", "args", "kwargs", "name"):
            assert mine.get(name) == other.get(name), name


@pytest.mark.parametrize("kind", ["worker-online", "worker-heartbeat"])
def test_the_events_of_a_worker_are_a_stock_workers(workers: Any, heard: Heard, kind: str) -> None:
    compared(heard.one(kind, hostname=MINE), heard.one(kind, hostname=OTHER))


def test_a_call_that_is_sent_is_told_as_celery_tells_it(broker_url: str, workers: Any, heard: Heard) -> None:
    from .apps import interop_theirs
    from .support.peers import close_celery

    with interop_ours.make(broker_url, task_send_sent_event=True) as ours:
        mine = ours.send_task("interop.add", (3, 4), queue="ours", countdown=1).id
    celery = interop_theirs.make(broker_url, task_send_sent_event=True)
    other = celery.send_task("interop.add", (3, 4), queue="theirs", countdown=1).id
    close_celery(celery)

    compared(heard.one("task-sent", uuid=mine), heard.one("task-sent", uuid=other))


def test_a_call_goes_through_its_states_in_the_order_of_its_clock(app: App, heard: Heard) -> None:
    call = app.send_task("interop.add", (5, 5), queue="ours").id
    heard.one("task-succeeded", uuid=call)

    told = [event for event in heard.events if event.get("uuid") == call]
    assert [event["type"] for event in told] == ["task-received", "task-started", "task-succeeded"]
    for one, after in itertools.pairwise(told):
        assert one["clock"] < after["clock"]
        assert one["timestamp"] <= after["timestamp"]


def test_what_is_told_of_a_call_is_what_was_said(app: App, heard: Heard) -> None:
    """Text that must be escaped, in names and in values."""
    odd = 'quo"te\\ \u00e4\n% \U0001f600'
    call = app.send_task("interop.echo", (odd,), queue="ours", task_id='odd "%s" id').id

    received, succeeded = (heard.one(kind, uuid=call) for kind in ("task-received", "task-succeeded"))
    assert received["args"] == repr((odd,))
    assert succeeded["result"] == repr([[odd], {}])


def test_events_stop_and_start_again_at_run_time(app: App, heard: Heard) -> None:
    assert app.control.disable_events([MINE], reply=True, timeout=60.0)
    try:
        silent = app.send_task("interop.add", (1, 1), queue="ours")
        silent.get(timeout=60)
    finally:
        assert app.control.enable_events([MINE], reply=True, timeout=60.0)
    told = app.send_task("interop.add", (1, 1), queue="ours").id

    heard.one("task-succeeded", uuid=told)
    assert [event for event in heard.events if event.get("uuid") == silent.id] == []


# --- programs that listen --------------------------------------------------------------------------------


def command(broker_url: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "amqptasks", "-A", OURS, "-b", broker_url, "events", *words]


def calling(app: App, ended: Callable[[], bool], pictures: Callable[[], int] | None = None) -> None:
    """Call a task every now and then until the program that listens has ended. `pictures` is how many it has taken:
    there is another one before each call, however long the program stands still."""
    seen = 0

    def called() -> bool:
        nonlocal seen
        now = pictures() if pictures is not None else seen + 1
        if now > seen:
            seen = now
            app.send_task("interop.add", (20, 22), queue="ours").get(timeout=60)
        return ended()

    wait_until(called, 40, interval=0.15)


@pytest.mark.parametrize("option", ["--dump", "--json"])
def test_a_line_is_printed_for_each_event(app: App, broker_url: str, option: str) -> None:
    with subprocess.Popen(
        command(broker_url, option, "--limit", "20"), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as program:
        calling(app, lambda: program.poll() is not None)
        assert program.stdout is not None
        lines = program.stdout.read().splitlines()

    assert len(lines) == 20
    if option == "--json":
        events = [json.loads(line) for line in lines]
        assert {"task-received", "task-succeeded"} <= {event["type"] for event in events}
    else:
        pattern = r"ours@here \[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\+00:00\] task-succeeded uuid=\S+ result=42 runtime="
        assert any(re.match(pattern, line) for line in lines), lines


CAMERAS = """
import json

class Plain:
    def __init__(self, app):
        self.name = app.main

    def on_shutter(self, state):
        print("shot", self.name, state.event_count > 0, sorted(state.task_types()), flush=True)

class Instant(Plain):
    clear_after = True
    cleanup_freq = 0.05

    def __init__(self, state, freq=1.0, maxrate=None, app=None):
        super().__init__(app)
        print("made", freq, maxrate, flush=True)

    def on_shutter(self, state):
        print("shot", state.event_count, len(state.tasks), flush=True)

    def on_cleanup(self):
        print("cleaned", flush=True)

def function(state):
    print("called", len(state.alive_workers()) > 0, flush=True)
"""


CLEAR = b"\x1b[H\x1b[2J"


def filmed(app: App, broker_url: str, folder: Path, camera: str, *words: str) -> list[str]:
    (folder / "cameras.py").write_text(CAMERAS)
    env = os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    printed = folder / "printed"
    with printed.open("w") as out, subprocess.Popen(
        command(broker_url, "--camera", f"cameras:{camera}", "--frequency", "0.2", "--limit", "20", *words),
        cwd=ROOT, env=env, stdout=out,
    ) as program:  # fmt: skip
        taken = re.compile("^(?:shot|called) ", re.MULTILINE)
        calling(app, lambda: program.poll() is not None, lambda: len(taken.findall(printed.read_text())))
        assert program.returncode == 0
    return printed.read_text().splitlines()


def test_a_camera_sees_the_state_at_each_interval(app: App, broker_url: str, tmp_path: Path) -> None:
    shots = filmed(app, broker_url, tmp_path, "Plain")

    assert len(shots) >= 2
    assert shots[-1] == "shot interop True ['interop.add']"


def test_a_camera_made_as_celerys_are(app: App, broker_url: str, tmp_path: Path) -> None:
    """A state, freq, maxrate and app; what was seen is forgotten after each picture, if it says so."""
    made, *shots = filmed(app, broker_url, tmp_path, "Instant", "--maxrate", "100/s")

    assert made == "made 0.2 100/s"
    assert "cleaned" in shots
    counts = [int(line.split()[1]) for line in shots if line.startswith("shot")]
    assert len(counts) >= 2
    assert sum(counts) == 20


def test_a_function_may_be_the_camera(app: App, broker_url: str, tmp_path: Path) -> None:
    assert "called True" in filmed(app, broker_url, tmp_path, "function")


def test_the_live_screen(app: App, broker_url: str) -> None:
    """In a pseudo terminal: a table of workers and one of tasks, drawn anew at each interval."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        command(broker_url, "--frequency", "0.2", "--limit", "20"), cwd=ROOT, stdin=follower, stdout=follower
    ) as program:
        os.close(follower)
        shown = b""

        def ended() -> bool:
            nonlocal shown
            while select.select([leader], [], [], 0)[0]:
                try:
                    shown += os.read(leader, 65536)
                except OSError:  # the other side is closed
                    break
            return program.poll() is not None

        calling(app, ended, lambda: shown.count(CLEAR))
        ended()
    os.close(leader)

    screens = shown.decode().split(CLEAR.decode())[1:]
    assert len(screens) >= 2
    last = screens[-1]
    assert "20 events" in last
    assert re.search(r"^ours@here\s+ONLINE", "".join(screens), re.MULTILINE)
    assert re.search(r"^\S+\s+SUCCESS\s+interop\.add\s+ours@here\s+\d\.\d{3}", last, re.MULTILINE)


def test_a_stock_receiver_and_its_state_understand_us(app: App, broker_url: str) -> None:
    from .apps import interop_theirs
    from .support.peers import close_celery

    celery = interop_theirs.make(broker_url)
    state = celery.events.State()
    with celery.connection_for_read() as connection:
        receiver = celery.events.Receiver(connection, handlers={"*": state.event})
        call = ""
        for _ in receiver.itercapture(limit=None, timeout=60, wakeup=True):
            # The first is a heartbeat: now it is listening.
            call = call or app.send_task("interop.add", (1, 2), queue="ours").id
            if call in state.tasks and state.tasks[call].state == "SUCCESS":
                # For seconds only, unless more is heard.
                alive = [worker.hostname for worker in state.alive_workers()]
                break
    close_celery(celery)

    task = state.tasks[call]
    assert (task.name, task.result, task.worker.hostname) == ("interop.add", "3", MINE)
    assert task.received <= task.started <= task.succeeded
    assert MINE in alive


# --- the end ---------------------------------------------------------------------------------------------


def test_a_worker_that_stops_says_so(workers: Any, heard: Heard) -> None:
    """Last: it ends both."""
    ours, theirs = workers
    ours.stop()
    theirs.stop(40.0)

    compared(heard.one("worker-offline", hostname=MINE), heard.one("worker-offline", hostname=OTHER))


def fields_on_the_page() -> dict[str, set[str]]:
    """What `docs/reference/wire.md` says that each event has."""
    page = (ROOT / "docs/reference/wire.md").read_text()
    rows = re.findall(r"^\| (`(?:task|worker)-[^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    return {
        kind: set(re.findall(r"`(\w+)`", fields))
        for kinds, fields in rows
        for kind in re.findall(r"`(.+?)`", kinds)
    }


def test_every_event_has_the_fields_that_the_page_says(workers: Any, heard: Heard) -> None:
    """After all others: each kind has been heard."""
    common = {"type", "timestamp", "hostname", "pid", "clock", "utcoffset"}
    said = fields_on_the_page()
    ours = [event for event in heard.events if event["hostname"] != OTHER]

    assert {event["type"] for event in ours} == said.keys()
    for event in ours:
        assert event.keys() == common | said[event["type"]], event["type"]
