"""What an app opens when it is first used: routes, the connection, the result backend. Thread-safe,
fork-safe.

Knows settings and the floors below; knows nothing of tasks or messages.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
import zoneinfo
from collections.abc import Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Any, TypeVar

from amqptasks import backends
from amqptasks.backends.base import Backend
from amqptasks.config import Config
from amqptasks.control import Control
from amqptasks.dead import DeadLetters
from amqptasks.errors import ImproperlyConfigured
from amqptasks.events import Events
from amqptasks.options import NAMES, ROUTING, check_names
from amqptasks.routing import Route, Router
from amqptasks.topology import Queue
from amqptasks.transport.awaiting import AsyncConnection
from amqptasks.transport.blocking import BlockingConnection
from amqptasks.transport.keeping import RetryPolicy
from amqptasks.transport.opening import configured

C = TypeVar("C", BlockingConnection, AsyncConnection)

AT_EXIT = 1.0
"""Seconds that the end of the program waits for the broker's answers, per app."""


class Resources:
    """Everything here is made once, on first use, and again after `close`."""

    tasks: Mapping[str, Any] = {}
    """The registered tasks by name; an app has its own."""

    def __init__(self, conf: Config, main: str | None) -> None:
        self.conf = conf
        self.main = main
        self._opening = threading.RLock()
        self._router: Router | None = None
        self._connection: BlockingConnection | None = None
        self._backend: Backend | None = None
        self._control: Control | None = None
        self._events: Events | None = None
        self._loops: dict[asyncio.AbstractEventLoop, AsyncConnection] = {}
        _open.add(self)
        self._routes: dict[str, tuple[Mapping[str, Any], Route]] = {}

    @property
    def timezone(self) -> tzinfo | None:
        """The zone of times without one: that of the settings; None is the machine's own."""
        name = self.conf.timezone
        if name is None:
            return UTC if self.conf.enable_utc else None
        return zoneinfo.ZoneInfo(name)

    @property
    def router(self) -> Router:
        """Queues and routes, read from the settings once. Raises ImproperlyConfigured for what is wrong in them."""
        if self._router is None:
            with self._opening:
                if self._router is None:
                    made = Router(self.conf)
                    for where, options in made.answers:
                        _check(options, where)
                    self._router = made
        return self._router

    def route(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        preset: Mapping[str, Any],
    ) -> tuple[Route, Mapping[str, Any]]:
        """Return where a call goes, and all its options: the route's, over them the task's, over them the
        call's.

        Without routing options a task's route is computed once, unless a function routes by arguments.
        """
        if options and not ROUTING.isdisjoint(options):
            routed_as = options.get("route_name") or name
            route = self._routed(routed_as, args, kwargs, {**preset, **options})
            return route, route.options
        known = self._routes.get(name)
        # A task whose options were changed has another preset.
        if known is not None and known[0] is preset:
            route = known[1]
        else:
            route = self._routed(name, args, kwargs, preset)
            if _constant(self.conf.task_routes):
                self._routes[name] = preset, route
        return route, {**route.options, **options} if options else route.options

    def _routed(self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any]) -> Route:
        """Return what the router says. Raises ImproperlyConfigured for an option of a function's that no call has."""
        route = self.router.route(name, args, kwargs, options)
        if not NAMES.issuperset(route.options):
            _check(route.options, f"what a function in task_routes returned for {name}")
        return route

    @property
    def connection(self) -> BlockingConnection:
        """This process's connection for publishing and results; it connects when it is first used."""
        if self._connection is None:
            with self._opening:
                if self._connection is None:
                    self._connection = self._connect(BlockingConnection)
        return self._connection

    @property
    def aconnection(self) -> AsyncConnection:
        """The running event loop's own connection for publishing; it connects when it is first used."""
        loop = asyncio.get_running_loop()
        known = self._loops.get(loop)
        if known is None:
            with self._opening:
                self._loops = {each: own for each, own in self._loops.items() if not each.is_closed()}
                known = self._loops[loop] = self._connect(AsyncConnection)
        return known

    def forget_loop(self) -> AsyncConnection | None:
        """Take the running loop's connection out; the next use opens another."""
        with self._opening:
            return self._loops.pop(asyncio.get_running_loop(), None)

    def _connect(self, kind: type[C]) -> C:
        conf = self.conf
        policy = retry_policy(conf.task_publish_retry_policy) if conf.task_publish_retry else RetryPolicy(0)
        name = self.main or "amqptasks"
        table = conf.table(with_defaults=True, censored=False)
        return kind(
            configured(table, "write", name, asynchronous=kind is AsyncConnection),
            timeout=conf.broker_publish_timeout,
            policy=policy,
            limit_messages=conf.broker_publish_window,
            limit_bytes=conf.broker_publish_window_bytes,
            name=name,
        )

    @property
    def backend(self) -> Backend:
        """Where results go and come from."""
        if self._backend is None:
            with self._opening:
                if self._backend is None:
                    self._backend = backends.open(self.conf, lambda: self.connection)
        return self._backend

    @property
    def events(self) -> Events:
        """Receiving events, and sending one's own; see `Events`."""
        if self._events is None:
            self._events = Events(self)
        return self._events

    @property
    def control(self) -> Control:
        """Remote control of the workers; see `Control`."""
        if self._control is None:
            self._control = Control(self)
        return self._control

    def dead_letters(self, queues: Sequence[str] | None = None) -> DeadLetters:
        """Return what looks at, replays and drops the dead letters of these queues; None: of the app's own."""
        if queues is not None:
            return DeadLetters(self.conf, queues, named=True)
        return DeadLetters(self.conf, [queue.name for queue in self.known_queues()])

    def known_queues(self) -> tuple[Queue, ...]:
        """Return the queues that calls of this app may lie in: its own, and those that routes and tasks name."""
        return self.router.mentioned(*(task.queue for task in self.tasks.values() if task.queue))

    def renew_locks(self) -> None:
        """In a forked child: begin with locks that nobody holds."""
        self._opening = threading.RLock()
        self._loops = {}

    def close(self, timeout: float | None = None) -> None:
        """Wait for what is unconfirmed, delete the reply queue unless a result is expected, and close.

        It may be used again: it opens anew, with the settings of that time.
        """
        with self._opening:
            backend, connection = self._backend, self._connection
            self._backend = self._router = None
            self._routes.clear()
        # The backend deletes its reply queue over this very connection; without it, it would open another
        # one.
        if backend is not None:
            backend.close(timeout)
        with self._opening:
            if self._connection is connection:
                self._connection = None
        if connection is not None:
            connection.close(timeout)


def _check(options: Mapping[str, Any], where: str) -> None:
    try:
        check_names(options, where)
    except TypeError as error:
        raise ImproperlyConfigured(str(error).removeprefix("apply_async() of ")) from None


def retry_policy(given: Mapping[str, Any]) -> RetryPolicy:
    """Return the policy that the setting or the option says; Celery's `retry_errors` names its own
    exceptions.
    """
    return RetryPolicy(**{key: value for key, value in given.items() if key != "retry_errors"})


_open: weakref.WeakSet[Resources] = weakref.WeakSet()


def _at_exit() -> None:
    """Delete reply queues. Registered after the transport's own, so it runs before connections are closed."""
    for resources in list(_open):
        if resources._backend is not None:
            resources._backend.close(AT_EXIT)


def _after_fork_in_child() -> None:
    """Locks that other threads held at the fork are never released here."""
    for resources in list(_open):
        resources.renew_locks()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)


def _constant(routes: Any) -> bool:
    """Does the setting name routes by task alone? Functions and dotted names may look at the arguments."""
    return routes is None or isinstance(routes, Mapping)
