"""Signals: functions that the user connects to events of clients and workers, under Celery's names.

A signal nobody is connected to costs one attribute read at the place that sends it (`if
task_sent.receivers:`). Knows nothing of tasks, apps or workers: it hands on what it is given.
"""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

Receiver = Callable[..., Any]
F = TypeVar("F", bound=Receiver)
logger = logging.getLogger(__name__)


def _same_sender(wanted: object, sender: object) -> bool:
    return wanted is None or wanted is sender or (isinstance(wanted, str) and wanted == sender)


class _Connected:
    """One receiver: how to reach it, and whose signals it wants."""

    __slots__ = ("key", "reference", "sender")

    def __init__(self, key: object, reference: Callable[[], Receiver | None], sender: object) -> None:
        self.key = key
        self.reference = reference
        self.sender = sender


def _weak(receiver: Receiver, gone: Callable[[Any], None]) -> Callable[[], Receiver | None]:
    return weakref.WeakMethod(receiver, gone) if inspect.ismethod(receiver) else weakref.ref(receiver, gone)


class Signal:
    """One event. Thread-safe; `send` calls the receivers in the order in which they were connected."""

    def __init__(self, name: str, providing_args: tuple[str, ...] = ()) -> None:
        self.name = name
        self.providing_args = providing_args
        self.receivers: tuple[_Connected, ...] = ()
        self._lock = threading.RLock()  # a weak reference's callback may come while this thread holds it

    @overload
    def connect(
        self, receiver: F, /, *, sender: object = None, weak: bool = True, dispatch_uid: object = None
    ) -> F: ...
    @overload
    def connect(
        self, /, *, sender: object = None, weak: bool = True, dispatch_uid: object = None
    ) -> Callable[[F], F]: ...
    def connect(
        self,
        receiver: Any = None,
        /,
        *,
        sender: object = None,
        weak: bool = True,
        dispatch_uid: object = None,
    ) -> Any:
        """Call `receiver(sender=..., signal=..., **named)` whenever the signal is sent; usable as a
        decorator.

        `sender` limits it to one sender (a task, or a task's name where the name is what is sent). A receiver
        is held weakly unless `weak=False`. The same `dispatch_uid` (else the same receiver) connects once.
        """
        if receiver is None:
            return lambda function: self.connect(
                function, sender=sender, weak=weak, dispatch_uid=dispatch_uid
            )
        key = (dispatch_uid if dispatch_uid is not None else _identity(receiver), _identity(sender))
        reference = _weak(receiver, self._forget) if weak else (lambda: receiver)
        with self._lock:
            if all(connected.key != key for connected in self.receivers):
                self.receivers = (*self.receivers, _Connected(key, reference, sender))
        return receiver

    def disconnect(
        self, receiver: Receiver | None = None, *, sender: object = None, dispatch_uid: object = None
    ) -> bool:
        """Undo a `connect` made with the same arguments; False when there was none."""
        key = (dispatch_uid if dispatch_uid is not None else _identity(receiver), _identity(sender))
        with self._lock:
            kept = tuple(connected for connected in self.receivers if connected.key != key)
            found = len(kept) != len(self.receivers)
            self.receivers = kept
        return found

    def send(self, sender: object, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call every receiver; return each with its answer. An exception is logged and is its receiver's
        answer.
        """
        answers: list[tuple[Receiver, Any]] = []
        for connected in self.receivers:
            receiver = connected.reference() if _same_sender(connected.sender, sender) else None
            if receiver is not None:
                answers.append((receiver, self._call(receiver, sender, named)))
        return answers

    def _call(self, receiver: Receiver, sender: object, named: dict[str, Any]) -> Any:
        try:
            return receiver(signal=self, sender=sender, **named)
        except Exception as error:
            logger.exception("signal %s: receiver %r failed", self.name, receiver)
            return error

    def _forget(self, reference: object) -> None:
        with self._lock:
            self.receivers = tuple(
                connected for connected in self.receivers if connected.reference is not reference
            )

    def __repr__(self) -> str:
        return f"<Signal: {self.name} providing_args={set(self.providing_args)}>"


def _identity(thing: object) -> object:
    """Return what tells `thing` apart without keeping it alive; bound methods and strings are made anew each
    time.
    """
    if inspect.ismethod(thing):
        return (id(thing.__self__), id(thing.__func__))
    return thing if isinstance(thing, str) else id(thing)


before_task_publish = Signal(
    "before_task_publish",
    ("body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"),
)
after_task_publish = Signal("after_task_publish", ("body", "headers", "exchange", "routing_key"))
task_received = Signal("task_received", ("request",))
task_prerun = Signal("task_prerun", ("task_id", "task", "args", "kwargs"))
task_postrun = Signal("task_postrun", ("task_id", "task", "args", "kwargs", "retval", "state"))
task_success = Signal("task_success", ("result",))
task_retry = Signal("task_retry", ("request", "reason", "einfo"))
task_failure = Signal("task_failure", ("task_id", "exception", "args", "kwargs", "traceback", "einfo"))
task_internal_error = Signal(
    "task_internal_error", ("task_id", "args", "kwargs", "request", "exception", "traceback", "einfo")
)
task_revoked = Signal("task_revoked", ("request", "terminated", "signum", "expired"))
task_rejected = Signal("task_rejected", ("message", "exc"))
task_unknown = Signal("task_unknown", ("message", "exc", "name", "id"))
celeryd_init = Signal("celeryd_init", ("instance", "conf", "options"))
celeryd_after_setup = Signal("celeryd_after_setup", ("instance", "conf"))
import_modules = Signal("import_modules")
worker_init = Signal("worker_init")
worker_before_create_process = Signal("worker_before_create_process")
worker_process_init = Signal("worker_process_init")
worker_process_shutdown = Signal("worker_process_shutdown", ("pid", "exitcode"))
worker_ready = Signal("worker_ready")
worker_shutdown = Signal("worker_shutdown")
worker_shutting_down = Signal("worker_shutting_down", ("sig", "how", "exitcode"))
heartbeat_sent = Signal("heartbeat_sent")
setup_logging = Signal("setup_logging", ("loglevel", "logfile", "format", "colorize"))
after_setup_logger = Signal("after_setup_logger", ("logger", "loglevel", "logfile", "format", "colorize"))
after_setup_task_logger = Signal(
    "after_setup_task_logger", ("logger", "loglevel", "logfile", "format", "colorize")
)
beat_init = Signal("beat_init")
beat_embedded_init = Signal("beat_embedded_init")
user_preload_options = Signal("user_preload_options", ("app", "options"))
