"""Exceptions on the wire: `{"exc_type", "exc_message", "exc_module"}`, understood by Celery's clients and workers.

Our classes travel under Celery's names and come back as ours, so that a stock client rebuilds real classes and we
rebuild its. A class that is not importable here becomes a `RemoteError` of the same name. Nothing is ever imported on
behalf of a message.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import orjson

from amqptasks import errors
from amqptasks.errors import RemoteError

_CELERY, _BILLIARD = "celery.exceptions", "billiard.exceptions"

_NAMES: dict[type[BaseException], tuple[str, str]] = {
    errors.TaskRevoked: (_CELERY, "TaskRevokedError"),
    errors.Ignore: (_CELERY, "Ignore"),
    errors.Reject: (_CELERY, "Reject"),
    errors.Retry: (_CELERY, "Retry"),
    errors.ChordError: (_CELERY, "ChordError"),
    errors.NotRegistered: (_CELERY, "NotRegistered"),
    errors.MaxRetriesExceeded: (_CELERY, "MaxRetriesExceededError"),
    errors.ImproperlyConfigured: (_CELERY, "ImproperlyConfigured"),
    errors.TimeoutError: (_CELERY, "TimeoutError"),
    errors.TaskError: (_CELERY, "TaskError"),
    errors.TaskPredicate: (_CELERY, "TaskPredicate"),
    errors.WorkerLost: (_BILLIARD, "WorkerLostError"),
    errors.TimeLimitExceeded: (_BILLIARD, "TimeLimitExceeded"),
    errors.SoftTimeLimitExceeded: (_BILLIARD, "SoftTimeLimitExceeded"),
    errors.Terminated: (_BILLIARD, "Terminated"),
    errors.ContentDisallowed: ("kombu.exceptions", "ContentDisallowed"),
    errors.EncodeError: ("kombu.exceptions", "EncodeError"),
    errors.DecodeError: ("kombu.exceptions", "DecodeError"),
}
_CLASSES = {names: kind for kind, names in _NAMES.items()} | {
    # Celery re-exports billiard's under its own module.
    (_CELERY, name): kind
    for kind, (module, name) in _NAMES.items()
    if module == _BILLIARD
}


def encode_exception(error: BaseException) -> dict[str, Any]:
    """Return an exception as it travels. Arguments that JSON cannot carry become their `repr`; never raises."""
    if isinstance(error, RemoteError):
        module, name = error.exc_module, error.exc_type
    else:
        kind = type(error)
        module, name = _NAMES.get(kind) or (kind.__module__, kind.__qualname__)
    return {
        "exc_type": name,
        "exc_message": [_sendable(argument) for argument in _arguments(error)],
        "exc_module": module,
    }


def _arguments(error: BaseException) -> tuple[Any, ...]:
    if isinstance(error, errors.Retry):
        return (error.message, str(error.exc) if error.exc is not None else None, str(error.when or ""))
    return error.args


def _sendable(argument: Any) -> Any:
    try:
        orjson.dumps(argument, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS)
    except Exception:
        try:
            return repr(argument)
        except Exception as broken:
            return f"<{type(argument).__name__}: repr() raised {type(broken).__name__}>"
    return argument


def decode_exception(stored: Any) -> BaseException:
    """Return the exception that was sent: of its own class if that is imported here, else a `RemoteError`."""
    if isinstance(stored, BaseException):  # pickle carries the object itself
        return stored
    if not isinstance(stored, Mapping) or "exc_type" not in stored:
        return _synthesised("Exception", "builtins")(stored)
    name, module = str(stored["exc_type"]), str(stored.get("exc_module") or _CELERY)
    message = stored.get("exc_message")
    arguments = tuple(message) if isinstance(message, list | tuple) else (message,)
    return _rebuilt(_class(module, name), arguments, name, module)


def _class(module: str, name: str) -> type[BaseException] | None:
    ours = _CLASSES.get((module, name))
    if ours is not None:
        return ours
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _rebuilt(
    kind: type[BaseException] | None, arguments: tuple[Any, ...], name: str, module: str
) -> BaseException:
    if kind is not None:
        try:
            return kind(*arguments)
        except Exception:
            # Its __init__ wants other arguments than those it left in `args`.
            kind = None
    return _synthesised(name, module)(*arguments)


def _synthesised(name: str, module: str) -> type[RemoteError]:
    return type(
        name.rpartition(".")[2],
        (RemoteError,),
        {"exc_type": name, "exc_module": module, "__module__": module},
    )
