"""The observer: watches one system through its broker, and acts on it. The dashboard and `amqptasks top` stand on it.

    with Observer(app) as observer:
        observer.overview().workers_online

Reads are answered from memory, at once and in any thread, unless they say otherwise. While the broker is away they tell
the last that was known. What asks or acts (`Actions`) blocks, within its timeouts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from amqptasks.backends.base import Backend, Meta
from amqptasks.errors import AmqptasksError, ImproperlyConfigured
from amqptasks.monitor.actions import Actions
from amqptasks.monitor.depots import Depots
from amqptasks.monitor.history import History
from amqptasks.monitor.known import Known
from amqptasks.monitor.management import Management
from amqptasks.monitor.snapshot import Graph, Overview, QueueRow, Series, TaskDetail, TaskRow, WorkerRow
from amqptasks.monitor.watch import Watch
from amqptasks.shown import shown
from amqptasks.transport.opening import configured
from amqptasks.transport.url import parse

if TYPE_CHECKING:
    from amqptasks.app import App

log = logging.getLogger(__name__)

STOP = 0.8
"""Seconds that `stop` waits for the thread, which closes its connection meanwhile."""


class Observer(Actions):
    """Watches from `start()` to `stop()`, in one thread of its own, and one more for the management plugin.

    `events_limit`: calls kept in memory, the youngest. `history`: seconds that charts go back; `interval`: seconds
    between looks at the queues, and points of a chart. `management_url`: `http://host:15672` of the management plugin;
    None looks for it on the broker's host, "" leaves it alone. Raises ImproperlyConfigured. Start it after a fork.
    """

    def __init__(
        self,
        app: App,
        *,
        events_limit: int = 10_000,
        history: float = 3600.0,
        interval: float = 2.0,
        management_url: str | None = None,
    ) -> None:
        if interval <= 0 or history <= 0 or events_limit < 1:
            raise ImproperlyConfigured("interval, history and events_limit of an observer are above zero")
        settings = app.conf.table(with_defaults=True, censored=False)
        brokers = parse(
            settings["broker_read_url"] or settings["broker_url"], settings["broker_use_ssl"] or False
        )
        types = {queue.name: str(queue.type or "classic") for queue in app.known_queues()}
        known = Known(brokers[0].masked(), events_limit, History(history, interval), Depots(types))
        super().__init__(app, known)
        self.interval = interval
        self._management = Management(brokers, management_url)
        known.told = lambda: self._management.told
        reading, writing = (configured(settings, role, "amqptasks observer") for role in ("read", "write"))
        self._watch = Watch(known, reading, writing, settings, interval)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watching: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        state = "watching" if self._thread is not None else "stopped"
        return f"<Observer of {self._known.overview().broker} | {state}>"

    # --- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to watch; returns at once, whether or not there is a broker. Does nothing when it watches."""
        if self._thread is not None:
            return
        begun = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(begun,), name="amqptasks-observer", daemon=True
        )
        self._thread.start()
        begun.wait(STOP)
        self._management.start()

    def stop(self) -> None:
        """End within a second. What was known stays readable; it can be started again."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._management.stop()
        loop, watching = self._loop, self._watching
        if loop is not None and watching is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(watching.cancel)
        thread.join(STOP)
        self._known.disconnected("the observer was stopped")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, begun: threading.Event) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._watching = asyncio.create_task(self._watch.run())
            begun.set()
            await self._watching

        try:
            asyncio.run(main())
        except asyncio.CancelledError:
            pass
        except Exception as error:
            log.exception("the observer ended by an error of its own")
            self._known.disconnected(f"the observer ended by an error of its own: {error!r}")

    # --- reads -------------------------------------------------------------------------------------------

    def overview(self) -> Overview:
        return self._known.overview()

    def queues(self, *, internal: bool = False) -> tuple[QueueRow, ...]:
        """Task queues by name; with `internal` also those of dead letters and those of the system itself."""
        return self._known.queues(internal=internal)

    def workers(self) -> tuple[WorkerRow, ...]:
        return self._known.workers()

    def tasks(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        worker: str | None = None,
        queue: str | None = None,
        search: str = "",
        before: float | None = None,
        limit: int = 100,
    ) -> tuple[TaskRow, ...]:
        """Youngest first. `search` is looked for in id, name, arguments, result and exception; `before` is the `at`
        of the last row, for the next page.
        """
        asked = {"state": state, "name": name, "worker": worker, "queue": queue}
        wanted = {key: value for key, value in asked.items() if value}
        with self._known.lock:
            return self._known.calls.rows(wanted, search, before, limit)

    def task_names(self) -> tuple[str, ...]:
        """Names of the calls in memory, in order."""
        with self._known.lock:
            return self._known.calls.names()

    def task(self, task_id: str) -> TaskDetail | None:
        """Return what is known of a call. What no event told of is looked up where results are stored, which may
        block; None when it is not known there either.
        """
        with self._known.lock:
            detail = self._known.calls.detail(task_id)
        if detail is not None:
            return detail
        try:
            backend: Backend = self._app.backend
            meta = backend.fetch(task_id) if backend.stores else None
        except AmqptasksError as error:
            log.debug("the result of %s cannot be read: %s", task_id, error)
            return None
        return None if meta is None else _from_result(meta)

    def graph(self, task_id: str, limit: int = 500) -> Graph | None:
        """Return the workflow that a call belongs to; None when the call is not in memory."""
        with self._known.lock:
            return self._known.calls.graph(task_id, limit)

    def series(self, name: str, points: int = 300) -> Series:
        """Return one of `snapshot.SERIES`, thinned to at most so many points. Raises KeyError for another name."""
        with self._known.lock:
            return self._known.history.series(name, points)


def _from_result(meta: Meta) -> TaskDetail:
    extended = meta.extended
    text = "" if meta.result is None else shown(meta.result)
    failed = isinstance(meta.result, BaseException)
    return TaskDetail(
        row=TaskRow(
            id=meta.task_id,
            state=meta.status,
            name=str(extended.get("name") or ""),
            args=str(extended.get("args") or ""),
            kwargs=str(extended.get("kwargs") or ""),
            result="" if failed else text,
            exception=text if failed else "",
            worker=str(extended.get("worker") or ""),
            queue=str(extended.get("queue") or ""),
            retries=int(extended.get("retries") or 0),
        ),
        traceback=meta.traceback or "",
        parent=meta.parent_id or "",
        from_result=True,
    )
