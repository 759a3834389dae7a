"""Remote control, from the client: commands to all workers or to some, and the replies gathered for a while.

`app.control` under Celery's names. Knows the pidbox wire and the blocking connection; a Celery worker understands the
same commands. Thread-safe: each question has a reply queue of its own.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from amqptasks import pidbox, revokes
from amqptasks.amqp import Address, Envelope
from amqptasks.config import Config
from amqptasks.errors import (
    AccessRefused,
    ChannelClosed,
    ImproperlyConfigured,
    QueueDown,
    TopologyMismatch,
)
from amqptasks.gathered import Gathered, OnReply, Reply
from amqptasks.ids import new_id
from amqptasks.inspecting import Inspect
from amqptasks.pidbox import Clock, Request
from amqptasks.routing import Router
from amqptasks.transport.blocking import BlockingConnection

logger = logging.getLogger(__name__)

AGAIN = 0.2


class Controlled(Protocol):
    """What remote control needs of an app."""

    @property
    def conf(self) -> Config: ...
    @property
    def connection(self) -> BlockingConnection: ...
    @property
    def router(self) -> Router: ...


class Control:
    """The commands of `app.control`. Without `reply=True` they return once the broker has the command.

    With it they return a list of `{node: answer}`, after `timeout` seconds, or sooner when everyone in `destination`
    has answered. Raise what publishing raises; an error of a worker is its answer: `{"error": "..."}`.
    """

    def __init__(self, app: Controlled) -> None:
        self.app = app
        self._clock = Clock()
        self._settings = _Settings(app.conf)

    @property
    def inspect(self) -> Callable[..., Inspect]:
        """`inspect(destination, timeout=1.0, callback=None, limit=None, pattern=None, matcher=None)`."""
        return self._inspect

    def _inspect(  # noqa: PLR0917 (Celery's signature)
        self,
        destination: Sequence[str] | str | None = None,
        timeout: float = 1.0,
        callback: OnReply | None = None,
        connection: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> Inspect:
        return Inspect(
            self,
            destination=destination,
            timeout=timeout,
            callback=callback,
            limit=limit,
            pattern=pattern,
            matcher=matcher,
        )

    def broadcast(  # noqa: PLR0917 (Celery's signature)
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Sequence[str] | str | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float = 1.0,
        limit: int | None = None,
        callback: OnReply | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra: Any,
    ) -> list[Reply] | None:
        """Send a command to every worker, to those in `destination`, or to those whose name matches `pattern`.

        `matcher` is "glob" or "pcre". `callback` gets each reply as it comes; `limit` replies end the waiting.
        """
        if (pattern is None) != (matcher is None) or (matcher is not None and matcher not in pidbox.MATCHERS):
            raise ImproperlyConfigured(
                f'a pattern needs a matcher, "glob" or "pcre"; got pattern={pattern!r}, matcher={matcher!r}'
            )
        named = (destination,) if isinstance(destination, str) else destination
        request = Request(
            command,
            {**(arguments or {}), **extra},
            tuple(named) if named is not None else None,
            pattern,
            matcher,
        )
        if not reply:
            self._send(request, timeout=0.0)
            return None
        return self._ask(request, timeout, limit or (len(named) if named else None), callback)

    def _send(self, request: Request, timeout: float) -> None:
        connection = self.app.connection
        connection.declare(pidbox.commands_exchange(self._settings))
        clock = self._clock.forward()
        connection.publish([pidbox.command(request, self._settings, clock=clock, timeout=timeout)])

    def _ask(
        self, request: Request, timeout: float, limit: int | None, callback: OnReply | None
    ) -> list[Reply]:
        oid, ticket = new_id(), new_id()
        exchange, queue, binding = pidbox.reply_box(oid, self._settings)
        gathered = Gathered(ticket, limit, callback, self._clock)
        bound = (exchange, queue, binding)
        subscription = self.app.connection.consume(queue.name, gathered.take, declare=bound)
        try:
            asked = replace(request, ticket=ticket, reply_to=Address(exchange.name, oid))
            self._send(asked, timeout)
            return gathered.wait(timeout)
        finally:
            subscription.close()

    # --- tasks -------------------------------------------------------------------------------------------

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        **options: Any,
    ) -> list[Reply] | None:
        """Have no worker run these calls; with `terminate` the processes that run them are killed too.

        Returns once the revocation is kept on the broker, for workers that start later. `destination` tells only some
        workers, and keeps nothing. Raises ValueError for a `signal` that does not exist.
        """
        ids = [task_id] if isinstance(task_id, str) else [str(each) for each in task_id]
        arguments = {"task_id": ids, "terminate": terminate, "signal": signal}
        _check(terminate, signal)
        if not destination and not options.get("pattern"):
            self._keep(revokes.record(ids))
        return self.broadcast("revoke", arguments, destination, **options)

    def _keep(self, record: Envelope) -> None:
        """Write it on the broker's stream, where workers read it that start later."""
        connection = self.app.connection
        if connection.server.product != "RabbitMQ":
            return
        stream = revokes.stream(self._settings["worker_revokes_retention"])
        until = time.monotonic() + revokes.BACK
        while True:
            try:
                connection.declare(stream)
                break
            except TopologyMismatch as error:
                logger.debug("%s; using it as it is", error)
                break
            except (AccessRefused, ChannelClosed) as error:
                if not isinstance(error, QueueDown) or time.monotonic() > until:
                    logger.warning("%s; only the workers that run now are told what is revoked", error)
                    return
            time.sleep(AGAIN)
        connection.publish([record])

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: Sequence[str] | None = None,
        signal: str | int = "SIGTERM",
        **options: Any,
    ) -> list[Reply] | None:
        """Revoke, and kill the processes that run these calls."""
        return self.revoke(task_id, destination, terminate=True, signal=signal, **options)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        signal: str | int = "SIGTERM",
        **options: Any,
    ) -> list[Reply] | None:
        """Have no worker run the calls that bear one of these stamps: `{"customer": ["17", "18"]}`."""
        arguments = {"headers": dict(headers), "terminate": terminate, "signal": signal}
        _check(terminate, signal)
        if not destination and not options.get("pattern"):
            self._keep(revokes.record(stamps=headers))
        return self.broadcast("revoke_by_stamped_headers", arguments, destination, **options)

    def rate_limit(
        self,
        task_name: str,
        rate_limit: str | float,
        destination: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Reply] | None:
        """Start a task at most so often on each worker: "10/s", "100/m", "1000/h"; 0 lifts the limit."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", arguments, destination, **options)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Reply] | None:
        """Seconds, for what the workers receive from now on."""
        arguments = {"task_name": task_name, "soft": soft, "hard": hard}
        return self.broadcast("time_limit", arguments, destination, **options)

    # --- workers -----------------------------------------------------------------------------------------

    def ping(
        self, destination: Sequence[str] | None = None, timeout: float = 1.0, **options: Any
    ) -> list[Reply]:
        """Ask who is there: `[{"w1@host": {"ok": "pong"}}]`."""
        return self.broadcast("ping", {}, destination, reply=True, timeout=timeout, **options) or []

    def add_consumer(  # noqa: PLR0917 (Celery's signature)
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        **extra: Any,
    ) -> list[Reply] | None:
        """Consume one more queue, until the worker ends."""
        arguments = {
            "queue": queue, "exchange": exchange, "exchange_type": exchange_type, "routing_key": routing_key,
        }  # fmt: skip
        return self.broadcast("add_consumer", {**(options or {}), **arguments}, destination, **extra)

    def cancel_consumer(
        self, queue: str, destination: Sequence[str] | None = None, **options: Any
    ) -> list[Reply] | None:
        """Consume a queue no more; what the worker holds of it still runs."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination, **options)

    def pool_grow(
        self, n: int = 1, destination: Sequence[str] | None = None, **options: Any
    ) -> list[Reply] | None:
        return self.broadcast("pool_grow", {"n": n}, destination, **options)

    def pool_shrink(
        self, n: int = 1, destination: Sequence[str] | None = None, **options: Any
    ) -> list[Reply] | None:
        """Busy children end after their task."""
        return self.broadcast("pool_shrink", {"n": n}, destination, **options)

    def autoscale(
        self, max: int, min: int, destination: Sequence[str] | None = None, **options: Any
    ) -> list[Reply] | None:
        return self.broadcast("autoscale", {"max": max, "min": min}, destination, **options)

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Reply] | None:
        """Load the app anew in new children, where `worker_pool_restarts` allows it."""
        arguments = {"modules": modules, "reload": reload}
        return self.broadcast("pool_restart", arguments, destination, **options)

    def enable_events(self, destination: Sequence[str] | None = None, **options: Any) -> list[Reply] | None:
        return self.broadcast("enable_events", {}, destination, **options)

    def disable_events(self, destination: Sequence[str] | None = None, **options: Any) -> list[Reply] | None:
        return self.broadcast("disable_events", {}, destination, **options)

    def heartbeat(self, destination: Sequence[str] | None = None, **options: Any) -> list[Reply] | None:
        """Have a heartbeat event sent now."""
        return self.broadcast("heartbeat", {}, destination, **options)

    def shutdown(self, destination: Sequence[str] | None = None, **options: Any) -> list[Reply] | None:
        """End the workers, warm: what runs is finished, what waits goes back to the broker."""
        return self.broadcast("shutdown", {}, destination, **options)

    def purge(self) -> int:
        """Empty the app's queues; return how many messages are lost by that."""
        return sum(self.app.connection.purge(queue.name) for queue in self.app.router.select())

    discard_all = purge


def _check(terminate: bool, signal: Any) -> None:
    """Before anything is written down that no worker would carry out. Raises ValueError."""
    if terminate and os.name == "posix":  # elsewhere the signals are not known that workers can be sent
        revokes.signal_name(signal)


class _Settings(Mapping[str, Any]):
    """The settings as a mapping, read when they are used."""

    def __init__(self, conf: Config) -> None:
        self._conf = conf

    def __getitem__(self, name: str) -> Any:
        return self._conf[name]

    def __iter__(self) -> Any:
        return iter(self._conf)

    def __len__(self) -> int:
        return sum(1 for _ in self._conf)
