"""Exceptions on the wire, `{"exc_type", "exc_message", "exc_module"}`, as Celery's peers know them.

Our classes travel under Celery's names and come back as ours, so that a stock client rebuilds real classes
and we rebuild its. A class that is not importable here becomes a `RemoteError` of the same name. Nothing is
ever imported, and nothing but an exception class ever called, on behalf of a message.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any

from amqptasks import errors
from amqptasks.errors import RemoteError
from amqptasks.serialization import dumps
from amqptasks.shown import shown

_CELERY, _BILLIARD, _KOMBU = "celery.exceptions", "billiard.exceptions", "kombu.exceptions"

_NAMES: dict[type[BaseException], tuple[str, str]] = {
    errors.TaskRevoked: (_CELERY, "TaskRevokedError"),
    errors.Ignore: (_CELERY, "Ignore"),
    errors.Reject: (_CELERY, "Reject"),
    errors.Retry: (_CELERY, "Retry"),
    errors.ChordError: (_CELERY, "ChordError"),
    errors.NotRegistered: (_CELERY, "NotRegistered"),
    errors.MaxRetriesExceeded: (_CELERY, "MaxRetriesExceededError"),
    errors.ImproperlyConfigured: (_CELERY, "ImproperlyConfigured"),
    errors.InvalidMessage: (_CELERY, "InvalidTaskError"),
    errors.TimeoutError: (_CELERY, "TimeoutError"),
    errors.TaskError: (_CELERY, "TaskError"),
    errors.TaskPredicate: (_CELERY, "TaskPredicate"),
    errors.WorkerLost: (_BILLIARD, "WorkerLostError"),
    errors.TimeLimitExceeded: (_BILLIARD, "TimeLimitExceeded"),
    errors.SoftTimeLimitExceeded: (_BILLIARD, "SoftTimeLimitExceeded"),
    errors.Terminated: (_BILLIARD, "Terminated"),
    errors.ContentDisallowed: (_KOMBU, "ContentDisallowed"),
    errors.EncodeError: (_KOMBU, "EncodeError"),
    errors.DecodeError: (_KOMBU, "DecodeError"),
}
_CLASSES = {names: kind for kind, names in _NAMES.items()} | {
    # Celery re-exports billiard's under its own module.
    (_CELERY, name): kind
    for kind, (module, name) in _NAMES.items()
    if module == _BILLIARD
}

_WRAPPER = ("celery.utils.serialization", "UnpickleableExceptionWrapper")
"""Celery sends an exception that cannot be pickled so, with any serializer: module, name, args, repr."""


def encode_exception(error: BaseException, serializer: str = "json") -> dict[str, Any]:
    """Return an exception as it travels. Arguments that `serializer` cannot write become their `repr`."""
    if isinstance(error, RemoteError):
        module, name = error.exc_module, error.exc_type
    else:
        kind = type(error)
        module, name = _NAMES.get(kind) or (kind.__module__, kind.__qualname__)
    return {
        "exc_type": name,
        "exc_message": [_sendable(argument, serializer) for argument in _arguments(error)],
        "exc_module": module,
    }


def _arguments(error: BaseException) -> tuple[Any, ...]:
    if isinstance(error, errors.Retry):
        # Celery's class takes texts here, and shows them.
        return error.message, None if error.exc is None else shown(error.exc), error.when
    return error.args or _words(error)


def _words(error: BaseException) -> tuple[str, ...]:
    """Return what an exception without arguments says all the same: pydantic's, those with keywords alone."""
    try:
        text = str(error)
    except Exception:
        return ()
    return (text,) if text else ()


def _sendable(argument: Any, serializer: str) -> Any:
    try:
        dumps(argument, serializer)
    except Exception:
        return shown(argument)
    return argument


def decode_exception(stored: Any) -> BaseException:
    """Return the exception that was sent: of its own class if that is imported here, else a `RemoteError`."""
    if isinstance(stored, BaseException):  # pickle carries the object itself
        return stored
    if not isinstance(stored, Mapping) or not isinstance(stored.get("exc_type"), str):
        return RemoteError(stored)
    name, module = stored["exc_type"], str(stored.get("exc_module") or _CELERY)
    message = stored.get("exc_message")
    match message:
        case [str() as inner, str() as wrapped, list() | tuple() as own, _] if (module, name) == _WRAPPER:
            module, name, message = inner, wrapped, own
    arguments = tuple(message) if isinstance(message, list | tuple) else () if message is None else (message,)
    kind = _CLASSES.get((module, name)) or _imported(module, name)
    rebuilt = None if kind is None else _rebuilt(kind, arguments)
    return _synthesised(name, module)(*arguments) if rebuilt is None else rebuilt


def _imported(module: str, name: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        # A module's `__getattr__` may import.
        found = vars(found).get(part) if isinstance(found, ModuleType) else getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _rebuilt(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException | None:
    try:
        return kind(*arguments)
    except Exception:
        return _without_init(kind, arguments)


def _without_init(kind: type[BaseException], arguments: tuple[Any, ...]) -> BaseException | None:
    """Its `__init__` wants other arguments than those it left in `args`: `except` still finds the class."""
    try:
        error = kind.__new__(kind, *arguments)
        str(error)
    except Exception:
        return None  # half made, it cannot even be shown
    return error


@lru_cache(maxsize=256)
def _synthesised(name: str, module: str) -> type[RemoteError]:
    return type(
        name.rpartition(".")[2],
        (RemoteError,),
        {"exc_type": name, "exc_module": module, "__module__": module},
    )
