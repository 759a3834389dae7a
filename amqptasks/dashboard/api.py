"""The same snapshots as JSON, to read only: `/api/overview` and its like. For your own pages and alarms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from amqptasks.errors import AmqptasksError
from amqptasks.monitor.observer import Observer
from amqptasks.monitor.snapshot import SERIES

ROWS, MOST_ROWS = 100, 1000
DEEPEST = 10_000
"""Dead letters that are passed over: the broker hands out all of them, each time."""

Ask = Callable[[Request], Any]


@dataclass(frozen=True, slots=True)
class Api:
    observer: Observer

    def routes(self) -> dict[str, Ask]:
        """Return each path's answer."""
        found: dict[str, Ask] = {
            "/api/overview": lambda _: self.observer.overview(),
            "/api/queues": lambda request: self.observer.queues(
                internal=request.query_params.get("internal") == "1"
            ),
            "/api/workers": lambda _: self.observer.workers(),
            "/api/workers/{node:path}": lambda request: self.observer.worker(request.path_params["node"]),
            "/api/tasks": self._tasks,
            "/api/tasks/{id:path}": lambda request: self.observer.task(request.path_params["id"]),
            "/api/graph/{id:path}": lambda request: self.observer.graph(request.path_params["id"]),
            "/api/dead": self._dead,
            "/api/schedules": lambda _: self.observer.schedules(),
            "/api/series/{name}": self._series,
        }
        return {path: _answering(ask) for path, ask in found.items()}

    def _tasks(self, request: Request) -> Any:
        asked = request.query_params
        chosen = {name: asked.get(name) or None for name in ("state", "name", "worker", "queue")}
        before = asked.get("before")
        return self.observer.tasks(
            **chosen,
            search=asked.get("search", ""),
            before=float(before) if before else None,
            limit=_limit(request),
        )

    def _dead(self, request: Request) -> Any:
        offset = min(max(int(request.query_params.get("offset", 0)), 0), DEEPEST)
        return self.observer.dead_letters(
            request.query_params.get("queue") or None, limit=_limit(request), offset=offset
        )

    def _series(self, request: Request) -> Any:
        name = request.path_params["name"]
        return self.observer.series(name, min(_limit(request, 300), MOST_ROWS)) if name in SERIES else None


def _limit(request: Request, default: int = ROWS) -> int:
    return min(max(int(request.query_params.get("limit", default)), 1), MOST_ROWS)


def _answering(ask: Ask) -> Ask:
    def answer(request: Request) -> Response:
        try:
            found = ask(request)
        except ValueError as error:
            return _json({"error": f"not a number: {error}"}, 400)
        except AmqptasksError as error:
            return _json({"error": str(error)}, 502)
        return _json({"error": "not known"}, 404) if found is None else _json(_plain(found))

    return answer


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _json(value: Any, status: int = 200) -> Response:
    body = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    return Response(body, status, media_type="application/json")
