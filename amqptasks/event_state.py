"""What events add up to: workers and tasks as they were last told of, in bounded memory. Thread-safe; no I/O.

Under the names of Celery's `State`, so that what was written for it goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from amqptasks import states
from amqptasks.bounded import drop_oldest

R = TypeVar("R")

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
HEARTBEATS = 4
"""Of a worker that are kept."""
LATE = 2
"""Heartbeats that a worker may miss before it counts as gone."""
_ORDER = (states.PENDING, states.RECEIVED, states.STARTED)
_INFO = (
    "args", "kwargs", "retries", "result", "eta", "runtime", "expires", "exception", "exchange", "routing_key",
    "root_id", "parent_id",
)  # fmt: skip
_WORKER = ("pid", "freq", "active", "processed", "clock", "loadavg", "sw_ident", "sw_ver", "sw_sys")


@dataclass(slots=True, weakref_slot=True)
class Worker:
    """A node. `alive` is so for two heartbeats after the last one."""

    hostname: str
    pid: int | None = None
    freq: float = 2.0
    active: int | None = None
    processed: int | None = None
    clock: int = 0
    loadavg: Any = None
    """Of one, five and fifteen minutes."""
    sw_ident: str | None = None
    sw_ver: str | None = None
    sw_sys: str | None = None
    heartbeats: list[float] = field(default_factory=list)
    """When it was last heard of, by the receiver's clock; none once it has said that it ends."""

    @property
    def heartbeat_expires(self) -> float:
        """When it counts as gone, if nothing more is heard. Raises IndexError when it is gone already."""
        return self.heartbeats[-1] + self.freq * LATE

    @property
    def alive(self) -> bool:
        return bool(self.heartbeats) and time.time() < self.heartbeat_expires

    @property
    def id(self) -> str:
        return f"{self.hostname}.{self.pid}"

    status_string = property(lambda self: "ONLINE" if self.alive else "OFFLINE")

    def heard(self, at: float) -> None:
        self.heartbeats.append(at)
        del self.heartbeats[:-HEARTBEATS]


