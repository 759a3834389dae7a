"""The table of docs/guide/acknowledgement.md: what becomes of a task, by what dies and by the task's settings.

The table is read from the page, so that the two cannot differ. A row is one scenario: five tasks, one for each
column, all meet the same end on one worker.
"""

import asyncio
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from broker import PrivateNode

from amqptasks import protocol
from amqptasks.amqp import Delivery
from amqptasks.serialization import accept_set
from amqptasks.transport import codec
from integration.apps.fault_effects import Effects
from integration.support import WorkerProcess, wait_until
from integration.support.calls import REPLIES, call, send
from integration.support.links import linked
from tests.support.pages import pages

PAGE = "docs/guide/acknowledgement.md"
COLUMNS = {
    "default (early)": "early",
    "`acks_late`": "late",
    "`acks_late`, `reject_on_worker_lost`": "rejected",
    "`acks_late`, `retry_on_worker_lost`": "retried",
    "`acks_late`, `acks_on_failure_or_timeout=False`": "unforgiven",
}
NUMBERS = {name: number for number, name in enumerate(COLUMNS.values(), 1)}


def table() -> dict[str, dict[str, str]]:
    """The page's table: by what happens, what becomes of each kind of task."""
    text = pages()[PAGE].read_text()
    (found,) = re.findall(r"^\| what happens \|(?:.+\n)+", text, re.MULTILINE)
    lines = [line.strip("| ") for line in found.splitlines()]
    head, _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    names = [COLUMNS[title] for title in head[1:]]
    return {what: dict(zip(names, cells, strict=True)) for what, *cells in rows}


TABLE = table()


class Scene:
    """Workers on one vhost, the five tasks, and what has become of them."""

    def __init__(
        self, node: PrivateNode, vhost: str, folder: Path, start: Callable[..., WorkerProcess]
    ) -> None:
        self.node, self.url, self.folder = node, node.url(vhost), folder
        self.effects = Effects(folder / "effects")
        self._start = start
        self._answers: list[dict[str, Any]] = []
        self._dead: list[str] = []
        self.worker: WorkerProcess

    def start_worker(self) -> None:
        self.worker = self._start(
            "integration.apps.crash_tasks",
            *("-c", str(len(NUMBERS)), "-n", "crash@here"),
            broker_url=self.url,
            env={"FAULT_EFFECTS": str(self.effects.path)},
            ready=r" ready\.",
        )

    def send(self, end: str, broken: bool = False, **options: Any) -> None:
        parcels = [
            call(f"crash.{name}", number, end, task_id=name, **options) for name, number in NUMBERS.items()
        ]
        send(self.url, [replace(parcel, body=b"[[1, ") if broken else parcel for parcel in parcels])

    def all_run(self) -> None:
        wait_until(lambda: len(self.effects.running()) == len(NUMBERS), 20, lambda: self.worker.log()[-3000:])

    def children(self) -> list[int]:
        """Those that run tasks: the zygote is their parent."""
        parents = {pid: _parent(pid) for pid in self.worker.children()}
        return [pid for pid, parent in parents.items() if parent in parents]

    def hold_unstarted(self) -> list[int]:
        """Stop every child, and have each of them hold a task that it has not started; their process ids."""
        stopped = wait_until(lambda: len(found := self.children()) == len(NUMBERS) and found, 10)
        assert stopped
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        self.send("finish")
        wait_until(
            lambda: self.worker.log().count(" received") == len(NUMBERS), 10, "all are with the worker"
        )
        assert self.effects.all() == []
        return stopped

    def early_is_acknowledged(self) -> None:
        """The broker has applied the ack of the early task, and of no other."""
        wait_until(lambda: self.unsettled() == len(NUMBERS) - 1, 10, lambda: f"{self.unsettled()} unsettled")

    def unsettled(self) -> int:
        """Messages of the task queue, ready or held by a worker: what has not been acknowledged for good."""
        # Passive declares count what is ready, and the statistics of a quorum queue are seconds old.
        member = f"{{'{self.url.rpartition('/')[2]}_amqptasks', node()}}"
        total = self.node.eval(f"ra:leader_query({member}, fun rabbit_fifo:query_messages_total/1)")
        found = re.search(r"(\d+)\s*}\s*,\s*{?'?[\w-]+_amqptasks", total)
        return int(found[1]) if found else -1  # nobody answered in time

    def release(self) -> None:
        (self.folder / "go").touch()

    def fates(self) -> dict[str, str]:
        """What has become of each task, in the words of the table."""
        accept = accept_set(["json"])
        self._answers += [
            protocol.decode_result(codec.unpack(one), accept=accept, limit=1 << 20)
            for one in fetched(self.url, REPLIES)
        ]
        self._dead += [
            str((codec.unpack(one).properties.headers or {})["id"])
            for one in fetched(self.url, "amqptasks.dead")
        ]
        return {name: self._fate(name) for name in NUMBERS}

    def _fate(self, name: str) -> str:
        number = NUMBERS[name]
        starts, ends = self.effects.counts("S")[number], self.effects.counts("F")[number]
        last = [answer for answer in self._answers if answer["task_id"] == name]
        final = [answer for answer in last if answer["status"] in ("SUCCESS", "FAILURE")]
        if dead := self._dead.count(name):
            return f"{'dead letter' if dead == 1 else f'{dead} dead letters'}, {_told(final)}"
        if [answer["status"] for answer in final] == ["SUCCESS"]:
            again = {(1, 1): "runs once", (2, 1): "run again", (2, 2): "done twice"}
            return again.get((starts, ends), f"{starts} starts and {ends} ends")
        told = _told(final)
        if told.endswith("`"):
            return f"{'done' if ends else 'lost'}, {told}"
        if told == "no answer" and not self.effects.counts("E")[number]:
            return "lost, no answer" if starts else "not run"
        return told


