"""Who may see the dashboard and who may press its buttons. Judges requests; draws nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from starlette.requests import Request

from amqptasks.dashboard.sessions import Session, same
from amqptasks.errors import ImproperlyConfigured

Role = Literal["read", "write"]
Authorize = Callable[[Request], Role | None]
"""Your own judgement of a request: it may read, it may also press buttons, or (None) neither."""

LOCAL = ("localhost", "127.0.0.1", "::1")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What was configured. With nothing of it, only browsers on this machine are answered."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    """For programs, as `Authorization: Bearer`; for people, in place of user and password."""
    authorize: Authorize | None = None
    insecure: str = ""
    """Why there is no login although others reach it; empty: they are refused."""
    read_only: bool = False
    hosts: tuple[str, ...] = ()
    """Names of this server besides localhost; a request for another is refused. Empty: any, where there is a login."""

    def __post_init__(self) -> None:
        if bool(self.user) != bool(self.password):
            raise ImproperlyConfigured(
                "a login needs a user and a password; give both, or a token, or neither for this machine alone"
            )

    @property
    def has_login(self) -> bool:
        return bool(self.user or self.token)

    @property
    def is_open(self) -> bool:
        """Whether anybody on this machine, and only he, is let in."""
        return not (self.has_login or self.authorize or self.insecure)

    def is_host(self, host: str) -> bool:
        """Whether a request's Host is one of ours: a page elsewhere may have had its own name point here."""
        name = _name(host)
        if name in LOCAL:  # no page elsewhere has this name
            return True
        if self.hosts:
            return "*" in self.hosts or name in {_name(each) for each in self.hosts}
        return not self.is_open

    def role(self, request: Request, session: Session | None) -> Role | None:
        """Return what this request may do; None: it is to log in, or to go away."""
        found = self._role(request, session)
        return "read" if found and self.read_only else found

    def _role(self, request: Request, session: Session | None) -> Role | None:
        if self.authorize is not None:
            return self.authorize(request)
        if self.bears_token(request):
            return "write"
        if self.has_login:
            return "write" if session is not None and session.user else None
        return "write" if self.insecure or is_local(request) else None

    def bears_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return bool(self.token) and scheme.lower() == "bearer" and same(given.strip(), self.token)

    def admits(self, user: str, password: str) -> str:
        """Return the name of whoever gave the right password, or token; empty for others."""
        # Both are compared, whatever the first one says: the time taken must not tell which names exist.
        right_user, right_password = same(user, self.user), same(password, self.password)
        if self.user and right_user and right_password:
            return self.user
        return "token" if self.token and same(password, self.token) else ""


def is_local(request: Request) -> bool:
    """Whether it comes from this machine, and not through a proxy that speaks for others."""
    if request.client is None:  # a Unix socket: its file's permissions decide
        return True
    return is_loopback(request.client.host) and not any(name in request.headers for name in _FORWARDED)


def is_loopback(host: str) -> bool:
    """Whether a name or address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _name(host: str) -> str:
    """Return a Host header without its port."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]
