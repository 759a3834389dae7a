"""What a child tells of a run for its event: the fields that only it knows, as JSON beside the outcome. Pure."""

from __future__ import annotations

import traceback as tracebacks
from typing import Any

import orjson

from amqptasks import states
from amqptasks.amqp import Parcel
from amqptasks.errors import Reject, Retry
from amqptasks.shown import shown
from amqptasks.worker.outcome import Cause, Outcome, Run


def ended(outcome: Outcome, state: str, value: Any, runtime: float) -> Outcome:
    """Return the outcome of a run that has ended by itself, with its event; an ignored one has none."""
    if state == states.SUCCESS:
        return _with(outcome, "task-succeeded", result=shown(value), runtime=runtime)
    if state == states.RETRY:
        cause = value.exc if isinstance(value, Retry) and value.exc is not None else value
        return _with(outcome, "task-retried", exception=shown(cause), traceback=_trace(value))
    if state == states.FAILURE:
        return _with(outcome, "task-failed", exception=shown(value), traceback=_trace(value))
    if state == states.REJECTED and isinstance(value, Reject):
        return _with(outcome, "task-rejected", requeue=bool(value.requeue))
    return outcome


def obituary(outcome: Outcome, run: Run) -> Outcome:
    """Return the outcome of what was ended from outside, with its event."""
    if outcome.state == states.REVOKED:
        return _with(
            outcome,
            "task-revoked",
            terminated=run.cause is Cause.TERMINATED,
            signum=None,
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


def _end(run: Run) -> str:
    if run.cause is Cause.TIMEOUT:
        return f"TimeLimitExceeded({run.detail})"
    return f"WorkerLost({f'the process that ran the task died: {run.detail}'!r})"


def _trace(value: Any) -> str:
    return "".join(tracebacks.format_exception(value)) if isinstance(value, BaseException) else ""


def _with(outcome: Outcome, kind: str, **fields: Any) -> Outcome:
    event = Parcel("", kind, b"", orjson.dumps(fields), "", "event")
    return Outcome(outcome.verdict, (*outcome.publish, event), outcome.state)
