"""What follows from a run's end, as messages: result, callbacks, next step of the chain, retry, dead letter.

Every method answers an `Outcome`: what to publish, in order, and how to settle. Publishes nothing itself.
"""

from __future__ import annotations

import logging
import os
import traceback as tracebacks
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from amqptasks import protocol, retrying, states
from amqptasks.amqp import Address, Delivery, Envelope, Parcel
from amqptasks.backends.base import Meta
from amqptasks.builtin import LATE_TASKS
from amqptasks.canvas import failing
from amqptasks.errors import (
    NotRegistered,
    Reject,
    Retry,
    StoreUnavailable,
    TaskRevoked,
    TimeLimitExceeded,
    TooLarge,
    TransportError,
    WorkerLost,
)
from amqptasks.protocol import CRASHES, counted
from amqptasks.request import Request
from amqptasks.shown import shown
from amqptasks.transport import codec
from amqptasks.transport.keeping import outage
from amqptasks.worker import announcing, deadletters, storing, strangers
from amqptasks.worker.followups import FollowUps
from amqptasks.worker.manifest import options_of
from amqptasks.worker.outcome import Cause, Outcome, Run, TaskOptions, Verdict

if TYPE_CHECKING:
    from amqptasks.app import App
    from amqptasks.task import Task

logger = logging.getLogger(__name__)


