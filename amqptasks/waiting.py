"""What waiting for a result means: where it is forbidden, what is sent before, how a failure is raised.

Knows states and backends' `Meta`; knows neither handles on results nor tasks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from amqptasks import states
from amqptasks.backends.base import Backend, Meta
from amqptasks.errors import WouldDeadlock

logger = logging.getLogger(__name__)

running: ContextVar[Any] = ContextVar("amqptasks_running", default=None)
"""The request that runs in this thread or coroutine; `request.push` sets it."""
joining_allowed: ContextVar[bool] = ContextVar("amqptasks_joining_allowed", default=False)
flush: ContextVar[Callable[[], None] | None] = ContextVar("amqptasks_flush", default=None)
"""Sends what an open batch still holds, so that waiting inside a batch waits for something that was sent."""


class Ending(Protocol):
    """What `later` needs of a result."""

    def ready(self) -> bool: ...


T = TypeVar("T", bound=Ending)


aflush: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("amqptasks_aflush", default=None)
"""As `flush`, for coroutines."""


class HasBackend(Protocol):
    @property
    def backend(self) -> Backend: ...


class _Home:
    """The current app, for results, signatures and shared tasks that name none. Thread-safe."""

    def __init__(self) -> None:
        self.app: HasBackend | None = None
        self.make: Callable[[], HasBackend] | None = None
        """Makes an app with default settings; the app floor sets it."""
        self._lock = threading.RLock()

    def find(self) -> HasBackend:
        """Return the current app; without any, make one."""
        with self._lock:
            if self.app is None:
                if self.make is None:
                    raise RuntimeError("there is no app; make one: app = amqptasks.App()")
                self.app = self.make()
            return self.app


home = _Home()


class RemoteTraceback(Exception):
    """The traceback, as text, of the process where the task failed; the cause of what `get()` raises."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Permit `get()` inside a task, for one who knows that other workers can run what it waits for."""
    token = joining_allowed.set(True)
    try:
        yield
    finally:
        joining_allowed.reset(token)


def prepare_to_wait(disable_sync_subtasks: bool) -> None:
    """Raise WouldDeadlock inside a task; send what an open batch holds."""
    request = running.get()
    if request is not None and disable_sync_subtasks and not joining_allowed.get():
        raise WouldDeadlock(
            f"get() inside task {request.task}[{request.id}] waits for a worker that may be this very one; "
            "use a chain or a callback, or disable_sync_subtasks=False where other workers run the subtask"
        )
    send = flush.get()
    if send is not None:
        send()


def later(
    result: T,
    wait: Callable[[], Any],
    callback: Callable[[T], Any],
    on_error: Callable[[Exception], Any] | None,
) -> T:
    """Call `callback(result)` after `wait()`: at once if it is ready, else in a thread of its own. Return `result`."""

    def run() -> None:
        try:
            wait()
            callback(result)
        except Exception as error:
            if on_error is not None:
                on_error(error)
            else:
                logger.exception("a callback for the result %s could not be called, or raised", result)

    if result.ready():
        run()
    else:
        threading.Thread(target=run, name=f"amqptasks then {result}", daemon=True).start()
    return result


async def aprepare_to_wait(disable_sync_subtasks: bool) -> None:
    """As `prepare_to_wait`, in a coroutine."""
    prepare_to_wait(disable_sync_subtasks)
    send = aflush.get()
    if send is not None:
        await send()


def value_of(meta: Meta, propagate: bool) -> Any:
    """Return the task's value; raise what it raised, with the remote traceback as its cause, if
    `propagate`.
    """
    if (
        not propagate
        or meta.status not in states.PROPAGATE_STATES
        or not isinstance(meta.result, BaseException)
    ):
        return meta.result
    error = meta.result
    if meta.traceback and error.__cause__ is None:
        error.__cause__ = RemoteTraceback(meta.traceback)
    raise error.with_traceback(None)


def as_mapping(meta: Meta) -> dict[str, Any]:
    """Return a state as Celery hands it to `on_message`."""
    return {
        "task_id": meta.task_id,
        "status": meta.status,
        "result": meta.result,
        "traceback": meta.traceback,
        "children": list(meta.children),
        "date_done": meta.date_done,
        **meta.extended,
    }


def revoke_ids(  # noqa: PLR0917 (as `AsyncResult.revoke` has them)
    app: HasBackend | None, ids: Any, terminate: bool, signal: str | None, wait: bool, timeout: float
) -> None:
    """Revoke calls by the remote control of their app. Raises TypeError where there is none."""
    _control(app).revoke(ids, terminate=terminate, signal=signal, reply=wait, timeout=timeout)


def revoke_stamped(  # noqa: PLR0917 (as `AsyncResult.revoke_by_stamped_headers` has them)
    app: HasBackend | None, stamps: Any, terminate: bool, signal: str | None, wait: bool, timeout: float
) -> None:
    """As `revoke_ids`, for the calls that bear a stamp."""
    control = _control(app)
    control.revoke_by_stamped_headers(stamps, terminate=terminate, signal=signal, reply=wait, timeout=timeout)


def _control(app: HasBackend | None) -> Any:
    control = getattr(app or home.find(), "control", None)
    if control is None:
        raise TypeError(f"{app!r} has no remote control, so nothing can be revoked through it")
    return control
