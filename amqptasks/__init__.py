"""amqptasks: a distributed task queue built for RabbitMQ, with Celery's programming model.

Public names are imported when they are first used, so that `import amqptasks` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amqptasks import errors, signals, states
    from amqptasks.app import App, current_app
    from amqptasks.canvas import chain, chord, chunks, group, xmap, xstarmap
    from amqptasks.log import get_task_logger
    from amqptasks.request import Request
    from amqptasks.result import AsyncResult, GroupResult, ResultSet
    from amqptasks.routing import Exchange, Queue
    from amqptasks.sharing import shared_task
    from amqptasks.signatures import Signature, maybe_signature, signature
    from amqptasks.signatures import subtask as subtask
    from amqptasks.task import Task
    from amqptasks.waiting import allow_join_result

__version__ = "0.1.0"

__all__ = [
    "App",
    "AsyncResult",
    "Exchange",
    "GroupResult",
    "Queue",
    "Request",
    "ResultSet",
    "Signature",
    "Task",
    "allow_join_result",
    "chain",
    "chord",
    "chunks",
    "current_app",
    "errors",
    "get_task_logger",
    "group",
    "maybe_signature",
    "shared_task",
    "signals",
    "signature",
    "states",
    "xmap",
    "xstarmap",
]

_HOMES = {
    "App": "app",
    "AsyncResult": "result",
    "Exchange": "routing",
    "GroupResult": "result",
    "Queue": "routing",
    "Request": "request",
    "ResultSet": "result",
    "Signature": "signatures",
    "Task": "task",
    "allow_join_result": "waiting",
    "chain": "canvas",
    "chord": "canvas",
    "chunks": "canvas",
    "current_app": "app",
    "get_task_logger": "log",
    "group": "canvas",
    "maybe_signature": "signatures",
    "shared_task": "sharing",
    "signature": "signatures",
    "subtask": "signatures",
    "xmap": "canvas",
    "xstarmap": "canvas",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(f"amqptasks.{home}"), name)
    elif name in __all__:
        value = importlib.import_module(f"amqptasks.{name}")
    else:
        raise AttributeError(f"module 'amqptasks' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
