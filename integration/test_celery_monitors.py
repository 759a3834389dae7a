"""A monitor made of stock Celery's parts, as celery-exporter is: a receiver, a State, counters by event.

It counts what workers of ours did with 500 calls of every outcome, to the last one.
"""

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from amqptasks import App
from integration.support import WorkerProcess, wait_until

APP = "integration.apps.flower_tasks"
NODES = ("one@here", "two@here")
KINDS = ("sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected")


class Exporter:
    """Used as celery-exporter uses Celery: State first, then the counters, by the task that State knows."""

    def __init__(self, url: str) -> None:
        self.app = Celery(broker=url)
        self.state = self.app.events.State()
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """By event, task and worker."""
        self.exceptions: Counter[str] = Counter()
        self.runtimes: list[float] = []
        self.up: dict[str, bool] = {}
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        """By call, in the order of their coming."""
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        handlers = {f"task-{kind}": self._task for kind in KINDS}
        handlers |= {f"worker-{kind}": self._worker for kind in ("online", "heartbeat", "offline")}
        with self.app.connection() as connection:
            self.receiver = self.app.events.Receiver(connection, handlers=handlers, app=self.app)
            self.receiver.capture(limit=None, timeout=None, wakeup=True)

    def _task(self, event: dict[str, Any]) -> None:
        self.state.event(event)
        task = self.state.tasks.get(event["uuid"])
        self.counts[event["type"], task.name, event["hostname"]] += 1
        if event["type"] == "task-failed":
            self.exceptions[re.match(r"^(\w+)\(", task.exception)[1]] += 1
        if event["type"] == "task-succeeded":
            self.runtimes.append(task.runtime)
        self.events[event["uuid"]].append(event)

    def _worker(self, event: dict[str, Any]) -> None:
        self.state.event(event)
        self.up[event["hostname"]] = event["type"] != "worker-offline"
        self._listening.set()

    def alive(self, node: str) -> bool:
        worker = self.state.workers.get(node)
        return worker is not None and bool(worker.alive)

    def count(self, kind: str, task: str = "") -> int:
        return sum(
            number
            for (event, name, _), number in self.counts.items()
            if event == f"task-{kind}" and task in ("", name.rpartition(".")[2])
        )

    def start(self) -> None:
        self._thread.start()
        assert self._listening.wait(60)

    def stop(self) -> None:
        self.receiver.should_stop = True
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def workers(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, WorkerProcess]]:
    folder = tmp_path_factory.mktemp("workers")
    started = {node: begin(node, broker_url, folder) for node in NODES}
    yield started
    for process in started.values():
        process.end()


def begin(node: str, url: str, folder: Path) -> WorkerProcess:
    return WorkerProcess(APP, "-c", "2", "-n", node, "-E", log=folder / f"{node}.log", broker_url=url).start()


@pytest.fixture(scope="module")
def exporter(broker_url: str, workers: dict[str, WorkerProcess]) -> Iterator[Exporter]:
    listening = Exporter(broker_url)
    listening.start()
    wait_until(lambda: all(map(listening.alive, NODES)), 20)
    yield listening
    listening.stop()


def test_five_hundred_calls_are_counted_to_the_last(exporter: Exporter, broker_url: str) -> None:
    with App("client", broker=broker_url) as app:
        app.conf.task_send_sent_event = True
        app.control.revoke([f"revoked-{number}" for number in range(60)], reply=True, limit=2, timeout=60.0)
        with app.batch():
            for number in range(200):
                app.send_task(f"{APP}.add", (number, 1))
            for number in range(60):
                app.send_task(f"{APP}.fail", (f"reason {number}",))
                app.send_task(f"{APP}.flaky", (1,))
                app.send_task(f"{APP}.add", (1, 1), task_id=f"revoked-{number}")
            for _ in range(40):
                app.send_task(f"{APP}.refuse")
                app.send_task(f"{APP}.ignored")
                app.send_task(f"{APP}.add", (1, 1), expires=-1)

    wanted = {
        "sent": 500,
        "received": 560,  # each retry is received again
        "started": 200 + 60 + 120 + 40 + 40,
        "succeeded": 200 + 60,
        "failed": 60,
        "retried": 60,
        "revoked": 60 + 40,  # by name, and because they expired
        "rejected": 40,
    }

    def counted() -> dict[str, int]:
        return {kind: exporter.count(kind) for kind in KINDS}

    wait_until(lambda: counted() == wanted, 30, lambda: f"{counted()}, wanted {wanted}")
    assert exporter.exceptions == {"ValueError": 60}
    assert len(exporter.runtimes) == 260
    assert all(0 <= runtime < 30 for runtime in exporter.runtimes)
    assert exporter.count("succeeded", "flaky") == exporter.count("retried", "flaky") == 60
    assert {host for kind, _, host in exporter.counts if kind != "task-sent"} == set(NODES)

    states = Counter(task.state for task in exporter.state.tasks.values())
    # Rejected and ignored ones stay STARTED in Celery's State, as those of its own workers do.
    assert states == {"SUCCESS": 260, "FAILURE": 60, "REVOKED": 100, "STARTED": 80}


def test_the_events_of_a_call_come_in_their_order(exporter: Exporter) -> None:
    rank = {f"task-{kind}": place for place, kind in enumerate(KINDS)}
    assert len(exporter.events) == 500
    for uuid, events in exporter.events.items():
        told = [event for event in events if event["type"] != "task-sent"]
        # A retry is received anew, maybe by the other worker: each attempt by itself.
        attempts: list[list[dict[str, Any]]] = []
        for event in told:
            if event["type"] == "task-received":
                attempts.append([])
            attempts[-1].append(event)
        for attempt in attempts:
            kinds = [rank[event["type"]] for event in attempt]
            assert kinds == sorted(set(kinds)), (uuid, kinds)
            assert len({event["hostname"] for event in attempt}) == 1
            clocks = [event["clock"] for event in attempt]
            assert clocks == sorted(set(clocks)), (uuid, clocks)
            times = [event["timestamp"] for event in attempt]
            assert times == sorted(times), (uuid, times)
    assert len(list(exporter.state.tasks_by_time())) == 500


def test_a_worker_that_stops_is_offline_until_it_is_back(
    exporter: Exporter, workers: dict[str, WorkerProcess], broker_url: str, tmp_path: Path
) -> None:
    node = NODES[1]
    before = exporter.state.workers[node].pid

    assert workers[node].stop() == 0
    wait_until(lambda: not exporter.up[node], 10)
    assert not exporter.alive(node)
    wait_until(lambda: exporter.alive(NODES[0]), 10, "a heartbeat of the other one")

    workers[node] = begin(node, broker_url, tmp_path)
    wait_until(lambda: exporter.alive(node) and exporter.up[node], 10)
    assert exporter.state.workers[node].pid == workers[node].pid != before


def test_a_worker_that_is_killed_is_offline_after_two_heartbeats(
    exporter: Exporter, workers: dict[str, WorkerProcess]
) -> None:
    workers[NODES[1]].kill()

    wait_until(lambda: not exporter.alive(NODES[1]), 10)
    assert exporter.up[NODES[1]]  # it could not say so itself
    wait_until(lambda: exporter.alive(NODES[0]), 10, "a heartbeat of the other one")
