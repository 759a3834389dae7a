"""Telling the user's code how a run goes: a task's own methods (`on_success` ...) and the signals of Celery's names.

Nothing told here changes an outcome: what user code raises is logged. A signal that nobody is connected to costs one
attribute read.
"""

from __future__ import annotations

import logging
import traceback as tracebacks
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amqptasks import signals, states
from amqptasks.amqp import Delivery
from amqptasks.errors import ExceptionInfo, Reject, Retry
from amqptasks.request import Request

if TYPE_CHECKING:
    from amqptasks.task import Task

logger = logging.getLogger(__name__)


def starting(task: Task[..., Any], request: Request) -> None:
    """`task_prerun` and `before_start`."""
    if signals.task_prerun.receivers:
        signals.task_prerun.send(
            sender=task, task_id=request.id, task=task, args=request.args, kwargs=request.kwargs
        )
    _guarded(task.before_start, request.id, request.args, request.kwargs)


def succeeded(task: Task[..., Any], request: Request, value: Any) -> None:
    """`on_success` and `task_success`."""
    _guarded(task.on_success, value, request.id, request.args, request.kwargs)
    if signals.task_success.receivers:
        signals.task_success.send(sender=task, result=value)


def failed(task: Task[..., Any], request: Request, error: BaseException, trace: str) -> None:
    """`on_failure` and `task_failure`."""
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


def retried(task: Task[..., Any], request: Request, retry: Retry, trace: str) -> None:
    """`on_retry` and `task_retry`."""
    einfo = ExceptionInfo(retry, trace)
    _guarded(task.on_retry, retry.exc, request.id, request.args, request.kwargs, einfo)
    if signals.task_retry.receivers:
        signals.task_retry.send(sender=task, request=request, reason=retry, einfo=einfo)


def rejected(task: Task[..., Any], delivery: Delivery, reject: Reject) -> None:
    """`task_rejected`."""
    if signals.task_rejected.receivers:
        signals.task_rejected.send(sender=task, message=delivery, exc=reject)


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
        function(*arguments)
    except Exception:
        logger.exception("%r raised; the task's outcome is not changed by it", function)
