"""`Request`: a call as the worker sees it, for classes of one's own whose hooks follow each call of a task.

Ours does nothing: what a hook does, or raises, never changes what becomes of the call. Knows the task and the
call; knows nothing of pools and messages.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from amqptasks.einfo import ExceptionInfo
from amqptasks.request import Request as Context

if TYPE_CHECKING:
    from amqptasks.task import Task


class Request:
    """One call of `task`. Inherit from it, and name the class as the task's `Request`.

    The hooks have Celery's names and arguments. They run in the worker's children, never in its parent:
    `on_received` in a child of its own, the others in the child that runs the task, with one object for all of
    them; after a hard time limit or the loss of a child, in another child, with another object. Attributes that
    are not defined here are those of `task.request`: `args`, `kwargs`, `retries`, `delivery_info` ...
    """

    time_start: float | None = None
    """When the run began, in seconds since the epoch."""
    worker_pid: int | None = None
    """The process that runs it."""

    def __init__(self, task: Task[..., Any], context: Context) -> None:
        """`context` is what the task itself has as `self.request`."""
        self.task = task
        self.context = context

    def __getattr__(self, name: str) -> Any:
        if name == "context":  # not made yet: an `__init__` that does not call ours
            raise AttributeError(f"{type(self).__name__}.__init__ must call super().__init__(task, context)")
        return getattr(self.context, name)

    @property
    def name(self) -> str:
        """The name for logs: the call's `shadow`, or the task's."""
        return self.context.shadow or self.task.name

    @property
    def task_id(self) -> str:
        return self.context.id or ""

    @property
    def task_name(self) -> str:
        return self.task.name

    @property
    def app(self) -> Any:
        return self.task.app

    # --- hooks --------------------------------------------------------------------------------------------

    def on_received(self) -> None:
        """The worker has the message. Not Celery's: there the class is made at this moment."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The run begins in process `pid`; `time_accepted` is by the monotonic clock."""
        self.worker_pid = pid
        self.time_start = time.time() - (time.monotonic() - time_accepted)

    def execute(self) -> Any:
        """Run the task, and return or raise what it does; an `async def` task returns its coroutine."""
        return self.task(*self.context.args, **self.context.kwargs)

    def on_success(self, failed__retval__runtime: tuple[bool, Any, float], **kwargs: Any) -> None:
        """The task returned: (False, the value, the seconds that it took)."""

    def on_failure(
        self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """The call failed: `exc_info.exception`, and the traceback as `str(exc_info)`."""

    def on_retry(self, exc_info: ExceptionInfo) -> None:
        """The call will be run again: `exc_info.exception` is the Retry, its `exc` the reason."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A time limit of `timeout` seconds ended the run; `on_failure` comes after it.

        A soft limit that the task itself caught is not told.
        """

    def reject(self, requeue: bool = False) -> None:
        """The task raised Reject. Does not reject: the worker does."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name}[{self.task_id}]>"
