"""A server for the dashboard alone: uvicorn on one socket, until a signal. Knows nothing of pages."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from amqptasks.dashboard.access import is_loopback
from amqptasks.dashboard.application import Dashboard
from amqptasks.errors import ImproperlyConfigured

try:
    import uvicorn
except ImportError:
    raise ImproperlyConfigured(
        "`amqptasks dashboard` needs uvicorn; run: pip install 'amqptasks[dashboard]'"
    ) from None

SHUTDOWN = 3
"""Seconds that requests under way have at the end."""
BACKLOG = 128


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def address_of(listening: socket.socket) -> str:
    """Return what to type into a browser."""
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


def serve(
    dashboard: Dashboard, listening: socket.socket, *, root_path: str = "", started: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM; `started` is called when the first request is answered. Blocks."""
    config = uvicorn.Config(
        dashboard,
        root_path=root_path,
        log_config=None,
        access_log=False,
        ws="none",
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN,
    )
    _Server(config, started).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Says when it listens, and ends by a signal as if by its own will: both are how one stops a dashboard."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def needs_login(host: str) -> bool:
    """Whether others than this machine's users reach a host."""
    return not is_loopback(host)
