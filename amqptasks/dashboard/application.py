"""The dashboard as an ASGI app: to run by itself, or mounted in an app of yours.

    Mount("/tasks", app=dashboard.asgi(app))

Watching begins with the lifespan, or, where a mounted app gets none, with the first request.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from amqptasks.app import App
from amqptasks.dashboard.access import Access, Authorize
from amqptasks.dashboard.actions import Actions
from amqptasks.dashboard.api import Api
from amqptasks.dashboard.entrance import Entrance
from amqptasks.dashboard.guard import Guard
from amqptasks.dashboard.pages import Pages, routes
from amqptasks.dashboard.rendering import HERE, Renderer
from amqptasks.dashboard.sessions import Guesses, Sessions
from amqptasks.errors import AmqptasksError
from amqptasks.monitor.observer import Observer


class Dashboard:
    """An ASGI app that shows what an observer sees. Safe to call before it is started."""

    def __init__(
        self, observer: Observer, access: Access, *, secret: bytes = b"", title: str = "", poll: float = 2.0
    ) -> None:
        """`poll`: seconds between two looks of an open page; 0: a page stays as it is. `secret` signs the sessions:
        processes that share it accept each other's; without one, logins end with the process.
        """
        self.observer = observer
        self.access = access
        self._started = False
        self._lock = threading.Lock()
        sessions = Sessions(secret)
        renderer = Renderer(observer, access, sessions, title=title, poll=poll)
        self._inner = _application(observer, access, sessions, renderer)
        self._guard = Guard(self._inner, access, sessions, renderer.refuse)

    def start(self) -> None:
        """Begin to watch, if that was not done; returns at once."""
        with self._lock:
            if not self._started:
                self.observer.start()
                atexit.register(self.stop)
                self._started = True

    def stop(self) -> None:
        """End watching."""
        with self._lock:
            if self._started:
                self._started = False
                atexit.unregister(self.stop)
                self.observer.stop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if not self._started:
            await run_in_threadpool(self.start)
        await self._guard(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await run_in_threadpool(self.start)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await run_in_threadpool(self.stop)
        await send({"type": "lifespan.shutdown.complete"})


def asgi(
    app: App,
    *,
    user: str = "",
    password: str = "",
    token: str = "",
    authorize: Authorize | None = None,
    insecure: str = "",
    read_only: bool = False,
    hosts: Sequence[str] = (),
    secret: str | bytes = b"",
    title: str = "",
    poll: float = 2.0,
    observer: Observer | None = None,
) -> Dashboard:
    """Return the dashboard of an app, to be mounted or given to a server.

    Without any of `user` and `password`, `token`, `authorize` or `insecure` it answers only browsers on this machine.
    `authorize(request)` is your own judgement: "read", "write", or None for neither; `insecure` is the reason why
    everybody who reaches it may press every button: what is in front of it asks for a login. `observer` is one that is
    set up in another way than by default. Raises ImproperlyConfigured.
    """
    access = Access(
        user=user,
        password=password,
        token=token,
        authorize=authorize,
        insecure=insecure,
        read_only=read_only,
        hosts=tuple(hosts),
    )
    return Dashboard(
        observer or Observer(app),
        access,
        secret=secret.encode() if isinstance(secret, str) else secret,
        title=title or str(app.main or ""),
        poll=poll,
    )


def _application(observer: Observer, access: Access, sessions: Sessions, renderer: Renderer) -> Starlette:
    entrance = Entrance(access, sessions, renderer, Guesses())
    shown = {**Api(observer).routes(), **routes(Pages(observer, renderer)), "/healthz": _healthz(observer)}
    found = [
        Route("/login", entrance.login, methods=["GET", "POST"]),
        Route("/logout", entrance.logout, methods=["POST"]),
        Route("/theme", entrance.theme, methods=["POST"]),
        Route("/do/{name}", Actions(observer, renderer).do, methods=["POST"]),
        Mount("/static", StaticFiles(directory=HERE / "static")),
        *(Route(path, page, methods=["GET"]) for path, page in shown.items()),
    ]

    def refused(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        happened, cure = _SAID.get(status, ("That did not work.", "See the dashboard's log."))
        return renderer.refuse(request, status, happened, cure)

    def unanswered(request: Request, error: Exception) -> Response:
        return renderer.refuse(request, 502, "The broker did not answer.", str(error))

    return Starlette(
        routes=found, exception_handlers={HTTPException: refused, AmqptasksError: unanswered, 500: refused}
    )


_SAID = {
    404: ("There is no such page.", "Choose one above."),
    405: ("That cannot be done with this page.", "Use its buttons."),
    500: ("Something is wrong with the dashboard itself.", "Its log has the traceback; please report it."),
}


def _healthz(observer: Observer) -> Callable[[Request], Response]:
    def healthz(_request: Request) -> Response:
        """Whether the dashboard answers. The broker's absence is told, and is no reason to start it anew."""
        return JSONResponse({"status": "ok", "broker": observer.overview().connected})

    return healthz
