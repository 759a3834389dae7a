"""Telling the user's code how a run goes: a task's own methods (`on_success` ...), its `Request` class, and the
signals of Celery's names.

What a handler written as `async def` leaves to await goes to `awaiting`; the executor awaits it before the next step.
Nothing told here changes an outcome: what user code raises is logged. A signal that nobody is connected to, and
a `Request` class that a task has not, cost one attribute read.
"""

from __future__ import annotations

import inspect
import logging
import os
import time
import traceback as tracebacks
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from amqptasks import signals, states
from amqptasks.amqp import Delivery
from amqptasks.einfo import ExceptionInfo
from amqptasks.errors import (
    NotRegistered,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
)
from amqptasks.request import Request
from amqptasks.transport import codec
from amqptasks.waiting import RemoteTraceback
from amqptasks.worker import awaiting
from amqptasks.worker.custom import request_of

if TYPE_CHECKING:
    from amqptasks.task import Task

logger = logging.getLogger(__name__)

RAISED = "%r raised; the task's outcome is not changed by it"


def received(tasks: Mapping[str, Task[..., Any]], request: Request, node: str) -> None:
    """`task_received` and `on_received`: the worker has the message, of a task that it may not know."""
    signals.task_received.send(sender=node, request=request)
    task = tasks.get(request.task or "")
    own = None if task is None else request_of(task, request)
    if own is not None:
        _guarded(own.on_received)


def starting(task: Task[..., Any], request: Request) -> None:
    """`on_accepted`, `task_prerun` and `before_start`."""
    request.trail = task.trail
    own = request_of(task, request)
    if own is not None:
        _guarded(own.on_accepted, os.getpid(), time.monotonic())
    if signals.task_prerun.receivers:
        signals.task_prerun.send(
            sender=task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs
        )
    _guarded(task.before_start, request.id, request.args, request.kwargs)


def succeeded(task: Task[..., Any], request: Request, value: Any, runtime: float) -> None:
    """`on_success` of the task, `task_success`, and `on_success` of its `Request`."""
    _guarded(task.on_success, value, request.id, request.args, request.kwargs)
    if signals.task_success.receivers:
        signals.task_success.send(sender=task, result=value, runtime=runtime)
    own = request.custom
    if own is not None:
        _guarded(own.on_success, (False, value, runtime))


def failed(task: Task[..., Any], request: Request, error: BaseException, trace: str) -> None:
    """`on_failure` of the task, `task_failure`, then `on_timeout` and `on_failure` of its `Request`."""
    einfo = ExceptionInfo(error, trace)
    _guarded(task.on_failure, error, request.id, request.args, request.kwargs, einfo)
    if signals.task_failure.receivers:
        signals.task_failure.send(
            sender=task,
            task_id=request.id,
            exception=error,
            args=request.args,
            kwargs=request.kwargs,
            traceback=error.__traceback__,
            einfo=einfo,
        )
    own = request_of(task, request)
    if own is not None:
        limit = _limit_of(error)
        if limit is not None:
            _guarded(own.on_timeout, isinstance(error, SoftTimeLimitExceeded), limit)
        _guarded(own.on_failure, einfo)


def _limit_of(error: BaseException) -> float | None:
    """Return the seconds of the limit that ended this very run.

    None for other errors, and for the limit of a subtask, which `get` raises here.
    """
    match error:
        case TimeLimitExceeded(args=(float() | int() as limit,)) if error.__traceback__ is None:
            return limit  # never raised: the run has ended from outside
        case SoftTimeLimitExceeded(args=(float() | int() as limit,)):
            return None if isinstance(error.__cause__, RemoteTraceback) else limit
    return None


def retried(task: Task[..., Any], request: Request, retry: Retry, trace: str) -> None:
    """`on_retry` of the task, `task_retry`, and `on_retry` of its `Request`."""
    einfo = ExceptionInfo(retry, trace)
    _guarded(task.on_retry, retry.exc, request.id, request.args, request.kwargs, einfo)
    if signals.task_retry.receivers:
        signals.task_retry.send(sender=task, request=request, reason=retry, einfo=einfo)
    own = request_of(task, request)
    if own is not None:
        _guarded(own.on_retry, einfo)


def rejected(task: Task[..., Any], request: Request, delivery: Delivery, reject: Reject) -> None:
    """`reject` of the task's `Request`, and `task_rejected`."""
    own = request_of(task, request)
    if own is not None:
        _guarded(own.reject, reject.requeue)
    if signals.task_rejected.receivers:
        signals.task_rejected.send(sender=task, message=delivery, exc=reject)


def refused(delivery: Delivery, error: Exception, node: str) -> None:
    """`task_unknown`, or `task_rejected` for what cannot be read: it is a dead letter now."""
    if isinstance(error, NotRegistered):
        if signals.task_unknown.receivers:
            headers = codec.decode_header(delivery.header).headers or {}
            signals.task_unknown.send(
                sender=node, message=delivery, exc=error, name=headers.get("task"), id=headers.get("id")
            )
    elif signals.task_rejected.receivers:
        signals.task_rejected.send(sender=node, message=delivery, exc=error)


def revoked(task: Task[..., Any], request: Request, *, expired: bool, terminated: bool) -> None:
    """`task_revoked`."""
    if signals.task_revoked.receivers:
        signals.task_revoked.send(
            sender=task, request=request, terminated=terminated, signum=None, expired=expired
        )


def ended(task: Task[..., Any], request: Request, state: str, value: Any) -> None:
    """`after_return` (not for RETRY, IGNORED and REJECTED, as in Celery) and `task_postrun`."""
    if state in states.READY_STATES:
        broken = isinstance(value, BaseException) and state != states.SUCCESS
        einfo = ExceptionInfo(value, "".join(tracebacks.format_exception(value))) if broken else None
        _guarded(task.after_return, state, value, request.id, request.args, request.kwargs, einfo)
    if signals.task_postrun.receivers:
        signals.task_postrun.send(
            sender=task,
            task_id=request.id,
            task=task,
            args=request.args,
            kwargs=request.kwargs,
            retval=value,
            state=state,
        )


def _guarded(function: Callable[..., Any], *arguments: Any) -> None:
    try:
        left = function(*arguments)
    except Exception:
        logger.exception(RAISED, function)
        return
    if left is not None and inspect.iscoroutine(left):
        awaiting.leave(_guarded_await(function, left))


async def _guarded_await(function: Callable[..., Any], left: Coroutine[Any, Any, Any]) -> None:
    try:
        await left
    except Exception:
        logger.exception(RAISED, function)