class Conclusions:
    """Writes outcomes for the tasks of one app, on one node."""

    def __init__(self, app: App, node: str) -> None:
        self._app = app
        self._node = node
        self._follow = FollowUps(app)
        self._lost_limit = app.conf.worker_lost_limit
        self._largest = app.conf.broker_max_message_size
        self._options: dict[str, TaskOptions] = {}
        self._extended = app.conf.result_extended
        self._dead = app.conf.task_dead_letter_exchange
        self._unknown_retries = app.conf.task_unknown_retries

    def started(self, task: Task[..., Any], request: Request) -> Sequence[Parcel]:
        """The STARTED state, if tracked."""
        if not self._of(task).track_started or self._ignores(task, request):
            return ()
        state = {"pid": os.getpid(), "hostname": self._node}
        return self._packed(self._stored(request, states.STARTED, state))

    # --- verdicts ----------------------------------------------------------------------------------------

    def succeeded(self, task: Task[..., Any], request: Request, value: Any, runtime: float) -> Outcome:
        """Callbacks, the chain's next step, then the result. Raises what makes a success a failure: a value or a
        follow-up that cannot be encoded or is too large."""
        envelopes = self._follow.success(request, value) if request.callbacks or request.chain else []
        if not self._ignores(task, request):
            envelopes += self._stored(request, states.SUCCESS, value)
        parcels = self._packed(self._sized(envelopes))
        if logger.isEnabledFor(logging.INFO):
            size, took = len(parcels[-1].body) if parcels else 0, round(runtime, 6)
            text = shown(value, size, task.resultrepr_maxsize)
            logger.info("Task %s[%s] succeeded in %ss: %s", request.name, request.id, took, text)
        announcing.succeeded(task, request, value, runtime)
        return Outcome(publish=parcels, state=states.SUCCESS)

    def failed(
        self, task: Task[..., Any], request: Request, error: BaseException, runtime: float = 0.0
    ) -> Outcome:
        """FAILURE for the caller and for what is left of the chain, then errbacks."""
        trace = "".join(tracebacks.format_exception(error))
        if isinstance(error, task.throws):
            logger.info("Task %s[%s] raised expected: %s", request.name, request.id, shown(error))
        else:
            text = shown(error)
            logger.error("Task %s[%s] raised unexpected: %s\n%s", request.name, request.id, text, trace)
        outcome = self._failure(task, request, error, trace)
        announcing.failed(task, request, error, trace)
        options = self._of(task)
        verdict = Verdict.ACK if options.acks_on_failure or not options.acks_late else Verdict.REJECT
        return replace(outcome, verdict=verdict)

    def rejected(self, task: Task[..., Any], request: Request, run: Run, reject: Reject) -> Outcome:
        """`basic.reject` for a late-acknowledged task; otherwise there is nothing left to reject."""
        if not self._of(task).acks_late:
            logger.warning(
                "Task %s[%s] raised Reject, but its message was acknowledged when it started; use acks_late=True",
                task.name,
                request.id,
            )
            return Outcome(publish=self._packed(self._follow.left(request, reject)), state=states.REJECTED)
        logger.info("Task %s[%s] %r", request.name, request.id, reject)
        announcing.rejected(task, request, run.delivery, reject)
        if reject.requeue:
            return Outcome(Verdict.REQUEUE, state=states.REJECTED)
        told = self._follow.left(request, reject)
        if not self._ignores(task, request):
            told += self._stored(request, states.FAILURE, reject)
        return Outcome(Verdict.REJECT, self._packed(told), states.REJECTED)

    def retried(self, task: Task[..., Any], request: Request, run: Run, retry: Retry) -> Outcome:
        """The next attempt, then the RETRY state. A Retry raised by hand comes to an end as `retry()` does."""
        if retry.call is None and retrying.exhausted(task, request):
            retry.exc = retrying.given_up(task, request, retry.exc)
            return self.failed(task, request, retry.exc)
        trace = "".join(tracebacks.format_exception(retry))
        envelopes = [self._follow.retry(request, run.delivery, retry)]
        if not self._ignores(task, request):
            envelopes += self._stored(request, states.RETRY, retry.exc, trace)
        logger.info("Task %s[%s] retry: %s", request.name, request.id, retry)
        announcing.retried(task, request, retry, trace)
        return Outcome(publish=self._packed(envelopes), state=states.RETRY)

    def retried_too(self, outcome: Outcome, request: Request, run: Run, retry: Retry) -> Outcome:
        """The outcome with the next attempt before it."""
        again = self._packed([self._follow.retry(request, run.delivery, retry)])
        return replace(outcome, publish=(*again, *outcome.publish))

    def refused(self, delivery: Delivery, error: Exception) -> Outcome:
        """What cannot be run: a dead letter with the reason on it, and FAILURE for the caller, if one can be read.

        What is merely unknown here goes back first, `task_unknown_retries` times.
        """
        if isinstance(error, NotRegistered):
            again = strangers.sent_back(self._follow, delivery, self._unknown_retries)
            if again is not None:
                return Outcome(publish=self._packed([again]))
        reason = deadletters.reason_of(error)
        logger.error(
            "refused a message on %s, now in its dead-letter queue: %s: %s", delivery.queue, reason, error
        )
        dead = deadletters.refused(
            delivery, self._dead, reason=reason, error=f"{type(error).__name__}: {error}", node=self._node
        )
        told = [
            *self._follow.refused(delivery, error),
            *storing.sender_told(self._app.backend, delivery, error),
        ]
        return Outcome(publish=(dead, *self._packed(told)), state=states.REJECTED)

    def ignored(self, request: Request, ignore: Exception) -> Outcome:
        """Nothing, but the part of a chord that would wait for it for ever."""
        return Outcome(publish=self._packed(self._follow.left(request, ignore)), state=states.IGNORED)

    def translated(self, delivery: Delivery, message: protocol.TaskMessage) -> Outcome:
        """A call in protocol 1 once more, in protocol 2 and on its queue: only there does the parent see what its
        headers must tell it (task, eta, expires, limits)."""
        kept = replace(message, headers=protocol.strip_broker_headers(message.headers))
        envelope = protocol.encode(kept, Address("", delivery.queue))
        return Outcome(publish=self._packed([replace(envelope, fate="dead")]))

    def unwritten(
        self, task: Task[..., Any], request: Request, delivery: Delivery, error: Exception
    ) -> Outcome:
        """The last resort: the message, with what went wrong on it, in its dead-letter queue; who waits is told if
        that can be written. For want of a store it goes back instead, if the task is late-acknowledged."""
        down = isinstance(error, StoreUnavailable)
        if down and self._of(task).acks_late:
            return Outcome(Verdict.REQUEUE)
        said = f"{type(error).__name__}: {error}"
        dead = deadletters.refused(delivery, self._dead, reason="outcome", error=said, node=self._node)
        told: tuple[Parcel, ...] = ()
        try:
            told = self._packed(self._follow.unrun(request, error, chain=not down))
            if not down and not self._ignores(task, request):
                told += self._packed(storing.sender_told(self._app.backend, delivery, error))
        except Exception as silent:
            down, error = True, silent
        if down:
            logger.error("Task %s[%s]: who waits for it is not told: %r", task.name, request.id, error)
        return Outcome(publish=(dead, *told), state=states.FAILURE)

    def obituary(self, run: Run, task: Task[..., Any], request: Request) -> Outcome:
        """What follows when a run ended from outside: expired, revoked, its child killed or lost, or not due yet."""
        match run.cause:
            case Cause.EARLY:
                return self._early(run)
            case Cause.EXPIRED | Cause.REVOKED | Cause.TERMINATED:
                return self._revoked(run, task, request)
            case Cause.LOST:
                return self._lost(run, task, request)
            case Cause.SPENT | Cause.BURIED:
                return self._buried(run, task, request)
        outcome = self.failed(task, request, TimeLimitExceeded(float(run.detail)))
        options = self._of(task)
        again = options.acks_late and not options.acks_on_timeout
        return replace(outcome, verdict=Verdict.REQUEUE if again else Verdict.ACK)

    def _early(self, run: Run) -> Outcome:
        """To the ladder; in an outage back to the queue, from where it comes again when the broker does."""
        try:
            held = self._follow.later(run.delivery, float(run.detail))
        except TransportError as error:
            if not outage(error):
                raise
            return Outcome(Verdict.REQUEUE)
        return Outcome(publish=self._packed([held]))

    def _revoked(self, run: Run, task: Task[..., Any], request: Request) -> Outcome:
        expired, terminated = run.cause is Cause.EXPIRED, run.cause is Cause.TERMINATED
        word = "expired" if expired else "terminated" if terminated else "revoked"
        logger.info("Task %s[%s] %s", request.name, request.id, word)
        announcing.revoked(task, request, expired=expired, terminated=terminated)
        told = self._follow.left(request, TaskRevoked(word))
        if not self._ignores(task, request):
            told += self._stored(request, states.REVOKED, TaskRevoked(word))
        return Outcome(publish=self._packed(told), state=states.REVOKED)

    def _lost(self, run: Run, task: Task[..., Any], request: Request) -> Outcome:
        """Its process died: a retry, the same message again, or WorkerLost for the caller, as its options say."""
        options = self._of(task)
        error = WorkerLost(f"the process that ran the task died: {run.detail}")
        if options.retry_on_worker_lost:
            if retrying.exhausted(task, request):
                return self.failed(task, request, error)
            return self.retried(task, request, run, task.retry(exc=error, throw=False))
        if options.acks_late and options.reject_on_worker_lost:
            return self._crashed(run, task, request)
        return self.failed(task, request, error)

    def _crashed(self, run: Run, task: Task[..., Any], request: Request) -> Outcome:
        """`reject_on_worker_lost`: again, with one more crash on the message; dead at `worker_lost_limit`."""
        crashes = counted(request.headers, CRASHES) + 1
        if crashes < self._lost_limit:
            logger.warning(
                "Task %s[%s] lost its process (%d): %s", request.name, request.id, crashes, run.detail
            )
            return Outcome(publish=(self._follow.again(run.delivery, {CRASHES: crashes}),))
        error = WorkerLost(
            f"the process that ran the task died {crashes} times, the last time by {run.detail}"
        )
        dead = deadletters.refused(
            run.delivery, self._dead, reason="crashed", error=str(error), node=self._node, crashes=crashes
        )
        outcome = self.failed(task, request, error)
        return Outcome(publish=(dead, *outcome.publish), state=states.FAILURE)

    def _buried(self, run: Run, task: Task[..., Any], request: Request) -> Outcome:
        """A dead letter whatever its options say, and WorkerLost for the caller. BURIED: none of the user's code."""
        error, quiet = WorkerLost(run.detail), run.cause is Cause.BURIED
        reason = "crashed" if quiet else "delivery_limit"
        dead = deadletters.refused(run.delivery, self._dead, reason=reason, error=str(error), node=self._node)
        if quiet:
            logger.error("Task %s[%s]: %s", request.name, request.id, error)
            outcome = self._failure(task, request, error, "", quiet=True)
        else:
            outcome = self.failed(task, request, error)
        return Outcome(publish=(dead, *outcome.publish), state=states.FAILURE)

    # --- parts -------------------------------------------------------------------------------------------

    def _failure(
        self, task: Task[..., Any], request: Request, error: BaseException, trace: str, quiet: bool = False
    ) -> Outcome:
        envelopes: list[Envelope] = []
        follows = request.chain or request.errbacks or task.name in LATE_TASKS
        if not self._ignores(task, request) or self._of(task).store_errors_even_if_ignored:
            try:
                envelopes = self._sized(self._stored(request, states.FAILURE, error, trace))
            except TooLarge:
                error, trace = failing.fitting(self._app, error, trace)
                envelopes = self._stored(request, states.FAILURE, error, trace)
        elif follows:
            error, trace = failing.fitting(self._app, error, trace)
        if follows:
            envelopes += self._follow.failure(request, error, trace, quiet=quiet)
        return Outcome(publish=self._packed(envelopes), state=states.FAILURE)

    def _stored(self, request: Request, state: str, value: Any, trace: str | None = None) -> list[Envelope]:
        ready = state in states.READY_STATES
        meta = Meta(
            task_id=request.id or "",
            status=state,
            result=value,
            traceback=trace,
            children=[child.as_tuple() for child in request.children] if ready else (),
            date_done=_now() if ready else None,
            group_id=request.group,
            parent_id=request.parent_id,
            reply_to=request.reply_to,
            correlation_id=request.correlation_id or request.id,
            extended=self._extension(request) if self._extended else {},
        )
        known = self._options.get(request.task or "")
        return storing.store(self._app.backend, meta, late=known is not None and known.acks_late)

    def _extension(self, request: Request) -> dict[str, Any]:
        return {
            "name": request.task,
            "args": request.args,
            "kwargs": request.kwargs,
            "worker": self._node,
            "retries": request.retries,
            "queue": request.delivery_info.get("queue"),
        }

    def _ignores(self, task: Task[..., Any], request: Request) -> bool:
        """The call's own word, else the task's, else the setting's."""
        said = request.ignore_result
        return self._of(task).ignore_result if said is None else said

    def _of(self, task: Task[..., Any]) -> TaskOptions:
        known = self._options.get(task.name)
        if known is None:
            known = self._options[task.name] = options_of(task, self._app.conf)
        return known

    def _packed(self, envelopes: Sequence[Envelope]) -> tuple[Parcel, ...]:
        return tuple(codec.pack(envelope) for envelope in envelopes)

    def _sized(self, envelopes: list[Envelope]) -> list[Envelope]:
        """Return them if the broker takes each. Raises TooLarge."""
        for envelope in envelopes:
            if len(envelope.body) > self._largest:
                raise TooLarge(
                    f"a message of {len(envelope.body)} bytes that follows from this task is over the limit of "
                    f"{self._largest} bytes (`broker_max_message_size`); store the data elsewhere and send a reference"
                )
        return envelopes


def _now() -> str:
    return datetime.now(UTC).isoformat()
