"""The pages that only show. Each asks the observer when it is looked at, and at no other time.

Plain functions: Starlette runs them in threads, since some of the observer's answers take their time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from amqptasks.dashboard import charts
from amqptasks.dashboard.graphs import draw
from amqptasks.dashboard.guard import visit_of
from amqptasks.dashboard.rendering import Renderer, address, part
from amqptasks.dashboard.wording import HELD, STATES
from amqptasks.errors import AmqptasksError
from amqptasks.monitor.observer import Observer
from amqptasks.monitor.snapshot import DeadLetterPage, QueueRow, SchedulePage, Series

ROWS = 50
MOST_ROWS = 200
DRAWN = 150
"""Calls of a workflow that are drawn."""
DEEPEST = 10_000
"""Dead letters that are leafed through: the broker hands out all that lie before, each time."""
POINTS = 120
THROUGHPUT = {
    "succeeded": "good", "retried": "warn", "failed": "bad", "revoked": "odd", "rejected": "soft",
}  # fmt: skip
DURATIONS = {"p50": "busy", "p99": "accent"}
POOL = {"online": "good", "active": "busy"}


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one dashboard."""

    observer: Observer
    renderer: Renderer

    def overview(self, request: Request) -> Response:
        return self.renderer.page(
            request,
            "overview.html",
            refresh=True,
            queues=self.observer.queues(),
            workers=self.observer.workers(),
            failures=self.observer.tasks(state="FAILURE", limit=5),
            throughput=charts.stacked("Calls a second", self._series("throughput"), THROUGHPUT),
            runtime=charts.lines("Run time", self._series("runtime"), DURATIONS),
            wait=charts.lines("Wait before the start", self._series("wait"), DURATIONS),
            depth=charts.lines("Messages that wait, by queue", self._series("depth")),
        )

    def queues(self, request: Request) -> Response:
        internal = request.query_params.get("internal") == "1"
        return self.renderer.page(
            request,
            "queues.html",
            refresh=True,
            rows=self.observer.queues(internal=internal),
            internal=internal,
            depth=charts.lines("Messages that wait, by queue", self._series("depth")),
        )

    def queue(self, request: Request) -> Response:
        name = request.path_params["name"]
        row = next((row for row in self.observer.queues(internal=True) if row.name == name), None)
        if row is None:
            return self.renderer.refuse(
                request,
                404,
                f"There is no queue {name!r}.",
                "The app names no such queue, and no worker does.",
            )
        return self.renderer.page(
            request,
            "queue.html",
            refresh=True,
            row=row,
            depth=charts.lines("Messages that wait", _only(self._series("depth"), row)),
            calls=self.observer.tasks(queue=name, limit=10),
            workers=[worker for worker in self.observer.workers() if worker.alive],
        )

    def workers(self, request: Request) -> Response:
        return self.renderer.page(
            request,
            "workers.html",
            refresh=True,
            rows=self.observer.workers(),
            pool=charts.lines("Workers online and calls that run", self._series("workers"), POOL),
        )

    def worker(self, request: Request) -> Response:
        node = request.path_params["node"]
        detail = self.observer.worker(node)
        if detail is None:
            return self.renderer.refuse(
                request,
                404,
                f"Nobody named {node!r} was heard of.",
                "It may have ended before this dashboard began.",
            )
        return self.renderer.page(
            request,
            "worker.html",
            refresh=True,
            detail=detail,
            row=detail.row,
            calls=self.observer.tasks(worker=node, limit=10),
            queue_names=[row.name for row in self.observer.queues() if row.name not in detail.row.queues],
        )

    def tasks(self, request: Request) -> Response:
        asked = request.query_params
        limit = _bounded(asked.get("limit", ""), ROWS, MOST_ROWS)
        before = _moment(asked.get("before", ""))
        chosen = {
            name: asked.get(name, "").strip() for name in ("state", "name", "worker", "queue", "search")
        }
        found = self.observer.tasks(
            state=chosen["state"] or None,
            name=chosen["name"] or None,
            worker=chosen["worker"] or None,
            queue=chosen["queue"] or None,
            search=chosen["search"],
            before=before,
            limit=limit + 1,
        )
        rows = found[:limit]
        older = address(request, "/tasks", {**chosen, "limit": asked.get("limit"), "before": repr(rows[-1].at)}) if (
            len(found) > limit
        ) else ""  # fmt: skip
        return self.renderer.page(
            request,
            "tasks.html",
            # Somebody who leafs through old calls does not want them to move.
            refresh=before is None,
            rows=rows,
            chosen=chosen,
            older=older,
            newest=before is None,
            states=STATES,
            # Of a mixed list few could be marked, and the choice would come and go with every renewal.
            markable=visit_of(request).may_write and chosen["state"] in HELD,
            names=self.observer.task_names(),
            nodes=[row.node for row in self.observer.workers()],
        )

    def task(self, request: Request) -> Response:
        name = request.path_params["id"]
        detail = self.observer.task(name)
        if detail is None:
            return self.renderer.refuse(
                request,
                404,
                f"No call {name!r} is known.",
                "Calls are known from their events (worker -E), the youngest ones; and from stored results.",
            )
        graph = self.observer.graph(name, limit=DRAWN)
        held = detail.row.state in HELD
        return self.renderer.page(
            request,
            "task.html",
            refresh=held,
            detail=detail,
            row=detail.row,
            held=held,
            graph=graph if graph is not None and len(graph.nodes) > 1 else None,
            picture=draw(graph, name, _links(request)) if graph is not None else "",
        )

    def find_task(self, request: Request) -> Response:
        """The field `id` of a form leads to the call's own page, also without a script."""
        wanted = request.query_params.get("id", "").strip()
        return self.renderer.back(request, f"/tasks/{part(wanted)}" if wanted else "/tasks")

    def dead(self, request: Request) -> Response:
        asked = request.query_params
        queue = asked.get("queue", "").strip()
        offset = _bounded(asked.get("offset", ""), 0, DEEPEST, least=0)
        page, problem = self._dead_letters(queue, offset)
        below = offset + len(page.rows)
        return self.renderer.page(
            request,
            "dead.html",
            page=page,
            problem=problem,
            queue=queue,
            queues=[row for row in self.observer.queues() if row.dead_letters or row.name == queue],
            newer=address(request, "/dead", {"queue": queue, "offset": max(offset - ROWS, 0)})
            if offset
            else "",
            older=address(request, "/dead", {"queue": queue, "offset": below})
            if page.rows and below < min(page.total, DEEPEST)
            else "",
        )

    def _dead_letters(self, queue: str, offset: int) -> tuple[DeadLetterPage, str]:
        try:
            return self.observer.dead_letters(queue or None, limit=ROWS, offset=offset), ""
        except AmqptasksError as error:
            return DeadLetterPage(), str(error)

    def dead_letter(self, request: Request) -> Response:
        queue, name = (request.query_params.get(each, "") for each in ("queue", "id"))
        text = self.observer.dead_letter_body(queue, name)
        if not text:
            return self.renderer.refuse(
                request,
                404,
                f"No dead letter {name!r} lies in {queue!r}.",
                "It was replayed or dropped meanwhile.",
            )
        return self.renderer.page(request, "letter.html", text=text, queue=queue, name=name)

    def schedules(self, request: Request) -> Response:
        try:
            page = self.observer.schedules()
        except AmqptasksError as error:
            page = SchedulePage(message=str(error))
        return self.renderer.page(request, "schedules.html", page=page)

    def _series(self, name: str) -> Series:
        return self.observer.series(name, POINTS)


def _only(series: Series, row: QueueRow) -> Series:
    values = {name: points for name, points in series.values.items() if name == row.name}
    return Series(
        name=series.name, unit=series.unit, interval=series.interval, times=series.times, values=values
    )


def _links(request: Request) -> Callable[[str], str]:
    return lambda name: address(request, f"/tasks/{part(name)}")


def _bounded(text: str, default: int, most: int, least: int = 1) -> int:
    return (
        min(max(int(text), least), most) if text.isascii() and text.isdigit() and len(text) < 10 else default
    )


def _moment(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if 0 < found < 1e11 else None


def routes(pages: Pages) -> dict[str, Callable[[Request], Any]]:
    """Return each path's page."""
    return {
        "/": pages.overview,
        "/queues": pages.queues,
        "/queues/{name:path}": pages.queue,
        "/workers": pages.workers,
        "/workers/{node:path}": pages.worker,
        "/tasks": pages.tasks,
        "/find": pages.find_task,
        "/tasks/{id:path}": pages.task,
        "/dead": pages.dead,
        "/dead/letter": pages.dead_letter,
        "/schedules": pages.schedules,
    }
