"""The messages that follow from a finished run: callbacks, the chain's next step, errbacks, the next attempt.

They are composed as the app composes every call, but gathered instead of published: they belong to the run's
outcome, and leave with it. What must exist for them (a queue, a rung of the ladder) is declared on the way, through
this child's own connection.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from amqptasks import batch, delay, protocol, states
from amqptasks.amqp import Address, Delivery, Envelope, Parcel
from amqptasks.backends.base import Meta
from amqptasks.composing import Call
from amqptasks.errors import Retry
from amqptasks.request import Request
from amqptasks.result import AsyncResult
from amqptasks.signatures import signature
from amqptasks.transport import codec
from amqptasks.worker.copies import copied

if TYPE_CHECKING:
    from amqptasks.app import App

logger = logging.getLogger(__name__)


class Gathering(batch.Batch):
    """A batch that keeps what the app would publish."""

    def __init__(self, owner: object) -> None:
        super().__init__(_never, _never, owner)
        self.envelopes: list[Envelope] = []

    def add(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    def flush(self) -> None:
        """Nothing leaves before the run's outcome does."""


class FollowUps:
    """Composes follow-ups for the tasks of one app."""

    def __init__(self, app: App) -> None:
        self._app = app

    def success(self, request: Request, value: Any) -> list[Envelope]:
        """Callbacks, then the chain's next step, each with the value as its first argument (Celery's order)."""
        with self._gathered() as gathering:
            for callback in request.callbacks or ():
                signature(callback, app=self._app).apply_async((value,))
            if request.chain:
                *rest, following = request.chain
                signature(following, app=self._app).apply_async((value,), chain=rest or None)
        return dead_if_unroutable(gathering.envelopes)

    def failure(self, request: Request, error: BaseException, trace: str) -> list[Envelope]:
        """The same FAILURE for every later step of the chain, then errbacks."""
        told: list[Envelope] = []
        for step in request.chain or ():
            self._fail_step(step, request, error, trace, told)
        with self._gathered() as gathering:
            for errback in request.errbacks or ():
                self._errback(errback, request, error, trace)
        return [*told, *dead_if_unroutable(gathering.envelopes)]

    def retry(self, request: Request, delivery: Delivery, retry: Retry) -> Envelope:
        """The next attempt: same id, same queue, one retry more, held by the ladder until it is due."""
        call: Call | None = retry.call
        if call is None:  # raised by hand: again at once, or when it says
            call = self._by_hand(request, delivery, retry)
        call = replace(
            call, message=replace(call.message, headers=protocol.strip_broker_headers(call.message.headers))
        )
        envelope, ladder = call.encode()
        # Its own queue is there: it has just been consumed from.
        self._app.prepare(None if call.queue == delivery.queue else call.queue, ladder)
        return replace(envelope, fate="dead")

    def later(self, delivery: Delivery, seconds: float) -> Envelope:
        """A message that came before its time from a sender without the ladder, untouched but for the ladder."""
        return self._held(copied(delivery), seconds, delivery.queue)

    def again(self, delivery: Delivery, headers: Mapping[str, Any]) -> Parcel:
        """The same message once more, on its queue, with further headers."""
        return codec.pack(copied(delivery, headers))

    # --- parts -------------------------------------------------------------------------------------------

    @contextmanager
    def _gathered(self) -> Iterator[Gathering]:
        gathering = Gathering(self._app)
        token = batch.current.set(gathering)
        try:
            yield gathering
        finally:
            batch.current.reset(token)

    def _by_hand(self, request: Request, delivery: Delivery, retry: Retry) -> Call:
        message = request.message
        assert message is not None
        now = datetime.now(UTC)
        eta = now + timedelta(seconds=_seconds(retry.when, now))
        again = replace(message, retries=message.retries + 1, eta=eta)
        result: AsyncResult[Any] = AsyncResult(message.id, self._app.backend, message.task, self._app)
        return Call(again, Address("", delivery.queue), delivery.queue, result)

    def _held(self, envelope: Envelope, seconds: float, queue: str) -> Envelope:
        held, entities = delay.delayed(envelope, seconds, queue)
        self._app.prepare(None, entities)
        return replace(held, fate="dead")

    def _fail_step(
        self,
        step: Mapping[str, Any],
        request: Request,
        error: BaseException,
        trace: str,
        told: list[Envelope],
    ) -> None:
        options = step.get("options") or {}
        if not options.get("task_id") or not options.get("reply_to"):
            return
        meta = Meta(
            task_id=options["task_id"],
            status=states.FAILURE,
            result=error,
            traceback=trace,
            date_done=datetime.now(UTC).isoformat(),
            parent_id=request.id,
            reply_to=options["reply_to"],
            correlation_id=options["task_id"],
        )
        self._app.backend.store(meta, told.append)

    def _errback(
        self, errback: Mapping[str, Any], request: Request, error: BaseException, trace: str
    ) -> None:
        """New style, with (request, exc, traceback), runs here; old style is sent with the failed task's id."""
        call = signature(errback, app=self._app)
        task = self._app.tasks.get(call.task)
        if task is not None and _takes_several(task.run):
            try:
                task(request, error, trace, *call.args, **call.kwargs)
            except Exception:
                logger.exception("errback %s raised; the task's outcome is not changed by it", call.task)
        else:
            call.apply_async((request.id,))


def _never(envelopes: Sequence[Any]) -> NoReturn:
    raise AssertionError("what is gathered is never published here")


def dead_if_unroutable(envelopes: Sequence[Envelope]) -> list[Envelope]:
    """What finds no queue later goes to the dead letters: nobody is there to be told."""
    return [
        replace(envelope, fate="dead") if envelope.fate == "raise" else envelope for envelope in envelopes
    ]


def _seconds(when: float | datetime | None, now: datetime) -> float:
    if isinstance(when, datetime):
        aware = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (aware - now).total_seconds())
    return max(0.0, float(when or 0.0))


def _takes_several(function: Any) -> bool:
    """More than one positional argument: Celery's sign of a new-style errback."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
