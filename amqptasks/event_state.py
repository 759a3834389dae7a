"""What events add up to: workers and tasks as they were last told of, in bounded memory. Thread-safe; no I/O."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from amqptasks import states

STATES: Mapping[str, str] = {
    "task-sent": states.PENDING,
    "task-received": states.RECEIVED,
    "task-started": states.STARTED,
    "task-succeeded": states.SUCCESS,
    "task-failed": states.FAILURE,
    "task-retried": states.RETRY,
    "task-revoked": states.REVOKED,
    "task-rejected": states.REJECTED,
}
_ORDER = (states.PENDING, states.RECEIVED, states.STARTED)
_FIELDS = ("name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires")
_OTHERS = ("result", "runtime", "exception", "traceback", "queue", "exchange", "routing_key")


@dataclass(slots=True)
class Worker:
    """A node. `alive` is so for two heartbeats after the last one."""

    hostname: str
    pid: int | None = None
    freq: float = 2.0
    active: int | None = None
    processed: int | None = None
    loadavg: tuple[float, ...] = ()
    sw_ident: str = ""
    sw_ver: str = ""
    sw_sys: str = ""
    heartbeat: float = 0.0
    """When it was last heard of, by the receiver's clock."""
    online: bool = True

    @property
    def alive(self) -> bool:
        return self.online and time.time() < self.heartbeat + self.freq * 2

    status_string = property(lambda self: "ONLINE" if self.alive else "OFFLINE")


@dataclass(slots=True)
class Task:
    """A call. Times are seconds since the epoch, by the clock of whoever sent the event; None: not heard of."""

    uuid: str
    state: str = states.PENDING
    name: str | None = None
    worker: str | None = None
    args: str | None = None
    kwargs: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    retries: int | None = None
    eta: str | None = None
    expires: Any = None
    result: str | None = None
    runtime: float | None = None
    exception: str | None = None
    traceback: str | None = None
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    timestamp: float = 0.0
    """Of its last event."""
    times: dict[str, float] = field(default_factory=dict)
    """When it came into each state."""

    @property
    def ready(self) -> bool:
        return self.state in states.READY_STATES

    def info(self) -> dict[str, Any]:
        """Return what is known, without what is not."""
        names = ("uuid", "state", "worker", "timestamp", *_FIELDS, *_OTHERS)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class State:
    """Fed with events; keeps the youngest `max_tasks_in_memory` tasks and `max_workers_in_memory` workers."""

    def __init__(self, max_workers_in_memory: int = 5000, max_tasks_in_memory: int = 10_000) -> None:
        self.workers: dict[str, Worker] = {}
        self.tasks: dict[str, Task] = {}
        self.event_count = 0
        self.task_count = 0
        self._most = (max_workers_in_memory, max_tasks_in_memory)
        self._lock = threading.RLock()

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in an event; kinds that are not known are counted only."""
        with self._lock:
            self.event_count += 1
            kind = str(event.get("type", ""))
            if kind.startswith("worker-") and event.get("hostname"):
                self._of_worker(kind, event)
            elif kind in STATES and event.get("uuid"):
                self._of_task(kind, event)

    def _of_worker(self, kind: str, event: Mapping[str, Any]) -> None:
        worker = self.workers.setdefault(str(event["hostname"]), Worker(str(event["hostname"])))
        worker.online = kind != "worker-offline"
        worker.heartbeat = time.time()
        for name in ("pid", "freq", "active", "processed", "sw_ident", "sw_ver", "sw_sys"):
            if event.get(name) is not None:
                setattr(worker, name, event[name])
        worker.loadavg = tuple(event.get("loadavg") or worker.loadavg)
        _bound(self.workers, self._most[0])

    def _of_task(self, kind: str, event: Mapping[str, Any]) -> None:
        uuid, state = str(event["uuid"]), STATES[kind]
        task = self.tasks.get(uuid)
        if task is None:
            task = self.tasks[uuid] = Task(uuid)
            self.task_count += 1
            _bound(self.tasks, self._most[1])
        for name in (*_FIELDS, *_OTHERS):
            if event.get(name) is not None:
                setattr(task, name, event[name])
        at = float(event.get("timestamp") or 0.0)
        task.times[state] = at
        if kind != "task-sent" and event.get("hostname"):
            task.worker = str(event["hostname"])
        # Sender and worker are two connections: "sent" may be heard after "received", but undoes nothing.
        late = state in _ORDER and (
            (task.state in _ORDER and _ORDER.index(state) < _ORDER.index(task.state))
            or (task.ready and at <= task.timestamp)
        )
        if not late:
            task.state = state
        task.timestamp = max(task.timestamp, at)

    def alive_workers(self) -> list[Worker]:
        with self._lock:
            return [worker for worker in self.workers.values() if worker.alive]

    def tasks_by_time(self, limit: int | None = None) -> Iterator[tuple[str, Task]]:
        """Youngest first."""
        with self._lock:
            found = sorted(self.tasks.items(), key=lambda each: each[1].timestamp, reverse=True)
        return iter(found[:limit])

    def tasks_by_type(self, name: str, limit: int | None = None) -> Iterator[tuple[str, Task]]:
        found = [(uuid, task) for uuid, task in self.tasks_by_time() if task.name == name]
        return iter(found[:limit])

    def tasks_by_worker(self, hostname: str, limit: int | None = None) -> Iterator[tuple[str, Task]]:
        found = [(uuid, task) for uuid, task in self.tasks_by_time() if task.worker == hostname]
        return iter(found[:limit])

    def task_types(self) -> list[str]:
        with self._lock:
            return sorted({task.name for task in self.tasks.values() if task.name})

    def clear(self, ready: bool = True) -> None:
        """Forget every task; with `ready=False` those that have ended only."""
        with self._lock:
            kept = {} if ready else {uuid: task for uuid, task in self.tasks.items() if not task.ready}
            self.tasks = kept

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"


def _bound(known: dict[str, Any], most: int) -> None:
    while len(known) > most:
        del known[next(iter(known))]
