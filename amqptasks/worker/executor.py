"""The life of one run: a delivery in, an `Outcome` out. Publishes nothing and never acknowledges.

Lives in a child, next to the app. The steps of a run, in order: read the message, find the task, make it the current
request, say that it starts, call it, and write down what follows from the answer. They are written once, as a
generator that yields each coroutine to be awaited: `run` awaits it by a loop of this thread, `arun` by the running one.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from amqptasks import protocol, signals, states
from amqptasks.amqp import Parcel
from amqptasks.errors import Ignore, MessageError, NotRegistered, Reject, Retry
from amqptasks.request import Request, pop, push
from amqptasks.serialization import JSON, accept_set
from amqptasks.transport import codec
from amqptasks.worker import announcing, telling
from amqptasks.worker.awaiting import Guard, Left, Loops, taken
from amqptasks.worker.conclusions import Conclusions
from amqptasks.worker.outcome import Cause, Outcome, Run
from amqptasks.worker.own_commands import carry_out
from amqptasks.worker.pools.base import Stage

if TYPE_CHECKING:
    from amqptasks.app import App
    from amqptasks.task import Task

logger = logging.getLogger(__name__)

Started = Callable[[Sequence[Parcel]], None]
Steps = Generator[Left, Any, Outcome]


class Executor:
    """Runs the tasks of one app in this process. Used by one thread, or by several if the pool has threads."""

    def __init__(self, app: App, node: str) -> None:
        self.app = app
        self.node = node
        self._tasks = app.tasks
        self._accept = accept_set(app.conf.accept_content)
        self._reads_json = JSON in self._accept
        self._inflate_limit = app.conf.message_inflate_limit
        self._measured = app.conf.worker_health_port is not None
        self._conclude = Conclusions(app, node)
        self._loops = Loops()
        signals.worker_process_init.send(sender=None)

    def run(self, run: Run, started: Started) -> Outcome:
        """Run the task of `run`, or write what follows from its end if it is not to run (any more). Blocks."""
        if run.cause is not Cause.RUN and run.cause >= Cause.HOOK:
            return self._beside(run)
        opened = self._open(run)
        if isinstance(opened, Outcome):
            return opened
        return self._drive(self._steps(run, *opened, started), run)

    async def arun(self, run: Run, stage: Stage) -> Outcome:
        """As `run`, in the running loop. What is not `async def` runs in a thread of the stage."""
        opened = self._open(run)
        if isinstance(opened, Outcome):
            for writing in taken():
                await writing
            return opened
        task, request = opened
        steps = self._steps(run, task, request, stage.started)
        if not inspect.iscoroutinefunction(task.run):
            return await stage.thread(partial(self._drive, steps, run))
        try:
            left = next(steps)
            while True:
                try:
                    answer = await (stage.watch(left) if isinstance(left, Guard) else left)
                except BaseException as error:
                    left = steps.throw(error)
                else:
                    left = steps.send(answer)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome

    def close(self) -> None:
        """Close what tasks opened in this process through the app."""
        self._loops.close()
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
        self.app.close()

    def _drive(self, steps: Steps, run: Run) -> Outcome:
        try:
            left = next(steps)
            while True:
                try:
                    answer = self._loops.complete(left, limited=run.soft is not None)
                except BaseException as error:
                    left = steps.throw(error)
                else:
                    left = steps.send(answer)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome

    def _beside(self, run: Run) -> Outcome:
        """Send a signal of the worker itself, or carry out a command: the parent may not run the user's code."""
        if run.cause is Cause.COMMAND:
            return carry_out(self.app, self.node, run.detail, run.delivery.body, self._loops.complete)
        if run.detail == signals.task_received.name:
            with contextlib.suppress(MessageError):  # what cannot be read is refused when its turn comes
                request = Request.of(self._read(run), run.delivery, hostname=self.node)
                announcing.received(self._tasks, request, self.node)
        else:
            named = json.loads(run.delivery.body) if run.delivery.body else {}
            getattr(signals, run.detail).send(sender=self.node, **named)
        return Outcome()

    # --- steps -------------------------------------------------------------------------------------------

    def _open(self, run: Run) -> tuple[Task[..., Any], Request] | Outcome:
        """The task and its request; an outcome for what cannot be run, or not like this."""
        request = Request.plain(run.delivery, hostname=self.node) if self._reads_json else None
        if request is not None and (task := self._tasks.get(request.task or "")) is not None:
            return task, request
        try:
            message = self._read(run)
            task = self._task_named(message.task)
        except (MessageError, NotRegistered) as error:
            outcome = self._conclude.refused(run.delivery, error)
            if outcome.state == states.REJECTED:
                announcing.refused(run.delivery, error, self.node)
            return telling.refused(outcome, error) if run.watch else outcome
        if message.version == 1 and run.cause is Cause.RUN:
            return self._conclude.translated(run.delivery, message)
        return task, Request.of(message, run.delivery, hostname=self.node)

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

    def _steps(self, run: Run, task: Task[..., Any], request: Request, started: Started) -> Steps:
        if request.expires is not None and run.cause is Cause.RUN and request.expires <= datetime.now(UTC):
            run = replace(run, cause=Cause.EXPIRED)  # while it waited for a free slot
        token = push(request)
        try:
            if run.cause is Cause.RUN:
                return (yield from self._trace(task, request, run, started))
            outcome = self._conclude.obituary(run, task, request)
            if run.watch or self._measured:
                outcome = telling.obituary(outcome, run)
            if left := taken():
                yield from left
        except Exception as error:
            # What follows from the run could not be written: the broker is down for what must be declared, or a bug.
            logger.exception("Task %s[%s]: its outcome could not be written", request.name, request.id)
            for unheard in taken():
                unheard.close()
            outcome = self._conclude.unwritten(task, request, run.delivery, error)
            if left := taken():
                yield from left
            return outcome
        else:
            return outcome
        finally:
            pop(token)

    def _trace(self, task: Task[..., Any], request: Request, run: Run, started: Started) -> Steps:
        began = time.monotonic()
        state, value = states.SUCCESS, None
        announcing.starting(task, request)
        start = self._conclude.started(task, request)
        if left := taken():
            yield from left
        started(start)
        try:
            own = request.custom
            value = task(*request.args, **request.kwargs) if own is None else own.execute()
            if inspect.iscoroutine(value):
                value = yield Guard(value)
            outcome = self._conclude.succeeded(task, request, value, time.monotonic() - began)
        except Ignore as ignore:
            state, outcome = states.IGNORED, self._conclude.ignored(request, ignore)
            logger.info("Task %s[%s] ignored", request.name, request.id)
        except Reject as reject:
            state, value = states.REJECTED, reject
            outcome = self._conclude.rejected(task, request, run, reject)
        except Retry as retry:
            outcome = self._conclude.retried(task, request, run, retry)
            state = outcome.state
            value = retry if state == states.RETRY else retry.exc
        except (Exception, asyncio.CancelledError) as error:
            state, value = states.FAILURE, error
            outcome = self._conclude.failed(task, request, error, time.monotonic() - began)
        if request.retried is not None and state != states.RETRY:
            # retry(throw=False): the run went on, and the next attempt leaves with whatever became of it.
            outcome = self._conclude.retried_too(outcome, request, run, request.retried)
        if left := taken():
            yield from left
        if run.watch:
            outcome = telling.ended(outcome, state, value, time.monotonic() - began)
        elif self._measured and state == states.FAILURE:
            outcome = telling.raised(outcome, value)
        announcing.ended(task, request, state, value)
        if left := taken():
            yield from left
        return outcome
