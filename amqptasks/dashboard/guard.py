"""What every request passes before a page sees it: host, session, role, the form's token; and every answer's headers.

One place, so that no page can forget it. Knows no page: how a refusal looks is given to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amqptasks.dashboard.access import Access, Role
from amqptasks.dashboard.sessions import LIFETIME, Session, Sessions

COOKIE = "amqptasks_session"
TOKEN_FIELD = "form_token"  # noqa: S105 (the field's name)
VISIT = "amqptasks.visit"
LARGEST_FORM = 256 * 1024
_FIELDS = 2000

Refuse = Callable[[Request, int, str, str], Awaitable[Response] | Response]
"""`refuse(request, status, what happened, what to do)`."""

_PUBLIC = ("/login", "/healthz", "/static/")
_OWN_BUSINESS = ("/login", "/logout", "/theme")
"""Forms that change nothing but what the visitor sees."""
_READING = ("GET", "HEAD", "OPTIONS")

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Visit:
    """Who asks, what he may do, and the form that he sent."""

    session: Session
    role: Role | None
    token: str
    """What his forms carry."""
    form: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def may_write(self) -> bool:
        return self.role == "write"

    def field(self, name: str, default: str = "") -> str:
        return self.form.get(name, (default,))[0].strip()


def visit_of(request: Request) -> Visit:
    found = request.scope[VISIT]
    assert isinstance(found, Visit)
    return found


def cookie_path(request: Request) -> str:
    return str(request.scope.get("root_path", "")) or "/"


class Guard:
    """An ASGI app around the dashboard's."""

    def __init__(self, app: ASGIApp, access: Access, sessions: Sessions, refuse: Refuse) -> None:
        self._app = app
        self._access = access
        self._sessions = sessions
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        known = self._sessions.read(request.cookies.get(COOKIE))
        session = known or self._sessions.begin()
        role = self._access.role(request, known)
        scope[VISIT] = Visit(session, role, self._sessions.form_token(session))
        answer: ASGIApp = await self._refused(request, known, role) or self._app
        fresh = known is None and request.method == "GET" and not self._access.bears_token(request)
        await answer(scope, receive, self._signed(request, send, session if fresh else None))

    async def _refused(self, request: Request, known: Session | None, role: Role | None) -> Response | None:
        path = own_path(request.scope)
        # A probe knows an address, not a name; and what it is told is nobody's secret.
        if path != "/healthz" and not self._access.is_host(request.headers.get("host", "")):
            return await self._no(
                request,
                400,
                f"This dashboard does not go by the name {request.headers.get('host', '')!r}.",
                "Open it by the address that it printed when it started, or start it with --allowed-host NAME.",
            )
        if role is None and not path.startswith(_PUBLIC):
            return await self._stranger(request, path)
        if request.method in _READING:
            return None
        return await self._form(request, path, known)

    async def _stranger(self, request: Request, path: str) -> Response:
        if not self._access.has_login:
            return await self._no(
                request,
                403,
                "Without a login, only browsers on this machine are answered.",
                "Give the dashboard a login (--user with a password, or a token), or say why it needs none "
                "(--insecure REASON).",
            )
        if path.startswith("/api/") or request.method not in _READING:
            return await self._no(
                request, 401, "You are not logged in.", "Log in, or send the token as Authorization: Bearer."
            )
        root = request.scope.get("root_path", "")
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{root}/login?next={quote(path + query, safe='')}", 303)

    async def _form(self, request: Request, path: str, known: Session | None) -> Response | None:
        """Read the form that was sent, and refuse it unless it came from a page of ours to somebody who may."""
        fields = await _fields(request)
        if fields is None:
            return await self._no(request, 413, "That was too much.", "Select fewer at once.")
        visit = visit_of(request)
        given = fields.get(TOKEN_FIELD, ("",))[0]
        site = request.headers.get("sec-fetch-site", "same-origin")
        ours = (
            known is not None
            and self._sessions.is_form_token(known, given)
            and site in ("same-origin", "none")
        )
        # A browser adds no Authorization header by itself, so what bears the token was meant.
        if not ours and not self._access.bears_token(request):
            return await self._no(
                request,
                403,
                "This form is not one that this dashboard gave you, or it is too old.",
                "Go back, load the page again, and press the button again.",
            )
        if path not in _OWN_BUSINESS and not visit.may_write:
            return await self._no(
                request, 403, "This dashboard only shows.", "It was started read-only; nothing was changed."
            )
        request.scope[VISIT] = Visit(visit.session, visit.role, visit.token, fields)
        return None

    async def _no(self, request: Request, status: int, happened: str, cure: str) -> Response:
        answer = self._refuse(request, status, happened, cure)
        return answer if isinstance(answer, Response) else await answer

    def _signed(self, request: Request, send: Send, fresh: Session | None) -> Send:
        """Return a `send` that adds the headers of every answer, and the cookie of a new session."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                static = own_path(request.scope).startswith("/static/")
                headers.setdefault("cache-control", "no-cache" if static else "no-store")
                if fresh is not None and headers.get("content-type", "").startswith("text/html"):
                    keep(headers, request, self._sessions.cookie(fresh))
            await send(message)

        return with_headers


def keep(headers: MutableHeaders, request: Request, cookie: str) -> None:
    """Set the session's cookie; an empty one forgets it."""
    parts = [f"{COOKIE}={cookie}", f"Path={cookie_path(request)}", "HttpOnly", "SameSite=Strict"]
    parts.append(f"Max-Age={LIFETIME if cookie else 0:.0f}")
    if request.url.scheme == "https":
        parts.append("Secure")
    headers.append("set-cookie", "; ".join(parts))


def own_path(scope: Scope) -> str:
    """Return the path below the place where the dashboard is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root) else path


async def _fields(request: Request) -> Mapping[str, tuple[str, ...]] | None:
    """Return what was filled in; None if it is more than any form of ours has."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM:
            return None
    try:
        pairs = parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=_FIELDS)
    except ValueError:
        return None
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name, []).append(value)
    return {name: tuple(values) for name, values in found.items()}