@dataclass(slots=True, weakref_slot=True, eq=False)
class Task:
    """A call. Times are seconds since the epoch, by the clock of whoever sent the event; None: not heard of."""

    uuid: str
    name: str | None = None
    state: str = states.PENDING
    sent: float | None = None
    received: float | None = None
    started: float | None = None
    succeeded: float | None = None
    failed: float | None = None
    retried: float | None = None
    revoked: float | None = None
    rejected: float | None = None
    worker: Worker | None = None
    client: str | None = None
    """Who sent it, if it was told that it was sent."""
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
    clock: int = 0
    timestamp: float = 0.0
    """Of its last event."""
    of: State | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        return self.uuid

    @property
    def ready(self) -> bool:
        return self.state in states.READY_STATES

    @property
    def origin(self) -> str | None:
        return self.client if self.worker is None else self.worker.id

    @property
    def parent(self) -> Task | None:
        return self._task(self.parent_id)

    @property
    def root(self) -> Task | None:
        return self._task(self.root_id)

    @property
    def children(self) -> list[Task]:
        """Those that are known of."""
        known = [] if self.of is None else [task for _, task in self.of.itertasks()]
        return [task for task in known if task.parent_id == self.uuid]

    def _task(self, uuid: str | None) -> Task | None:
        return None if uuid is None or self.of is None else self.of.tasks.get(uuid)

    def info(self, fields: tuple[str, ...] | None = None, extra: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return these fields, or what a screen shows; without what is not known."""
        names = (*(_INFO if fields is None else fields), *extra)
        return {name: value for name in names if (value := getattr(self, name, None)) is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return everything; other tasks as their ids, and the worker as its name."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "of"}
        return told | {
            "worker": None if self.worker is None else self.worker.hostname,
            "children": [task.uuid for task in self.children],
            "root": self.root_id,
            "parent": self.parent_id,
        }


_TASK = frozenset(each.name for each in fields(Task)) & {*_INFO, "name", "traceback", "queue"}

OnNode = Callable[[Worker], Any]


class State:
    """Fed with events; keeps the youngest `max_tasks_in_memory` tasks and `max_workers_in_memory` workers.

    `callback(state, event)` is called with each event; `on_node_join(worker)` and `on_node_leave(worker)` when a worker
    is first heard of, and when it says that it ends; then a worker is forgotten.
    """

    def __init__(
        self,
        callback: Callable[[State, Mapping[str, Any]], Any] | None = None,
        *,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10_000,
        on_node_join: OnNode | None = None,
        on_node_leave: OnNode | None = None,
    ) -> None:
        self.workers: dict[str, Worker] = {}
        self.tasks: dict[str, Task] = {}
        self.event_count = 0
        self.task_count = 0
        self.event_callback = callback
        self.on_node_join = on_node_join
        self.on_node_leave = on_node_leave
        self.handlers: dict[str, Callable[[str, Mapping[str, Any]], Any]] = {}
        """By what a type begins with: `handlers["order"]("shipped", event)` instead of what is done here."""
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self._seen_types: set[str] = set()
        self._lock = threading.RLock()

    def event(self, event: Mapping[str, Any]) -> None:
        """Take in an event; kinds that are not known are counted only."""
        with self._lock:
            self.event_count += 1
            if self.event_callback is not None:
                self.event_callback(self, event)
            kind = str(event.get("type", ""))
            group, _, subject = kind.partition("-")
            if group in self.handlers:
                self.handlers[group](subject, event)
            elif group == "worker" and event.get("hostname"):
                self._of_worker(subject, event)
            elif kind in STATES and event.get("uuid"):
                self._of_task(kind, event)

    def _of_worker(self, subject: str, event: Mapping[str, Any]) -> None:
        worker, created = self.get_or_create_worker(str(event["hostname"]))
        for name in _WORKER:
            if event.get(name) is not None:
                setattr(worker, name, event[name])
        if subject != "offline":
            worker.heard(time.time())
            if self.on_node_join is not None and (created or subject == "online"):
                self.on_node_join(worker)
            return
        worker.heartbeats.clear()
        if self.on_node_leave is not None:
            self.on_node_leave(worker)
            self.workers.pop(worker.hostname, None)

    def _of_task(self, kind: str, event: Mapping[str, Any]) -> None:
        state = STATES[kind]
        task, _ = self.get_or_create_task(str(event["uuid"]))
        for name in _TASK:
            if event.get(name) is not None:
                setattr(task, name, event[name])
        if task.name:
            self._seen_types.add(task.name)
        at = float(event.get("timestamp") or 0.0)
        setattr(task, kind.removeprefix("task-"), at)
        if kind == "task-sent":
            task.client = event.get("hostname")
        elif event.get("hostname"):
            task.worker, _ = self.get_or_create_worker(str(event["hostname"]))
            task.worker.heard(time.time())
        # Sender and worker are two connections: "sent" may be heard after "received", but undoes nothing.
        late = state in _ORDER and (
            (task.state in _ORDER and _ORDER.index(state) < _ORDER.index(task.state))
            or (task.ready and (at <= task.timestamp or state == states.PENDING))
        )
        if not late:
            task.state = state
        task.timestamp = max(task.timestamp, at)
        task.clock = max(task.clock, int(event.get("clock") or 0))

    def get_or_create_worker(self, hostname: str) -> tuple[Worker, bool]:
        """Return a worker, and whether it was not known of."""
        with self._lock:
            if (known := self.workers.get(hostname)) is not None:
                return known, False
            worker = self.workers[hostname] = Worker(hostname)
            drop_oldest(self.workers, self.max_workers_in_memory)
            return worker, True

    def get_or_create_task(self, uuid: str) -> tuple[Task, bool]:
        """Return a task, and whether it was not known of."""
        with self._lock:
            if (known := self.tasks.get(uuid)) is not None:
                return known, False
            task = self.tasks[uuid] = Task(uuid, of=self)
            self.task_count += 1
            drop_oldest(self.tasks, self.max_tasks_in_memory)
            return task, True

    # --- what is known -----------------------------------------------------------------------------------

    def freeze_while(
        self, function: Callable[..., R], *args: Any, clear_after: bool = False, **options: Any
    ) -> R:
        """Call a function while no event is taken in; then forget what it has seen, if that is said."""
        with self._lock:
            try:
                return function(*args, **options)
            finally:
                if clear_after:
                    self.clear()

    def alive_workers(self) -> list[Worker]:
        with self._lock:
            return [worker for worker in self.workers.values() if worker.alive]

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, Task]]:
        """In the order in which they were first heard of."""
        with self._lock:
            return iter(list(self.tasks.items())[:limit])

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, Task]]:
        """Youngest first."""
        with self._lock:
            found = sorted(self.tasks.items(), key=lambda each: each[1].timestamp, reverse=reverse)
        return iter(found[:limit])

    tasks_by_timestamp = tasks_by_time

    def tasks_by_type(
        self, name: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, Task]]:
        found = [(uuid, task) for uuid, task in self.tasks_by_time(reverse=reverse) if task.name == name]
        return iter(found[:limit])

    def tasks_by_worker(
        self, hostname: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, Task]]:
        tasks = self.tasks_by_time(reverse=reverse)
        found = [(uuid, task) for uuid, task in tasks if task.worker and task.worker.hostname == hostname]
        return iter(found[:limit])

    def task_types(self) -> list[str]:
        """The names of all tasks that were ever heard of."""
        with self._lock:
            return sorted(self._seen_types)

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the tasks that have ended; with `ready=False` every task."""
        with self._lock:
            self.tasks = {uuid: task for uuid, task in self.tasks.items() if not task.ready} if ready else {}

    def clear(self, ready: bool = True) -> None:
        """As `clear_tasks`; forget the workers and the counts too."""
        with self._lock:
            self.workers = {}
            self.clear_tasks(ready)
            self.event_count = self.task_count = 0

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"
