"""What a child tells of a run for its event: the fields that only it knows, beside the outcome. Pure.

They are a JSON object without its brackets: the parent writes before them what it knows.
"""

from __future__ import annotations

import signal
import traceback as tracebacks
from typing import Any

import orjson

from amqptasks import states
from amqptasks.errors import Reject, Retry
from amqptasks.event_wire import encoded
from amqptasks.shown import shown
from amqptasks.worker.outcome import Cause, Outcome, Run

SUCCEEDED = b'"type":"task-succeeded","result":%b,"runtime":%b'


def ended(outcome: Outcome, state: str, value: Any, runtime: float) -> Outcome:
    """Return the outcome of a run that has ended by itself, with its event; an ignored one has none."""
    if state == states.SUCCESS:
        event = SUCCEEDED % (encoded(shown(value)), orjson.dumps(runtime))
        return Outcome(outcome.verdict, outcome.publish, outcome.state, event)
    if state == states.RETRY:
        cause = value.exc if isinstance(value, Retry) and value.exc is not None else value
        return _with(outcome, "task-retried", exception=shown(cause), traceback=_trace(value))
    if state == states.FAILURE:
        return _with(outcome, "task-failed", exception=shown(value), traceback=_trace(value))
    if state == states.REJECTED and isinstance(value, Reject):
        return _with(outcome, "task-rejected", requeue=bool(value.requeue))
    return outcome


def raised(outcome: Outcome, error: Any) -> Outcome:
    """Return the outcome of a failure with an event that names the class alone: what metrics need of it."""
    return _with(outcome, "task-failed", exception=type(error).__name__, traceback="")


def obituary(outcome: Outcome, run: Run) -> Outcome:
    """Return the outcome of what was ended from outside, with its event."""
    if outcome.state == states.REVOKED:
        return _with(
            outcome,
            "task-revoked",
            terminated=run.cause is Cause.TERMINATED,
            signum=_signum(run.detail) if run.cause is Cause.TERMINATED else None,
            expired=run.cause is Cause.EXPIRED,
        )
    if outcome.state == states.RETRY:
        return _with(outcome, "task-retried", exception=_end(run), traceback="")
    if outcome.state == states.FAILURE:
        return _with(outcome, "task-failed", exception=_end(run), traceback="")
    return outcome


def refused(outcome: Outcome, error: Exception) -> Outcome:
    """Return the outcome of a message that cannot be run, with its event."""
    return _with(outcome, "task-failed", exception=shown(error), traceback="")


def _signum(reason: str) -> int | None:
    """The number of the signal that a termination names: `revoked (SIGTERM)`."""
    named = signal.Signals.__members__.get(reason.rpartition("(")[2].rstrip(")"))
    return None if named is None else int(named)


def _end(run: Run) -> str:
    if run.cause is Cause.TIMEOUT:
        return f"TimeLimitExceeded({run.detail})"
    return f"WorkerLost({f'the process that ran the task died: {run.detail}'!r})"


def _trace(value: Any) -> str:
    return "".join(tracebacks.format_exception(value)) if isinstance(value, BaseException) else ""


def _with(outcome: Outcome, kind: str, **fields: Any) -> Outcome:
    return Outcome(outcome.verdict, outcome.publish, outcome.state, encoded({"type": kind, **fields})[1:-1])
