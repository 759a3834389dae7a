"""Runs a task in place (`apply`, `task_always_eager`): with a request, handlers and signals, without a
broker.

The order of events is a worker's. Knows tasks by what it needs of them; publishes nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from amqptasks import request as requests
from amqptasks import signals, states
from amqptasks.backends.base import Meta
from amqptasks.client import Client
from amqptasks.composing import compose
from amqptasks.einfo import ExceptionInfo
from amqptasks.errors import Ignore, Reject, Retry, TaskRevoked
from amqptasks.options import check_names
from amqptasks.protocol import TaskMessage
from amqptasks.request import Request
from amqptasks.result import AsyncResult
from amqptasks.serialization import dumps, loads
from amqptasks.signatures import maybe_signature

logger = logging.getLogger(__name__)

NOWHERE: Mapping[str, Any] = {"exchange": None, "routing_key": None, "is_eager": True}


class Runnable(Protocol):
    """What running in place needs of a task."""

    name: str
    store_eager_result: bool | None
    trail: bool

    def before_start(self, *args: Any, **kwargs: Any) -> Any: ...
    def on_success(self, *args: Any, **kwargs: Any) -> Any: ...
    def on_failure(self, *args: Any, **kwargs: Any) -> Any: ...
    def on_retry(self, *args: Any, **kwargs: Any) -> Any: ...
    def after_return(self, *args: Any, **kwargs: Any) -> Any: ...
    @property
    def app(self) -> Client: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class EagerResult(AsyncResult[Any]):
    """The result of a task that ran in place: it is there already."""

    __slots__ = ()

    def __init__(
        self, id: str, value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(id, None, name)
        self.remember(
            Meta(
                task_id=id,
                status=state,
                result=value,
                traceback=traceback,
                date_done=datetime.now(UTC).isoformat(),
            )
        )

    def remember(self, meta: Meta) -> None:
        self._meta = meta  # every state is kept: nothing more will come

    def forget(self) -> None:
        """Do nothing: nothing is kept elsewhere."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Mark the call, which has run, as revoked; `get()` raises TaskRevoked then."""
        revoked = TaskRevoked("revoked")
        self.remember(Meta(task_id=self.id, status=states.REVOKED, result=revoked))

    def __reduce__(self) -> tuple[Any, ...]:
        return EagerResult, (self.id, self.result, self.state, self.traceback, self.task_name)


@dataclass(frozen=True, slots=True)
class Ended:
    """How one run ended."""

    state: str
    value: Any
    trace: str | None = None


def apply(
    task: Runnable,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    throw: bool | None,
) -> EagerResult:
    """Run `task` to its end, retries and callbacks included; see `Task.apply`."""
    check_names(options, task.name)
    app = task.app
    named = options.get("serializer")
    if named is not None:
        args, kwargs = _read_back(args, kwargs, named)
    # Nothing is sent, so no reply queue is needed and nothing need be routed.
    call = {**options, "ignore_result": True, "queue": None, "exchange": None, "routing_key": None}
    message = replace(
        compose(app, task.name, args, kwargs, call, {}).message,
        ignore_result=bool(options.get("ignore_result")),
    )
    propagate = app.conf.task_eager_propagates if throw is None else throw
    return _run(task, message, propagate)


def as_sent(app: Client) -> dict[str, Any]:
    """Return the option of what runs in place of a message: its arguments are what they would be there."""
    return {"serializer": app.conf.task_serializer} if app.conf.task_always_eager else {}


def _read_back(args: Sequence[Any], kwargs: Mapping[str, Any], serializer: str) -> Any:
    written = dumps((args, kwargs), serializer)
    accept = frozenset({written.content_type})
    return loads(
        written.body, written.content_type, written.content_encoding, accept=accept, limit=len(written.body)
    )


def _run(task: Runnable, message: TaskMessage, propagate: bool) -> EagerResult:
    request = Request.made_from(message, delivery_info=NOWHERE, hostname="eager", is_eager=True)
    request.trail = task.trail
    token = requests.push(request)
    try:
        ended = _attempt(task, request, propagate)
    finally:
        requests.pop(token)
    if request.retried is not None:
        return _run(task, request.retried.call.message, propagate)
    _follow(task.app, message, ended)
    stored = task.store_eager_result
    if stored is None:
        stored = task.app.conf.task_store_eager_result
    if stored and not message.ignore_result:
        meta = Meta(task_id=message.id, status=ended.state, result=ended.value, traceback=ended.trace)
        task.app.backend.store(meta, lambda envelope: task.app.connection.publish([envelope]))
    return EagerResult(message.id, ended.value, ended.state, ended.trace, task.name)


def _attempt(task: Runnable, request: Request, propagate: bool) -> Ended:
    id, args, kwargs = request.id, request.args, request.kwargs
    signals.task_prerun.send(sender=task, task_id=id, task=task, args=args, kwargs=kwargs)
    _told(task.before_start, id, args, kwargs)
    started, einfo = time.monotonic(), None
    try:
        value = _awaited(task(*args, **kwargs))
    except Retry as error:
        einfo = ExceptionInfo(error, traceback.format_exc())
        _told(task.on_retry, error.exc or error, id, args, kwargs, einfo)
        ended = Ended(states.RETRY, error.exc)
    except (Ignore, Reject):
        ended = Ended(states.IGNORED, None)
    except Exception as error:
        einfo = ExceptionInfo(error, traceback.format_exc())
        ended = Ended(states.FAILURE, error, einfo.traceback)
        _told(task.on_failure, error, id, args, kwargs, einfo)
        signals.task_failure.send(
            sender=task,
            task_id=id,
            exception=error,
            args=args,
            kwargs=kwargs,
            traceback=error.__traceback__,
            einfo=einfo,
        )
        if propagate:
            raise
    else:
        ended = Ended(states.SUCCESS, value)
        _told(task.on_success, value, id, args, kwargs)
        signals.task_success.send(sender=task, result=value, runtime=time.monotonic() - started)
    if ended.state in (states.SUCCESS, states.FAILURE):
        _told(task.after_return, ended.state, ended.value, id, args, kwargs, einfo)
    signals.task_postrun.send(
        sender=task, task_id=id, task=task, args=args, kwargs=kwargs, retval=ended.value, state=ended.state
    )
    return ended


def _told(handler: Callable[..., Any], *arguments: Any) -> None:
    """Call a handler; as in a worker, what it raises is logged and changes nothing."""
    try:
        _awaited(handler(*arguments))
    except Exception:
        logger.exception("%r raised; the task's outcome is not changed by it", handler)


def _awaited(value: Any) -> Any:
    """Return what a coroutine returns; where a loop runs already it gets a thread, and a loop, of its own."""
    if not inspect.iscoroutine(value):
        return value
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, asyncio.run, value).result()


def _follow(app: Client, message: TaskMessage, ended: Ended) -> None:
    """Run what follows from the end: callbacks and the next step of the chain, or errbacks."""
    if ended.state == states.SUCCESS:
        for callback in message.callbacks or ():
            _signature(app, callback).apply((ended.value,), **as_sent(app))
        if message.chain:
            *rest, following = message.chain
            _signature(app, following).apply((ended.value,), chain=rest or None, **as_sent(app))
    elif ended.state == states.FAILURE:
        for errback in message.errbacks or ():
            _signature(app, errback).apply((message.id,))


def _signature(app: Client, value: Any) -> Any:
    return maybe_signature(value, app)
