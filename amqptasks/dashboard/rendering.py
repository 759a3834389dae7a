"""Templates, addresses within the dashboard, and the line that tells the visitor what became of his last click."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from amqptasks import __version__
from amqptasks.dashboard.access import Access
from amqptasks.dashboard.guard import VISIT, cookie_path, own_path, visit_of
from amqptasks.dashboard.sessions import Sessions
from amqptasks.dashboard.wording import FILTERS
from amqptasks.monitor.observer import Observer

HERE = Path(__file__).parent
THEME = "amqptasks_theme"
TOLD = "amqptasks_told"
THEMES = ("auto", "light", "dark")
FRAGMENT = "x-amqptasks-refresh"
"""The header of a page's own request for its newest self."""

TABS = (
    ("Overview", "/"),
    ("Queues", "/queues"),
    ("Workers", "/workers"),
    ("Tasks", "/tasks"),
    ("Dead letters", "/dead"),
    ("Schedules", "/schedules"),
)

Told = tuple[str, str]
"""(tone, sentence)."""
_TOLD_MOST, _TOLD_LENGTH = 6, 400


class Renderer:
    """Makes pages. Thread-safe."""

    def __init__(
        self, observer: Observer, access: Access, sessions: Sessions, *, title: str, poll: float
    ) -> None:
        self._observer = observer
        self._access = access
        self._sessions = sessions
        self._title = title
        self._poll = poll
        self._templates = _templates()

    def page(
        self,
        request: Request,
        template: str,
        *,
        status: int = 200,
        refresh: bool = False,
        public: bool = False,
        **context: Any,
    ) -> Response:
        """Return a page. With `refresh` it renews itself while it is looked at; a `public` one tells nothing of the
        system.
        """
        renewal = bool(request.headers.get(FRAGMENT))
        told = [] if renewal else self._told(request)
        visit = visit_of(request)
        overview = self._observer.overview()
        text = self._templates.get_template(template).render(
            visit=visit,
            access=self._access,
            url=lambda path, **query: address(request, path, query),
            here=_with_query(request),
            path=own_path(request.scope) or "/",
            tabs=TABS,
            overview=overview,
            now=overview.at or time.time(),
            theme=theme_of(request),
            told=told,
            poll=self._poll if refresh else 0,
            site=self._title,
            version=__version__,
            public=public,
            **context,
        )
        answer = HTMLResponse(text, status)
        if told:
            answer.delete_cookie(TOLD, cookie_path(request))
        return answer

    def refuse(self, request: Request, status: int, happened: str, cure: str) -> Response:
        """Answer that something cannot be had, as JSON to programs."""
        if own_path(request.scope).startswith("/api/") or VISIT not in request.scope:
            return JSONResponse({"error": happened, "hint": cure}, status)
        # Nothing of the system is shown to somebody who may not see it.
        public = visit_of(request).role is None
        return self.page(request, "message.html", status=status, public=public, happened=happened, cure=cure)

    def back(self, request: Request, path: str, told: Sequence[Told] = ()) -> Response:
        """Send the browser to a page of ours, which shows what is told."""
        answer = RedirectResponse(address(request, own_address(path)), 303)
        if told:
            kept = [(tone, text[:_TOLD_LENGTH]) for tone, text in told[:_TOLD_MOST]]
            if len(told) > _TOLD_MOST:
                kept.append(("", f"… and {len(told) - _TOLD_MOST} more."))
            signed = self._sessions.sign("told", json.dumps(kept))
            set_cookie(answer, request, TOLD, signed, 60)
        return answer

    def _told(self, request: Request) -> list[Told]:
        text = self._sessions.unsign("told", request.cookies.get(TOLD))
        return [] if text is None else [(tone, said) for tone, said in json.loads(text)]


@cache
def _templates() -> Environment:
    """Compiled once a process: that takes longer than any page."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(FILTERS)
    return made


def set_cookie(answer: Response, request: Request, name: str, value: str, age: int) -> None:
    answer.set_cookie(
        name, value, age, path=cookie_path(request), secure=request.url.scheme == "https", httponly=True,
        samesite="strict",
    )  # fmt: skip


def theme_of(request: Request) -> str:
    found = request.cookies.get(THEME, "auto")
    return found if found in THEMES else "auto"


def address(request: Request, path: str, query: Mapping[str, Any] | None = None) -> str:
    """Return the address of one of our paths, wherever the dashboard is mounted; empty values are left out."""
    said = {name: value for name, value in (query or {}).items() if value not in (None, "", False)}
    return f"{request.scope.get('root_path', '')}{path}" + (f"?{urlencode(said)}" if said else "")


def part(text: str) -> str:
    """Return a name as one part of a path: a queue's may hold anything."""
    return quote(text, safe="@:")


def own_address(path: str) -> str:
    """Return a path that was sent to us if it is one of ours, else the first page's: nobody is led elsewhere."""
    odd = any(ord(each) < 33 or each == "\\" for each in path)
    return path if path.startswith("/") and not path.startswith("//") and not odd else "/"


def _with_query(request: Request) -> str:
    path = quote(own_path(request.scope) or "/", safe="/@:")
    return f"{path}?{request.url.query}" if request.url.query else path
