"""Awaiting what a task's own code left to await: its body and its handlers, by whichever loop there is.

A body is wrapped in a `Guard`, so that a soft time limit is raised at the await where it is. Knows nothing of
tasks, messages or pools.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from traceback import FrameSummary, format_list
from types import FrameType
from typing import Any

from amqptasks.errors import SoftTimeLimitExceeded

Left = Coroutine[Any, Any, Any]

_left: ContextVar[tuple[Left, ...]] = ContextVar("amqptasks_left", default=())


def leave(coroutine: Left) -> None:
    """Leave a coroutine to the executor, which awaits it before the run goes on."""
    _left.set((*_left.get(), coroutine))


def taken() -> tuple[Left, ...]:
    """Return what was left in this thread or coroutine, in order; it is no longer left."""
    left = _left.get()
    if left:
        _left.set(())
    return left


class SoftLimitCancelled(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The soft time limit as a coroutine sees it: a cancellation too, so that what stands between the body and the
    loop (a TaskGroup, a lock) lets go as it does when cancelled."""


class Guard(Coroutine[Any, Any, Any]):
    """A coroutine whose current await can be made to raise. Await it in one asyncio.Task, once.

    All methods belong to the loop's thread.
    """

    def __init__(self, coroutine: Left) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[Any] | None = None
        self._due: SoftTimeLimitExceeded | None = None
        self._limit: SoftTimeLimitExceeded | None = None
        self._cancelled = False
        self.running = False
        """Whether the coroutine itself runs at this moment, rather than the loop or another one."""

    def interrupt(self, limit: SoftTimeLimitExceeded) -> None:
        """Raise the soft limit at the current await, or at the first one if it has not begun."""
        self._due = limit
        if self._task is not None:
            self._task.cancel()

    def cancel(self) -> None:
        """Raise CancelledError at the current await, as asyncio does."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def send(self, value: Any) -> Any:
        """Go on with the body; called by the loop."""
        if self._task is None:
            self._task = asyncio.current_task()
            if self._cancelled:
                return self._step(self._coroutine.throw, asyncio.CancelledError())
        if self._due is not None:
            return self._raise_limit(self._due)
        return self._step(self._coroutine.send, value)

    def throw(self, kind: Any, value: Any = None, trace: Any = None, /) -> Any:
        """Raise in the body, at its await; called by the loop."""
        error = kind if isinstance(kind, BaseException) else value if value is not None else kind()
        if self._due is not None and isinstance(error, asyncio.CancelledError):
            return self._raise_limit(self._due)
        return self._step(self._coroutine.throw, error)

    def _raise_limit(self, limit: SoftTimeLimitExceeded) -> Any:
        self._due, self._limit = None, limit
        if self._task is not None:
            self._task.uncancel()  # it was the limit's way in; the body is not being cancelled
        return self._step(self._coroutine.throw, SoftLimitCancelled(*limit.args))

    def _step(self, resume: Callable[[Any], Any], value: Any) -> Any:
        self.running = True
        try:
            return resume(value)
        except asyncio.CancelledError as error:
            if self._limit is None or self._cancelled:
                raise
            # What the body did not catch leaves it as the plain limit. Some of asyncio raises a cancellation anew.
            raise SoftTimeLimitExceeded(*self._limit.args).with_traceback(error.__traceback__) from None
        finally:
            self.running = False

    def stack(self) -> str:
        """Where it waits, as a traceback shows it: the outermost call first."""
        lines = []
        waits: Any = self._coroutine
        while inspect.iscoroutine(waits) and waits.cr_frame is not None:
            code, number = waits.cr_frame.f_code, waits.cr_frame.f_lineno
            lines.append(FrameSummary(code.co_filename, number, code.co_name))
            waits = waits.cr_await
        return "".join(format_list(lines))

    def close(self) -> None:
        """End the coroutine where it is."""
        self._coroutine.close()

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Guard:
        return self

    def __next__(self) -> Any:
        return self.send(None)


class Loops:
    """A loop for each thread that runs tasks one at a time. Thread-safe."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._all: list[asyncio.Runner] = []

    def complete(self, coroutine: Left, limited: bool = False) -> Any:
        """Run `coroutine` to its end, in the current context; blocks. `limited`: a SIGALRM may raise its soft limit."""
        runner: asyncio.Runner | None = getattr(self._own, "runner", None)
        if runner is None:
            runner = self._own.runner = asyncio.Runner()
            self._all.append(runner)
        context = contextvars.copy_context()
        if not limited or not isinstance(coroutine, Guard):
            return runner.run(coroutine, context=context)
        with _alarm_in(coroutine, runner.get_loop()):
            return runner.run(coroutine, context=context)

    def close(self) -> None:
        """Close every loop; the threads run nothing any more."""
        while self._all:
            self._all.pop().close()


@contextmanager
def _alarm_in(guard: Guard, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """While the loop runs, a soft limit that SIGALRM raises is raised in the body: raised in the loop's own code it
    would leave the loop in the middle of its work, and the body unfinished."""
    raises = signal.getsignal(signal.SIGALRM)
    if not callable(raises) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def alarm(number: int, frame: FrameType | None) -> None:
        try:
            raises(number, frame)
        except SoftTimeLimitExceeded as limit:
            if guard.running:
                raise
            loop.call_soon_threadsafe(guard.interrupt, limit)

    signal.signal(signal.SIGALRM, alarm)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGALRM) is alarm:
            signal.signal(signal.SIGALRM, raises)
