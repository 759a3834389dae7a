"""The tasks' own `Request` classes: which task has one, and its object for a call.

Decided when the app is loaded; a task without one costs one attribute read a call. Knows nothing of what is told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from amqptasks import dotted
from amqptasks.request import Request as Context
from amqptasks.task_options import REQUEST
from amqptasks.worker.request import Request

if TYPE_CHECKING:
    from amqptasks.task import Task

logger = logging.getLogger(__name__)


def resolve(tasks: Iterable[Task[..., Any]]) -> bool:
    """Import the `Request` classes that tasks name; return whether one of them wants to know what is received.

    Raises ImproperlyConfigured for what is no such class.
    """
    kinds = [kind for task in tasks if (kind := _kind(task)) is not None]
    return any(kind.on_received is not Request.on_received for kind in kinds)


def _kind(task: Task[..., Any]) -> type[Request] | None:
    """Return a task's own class, and keep it; None for ours."""
    given = task.Request
    if given is REQUEST:
        return None
    found = dotted.find_class(given, Request, f"Request of task {task.name}")
    task.Request = REQUEST if found is Request else found
    return None if found is Request else found


def request_of(task: Task[..., Any], context: Context) -> Request | None:
    """Return the task's own object for this call, made when first asked for; None where the task has none."""
    if task.Request is REQUEST:
        return None
    own: Request | None = context.custom
    if own is None:
        own = context.custom = _made(task, context)
    return own


def _made(task: Task[..., Any], context: Context) -> Request:
    try:
        kind = _kind(task)
        return Request(task, context) if kind is None else kind(task, context)
    except Exception:
        logger.exception("the Request of task %s could not be made; its hooks are not called", task.name)
        return Request(task, context)