def fetched(url: str, queue: str) -> list[Delivery]:
    """What lies in a queue now. One by one: a consumer that ends would lose what is on its way."""

    async def scenario() -> list[Delivery]:
        async with linked(url) as link:
            found = []
            while (one := await link.get(queue)) is not None:
                found.append(one)
            return found

    return asyncio.run(scenario())


def _told(final: list[dict[str, Any]]) -> str:
    """What the caller is told: nothing, FAILURE, or how it was lost. Twice is an error of its own."""
    if not final:
        return "no answer"
    told = [type(answer["result"]).__name__ for answer in final]
    if told == ["TimeLimitExceeded", "int"]:
        return "`TimeLimitExceeded`, then run again"
    if len(final) > 1:
        return f"{len(final)} answers"
    return f"`{told[0]}`" if told[0] in ("WorkerLost", "TimeLimitExceeded") else str(final[0]["status"])


def _parent(pid: int) -> int:
    """0 when the process has just ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


# --- what happens, as the page's first column says it -------------------------------------------------------


def _before_it_starts(scene: Scene) -> None:
    for pid in scene.hold_unstarted():
        os.kill(pid, signal.SIGKILL)


def _worker_before_it_starts(scene: Scene) -> None:
    scene.hold_unstarted()
    scene.worker.kill()
    scene.start_worker()


def _worker_while_it_runs(scene: Scene) -> None:
    scene.send("wait")
    scene.all_run()
    scene.early_is_acknowledged()
    scene.worker.kill()
    scene.release()
    scene.start_worker()


def _worker_stopped(scene: Scene) -> None:
    scene.send("wait")
    scene.all_run()
    scene.worker.signal(signal.SIGTERM)
    scene.worker.wait_log("Warm shutdown")
    scene.release()
    assert scene.worker.wait() == 0
    scene.start_worker()


def _worker_stopped_cold(scene: Scene) -> None:
    scene.send("wait")
    scene.all_run()
    scene.worker.signal(signal.SIGQUIT)
    assert scene.worker.wait() == 1
    scene.release()
    scene.start_worker()


def _connection_while_it_runs(scene: Scene) -> None:
    scene.send("wait")
    scene.all_run()
    scene.early_is_acknowledged()
    scene.node.eval(
        '[rabbit_networking:close_connection(Pid, "test") || Pid <- rabbit_networking:connections()]'
    )
    scene.worker.wait_log("consuming again")
    scene.release()


def _broker_while_it_runs(scene: Scene) -> None:
    scene.send("wait")
    scene.all_run()
    scene.early_is_acknowledged()
    scene.node.kill()
    scene.release()
    scene.node.start()


def _ending(end: str, **options: Any) -> Callable[[Scene], None]:
    return lambda scene: scene.send(end, **options)


SCENARIOS: dict[str, Callable[[Scene], None]] = {
    "its child is killed before it starts": _before_it_starts,
    "the worker is killed before it starts": _worker_before_it_starts,
    "a signal kills its child while it runs": _ending("signal"),
    "it calls `sys.exit`": _ending("exit"),
    "it calls `os._exit`": _ending("_exit"),
    "it kills its child each time it runs": _ending("always"),
    "its child dies after its last effect": _ending("after"),
    "it is over its hard time limit": _ending("limit", timelimit=(3.0, None)),
    "the worker is killed while it runs": _worker_while_it_runs,
    "the worker is stopped (SIGTERM) while it runs": _worker_stopped,
    "the worker is stopped cold (SIGQUIT) while it runs": _worker_stopped_cold,
    "the worker loses its connection while it runs": _connection_while_it_runs,
    "the broker is killed while it runs": _broker_while_it_runs,
    "it raises an exception": _ending("fail"),
    "memory runs out (`MemoryError`)": _ending("memory"),
    "it raises `Reject()`": _ending("reject"),
    "it raises `Reject(requeue=True)`": _ending("requeue"),
    "it raises `Ignore()`": _ending("ignore"),
    "its message cannot be decoded": _ending("finish", broken=True),
}


def test_the_page_and_the_scenarios_name_the_same_rows() -> None:
    assert list(TABLE) == list(SCENARIOS)


@pytest.mark.parametrize("what", SCENARIOS)
def test_a_row_of_the_table_is_what_happens(
    what: str, node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> None:
    scene = Scene(node, fresh_vhost, tmp_path, worker)
    scene.start_worker()

    SCENARIOS[what](scene)

    said = TABLE[what]
    seen: dict[str, str] = {}

    def as_said() -> bool:
        seen.update(scene.fates())
        return seen == said and not scene.unsettled()

    wait_until(as_said, 30, lambda: f"{said}; seen {seen}\n{scene.worker.log()[-4000:]}", 0.1)
    assert scene.worker.stop() == 0
    assert scene.fates() == said, "nothing more has come of any of them"
