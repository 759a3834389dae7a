"""The life of one run: a delivery in, an `Outcome` out. Publishes nothing and never acknowledges.

Lives in a child, next to the app. The steps of a run, in order: read the message, find the task, make it the current
request, say that it starts, call it, and write down what follows from the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from amqptasks import protocol, signals, states
from amqptasks.amqp import Parcel
from amqptasks.errors import Ignore, MessageError, NotRegistered, Reject, Retry
from amqptasks.request import Request, pop, push
from amqptasks.serialization import accept_set
from amqptasks.transport import codec
from amqptasks.worker import announcing
from amqptasks.worker.conclusions import Conclusions
from amqptasks.worker.outcome import Cause, Outcome, Run

if TYPE_CHECKING:
    from amqptasks.app import App
    from amqptasks.task import Task

logger = logging.getLogger(__name__)

Started = Callable[[Sequence[Parcel]], None]


class Executor:
    """Runs the tasks of one app in this process. Used by one thread, or by several if the pool has threads."""

    def __init__(self, app: App, node: str) -> None:
        self.app = app
        self.node = node
        self._tasks = app.tasks
        self._accept = accept_set(app.conf.accept_content)
        self._inflate_limit = app.conf.message_inflate_limit
        self._conclude = Conclusions(app, node)
        self._own = threading.local()
        signals.worker_process_init.send(sender=None)

    def run(self, run: Run, started: Started) -> Outcome:
        """Run the task of `run`, or write what follows from its end if it is not to run (any more)."""
        if run.cause is Cause.HOOK:
            return self._hook(run)
        try:
            message = self._read(run)
            task = self._task_named(message.task)
        except (MessageError, NotRegistered) as error:
            return self._conclude.refused(run.delivery, error)
        if message.version == 1 and run.cause is Cause.RUN:
            return self._conclude.translated(run.delivery, message)
        request = Request.of(message, run.delivery, hostname=self.node)
        token = push(request)
        try:
            if run.cause is Cause.RUN:
                return self._trace(task, request, run, started)
            return self._conclude.obituary(run, task, request)
        except Exception as error:
            # What follows from the run could not be written: the broker is down for what must be declared, or a bug.
            logger.exception("Task %s[%s]: its outcome could not be written", message.task, message.id)
            return self._conclude.unwritten(run.delivery, error)
        finally:
            pop(token)

    def close(self) -> None:
        """Close what tasks opened in this process through the app."""
        runner: asyncio.Runner | None = getattr(self._own, "runner", None)
        if runner is not None:
            runner.close()
        signals.worker_process_shutdown.send(sender=None, pid=None, exitcode=0)
        self.app.close()

    def _hook(self, run: Run) -> Outcome:
        """Send a signal of the worker itself: the parent may not run the user's code."""
        if run.detail == signals.task_received.name:
            with contextlib.suppress(MessageError):  # what cannot be read is refused when its turn comes
                request = Request.of(self._read(run), run.delivery, hostname=self.node)
                signals.task_received.send(sender=self.node, request=request)
        else:
            getattr(signals, run.detail).send(sender=self.node)
        return Outcome()

    # --- steps -------------------------------------------------------------------------------------------

    def _read(self, run: Run) -> protocol.TaskMessage:
        envelope = codec.unpack(run.delivery)
        return protocol.decode(envelope, accept=self._accept, limit=self._inflate_limit)

    def _task_named(self, name: str) -> Task[..., Any]:
        try:
            return self._tasks[name]
        except KeyError:
            raise NotRegistered(
                f"this worker has no task named {name!r}; is its module listed in `include`, and is the worker's "
                "software as new as the sender's?"
            ) from None

    def _trace(self, task: Task[..., Any], request: Request, run: Run, started: Started) -> Outcome:
        began = time.monotonic()
        state, value = states.SUCCESS, None
        announcing.starting(task, request)
        started(self._conclude.started(task, request))
        try:
            value = self._call(task, request)
            outcome = self._conclude.succeeded(task, request, value, time.monotonic() - began)
        except Ignore:
            state, outcome = states.IGNORED, Outcome(state=states.IGNORED)
            logger.info("Task %s[%s] ignored", task.name, request.id)
        except Reject as reject:
            state, value = states.REJECTED, reject
            outcome = self._conclude.rejected(task, request, run, reject)
        except Retry as retry:
            state, value = states.RETRY, retry
            outcome = self._conclude.retried(task, request, run, retry)
        except Exception as error:
            state, value = states.FAILURE, error
            outcome = self._conclude.failed(task, request, error, time.monotonic() - began)
        if request.retried is not None and state != states.RETRY:
            # retry(throw=False): the run went on, and the next attempt leaves with whatever became of it.
            outcome = self._conclude.retried_too(outcome, request, run, request.retried)
        announcing.ended(task, request, state, value)
        return outcome

    def _call(self, task: Task[..., Any], request: Request) -> Any:
        value = task(*request.args, **request.kwargs)
        if inspect.iscoroutine(value):
            runner: asyncio.Runner | None = getattr(self._own, "runner", None)
            if runner is None:
                runner = self._own.runner = asyncio.Runner()
            value = runner.run(value)
        return value
