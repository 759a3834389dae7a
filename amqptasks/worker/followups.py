"""The messages that follow from a finished run: callbacks, the chain's next step, errbacks, the next attempt.

They are composed as the app composes every call, but gathered instead of published: they belong to the run's
outcome, and leave with it. What must exist for them (a queue, a rung of the ladder) is declared on the way, through
this child's own connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from amqptasks import batch, declarations, delay, protocol, states
from amqptasks.amqp import Address, Delivery, Envelope, Parcel
from amqptasks.builtin import LATE_TASKS
from amqptasks.canvas import failing, giving_up, sending
from amqptasks.canvas.parts import PART
from amqptasks.canvas.sending import unwrapped
from amqptasks.composing import Call
from amqptasks.errors import AmqptasksError, Retry, TaskRevoked, TransportError
from amqptasks.request import Request
from amqptasks.result import AsyncResult
from amqptasks.serialization import accept_set
from amqptasks.signatures import Signature, kind_of, signature
from amqptasks.transport import codec
from amqptasks.transport.keeping import outage
from amqptasks.worker.copies import climbing, copied

if TYPE_CHECKING:
    from amqptasks.app import App

logger = logging.getLogger(__name__)


OUTAGE = 300.0
"""Seconds that a finished run waits for the broker to declare what its follow-ups need."""


class FollowUps:
    """Composes follow-ups for the tasks of one app."""

    def __init__(self, app: App) -> None:
        self._app = app

    def success(self, request: Request, value: Any) -> list[Envelope]:
        """Callbacks, then the chain's next step, each with the value as its first argument (Celery's order)."""
        with self._gathered() as gathering:
            for callback in request.callbacks or ():
                if callback["task"] == PART:
                    gathering.add(failing.leave(self._app, callback, request, states.SUCCESS, value))
                else:
                    signature(callback, app=self._app).apply_async((value,))
            if request.chain:
                *rest, following = request.chain
                self._step(unwrapped(following, self._app), value, rest)
        return dead_if_unroutable(gathering.envelopes)

    def failure(
        self, request: Request, error: BaseException, trace: str, *, quiet: bool = False
    ) -> list[Envelope]:
        """The same FAILURE for every later step of the chain, then errbacks; what a workflow hangs on is given up.

        `quiet`: errbacks that would run here are left out.
        """
        told = failing.rest_told(self._app, request.chain or (), error, trace, request.id)
        with self._gathered() as gathering:
            errbacks = request.errbacks or ()
            counts = failing.call_errbacks(self._app, errbacks, request, error, trace, quiet=quiet)
        gathering.envelopes += counts
        return [*told, *dead_if_unroutable([*gathering.envelopes, *self._given_up(request, error)])]

    def left(self, request: Request, error: Exception) -> list[Envelope]:
        """What follows a run that ended without a value or a failure: what replaces it; else its chord, and once
        revoked its chain, are told."""
        if request.replaced is not None:
            return dead_if_unroutable(request.replaced)
        return self.unrun(request, error, chain=isinstance(error, TaskRevoked))

    def unrun(self, request: Request, error: Exception, *, chain: bool = True) -> list[Envelope]:
        """What waits for a value that will not come is told: the chord, the rest of the `chain`; no errback is."""
        linked = [errback for errback in request.errbacks or () if errback["task"] == PART]
        if not linked and not (chain and (request.chain or request.task in LATE_TASKS)):
            return []
        trace = f"{type(error).__name__}: {error}"
        told = failing.rest_told(self._app, request.chain or (), error, trace, request.id) if chain else []
        with self._gathered() as gathering:
            counts = failing.call_errbacks(self._app, linked, request, error, trace)
        gathering.envelopes += counts
        return [*told, *dead_if_unroutable([*gathering.envelopes, *self._given_up(request, error)])]

    def refused(self, delivery: Delivery, error: Exception) -> list[Envelope]:
        """What follows from a call that nobody here can run, as far as it can be read: as if it had failed."""
        conf = self._app.conf
        accept = accept_set(conf.accept_content)
        try:
            message = protocol.decode(codec.unpack(delivery), accept=accept, limit=conf.message_inflate_limit)
            return self.failure(Request.of(message, delivery), error, f"{type(error).__name__}: {error}")
        except AmqptasksError as unreadable:
            logger.debug("what follows from a refused message cannot be told: %s", unreadable)
            return []

    def retry(self, request: Request, delivery: Delivery, retry: Retry) -> Envelope:
        """The next attempt: same id, same queue, one retry more, held by the ladder until it is due."""
        call: Call | None = retry.call
        if call is None:  # raised by hand: again at once, or when it says
            call = self._by_hand(request, delivery, retry)
        call = replace(
            call, message=replace(call.message, headers=protocol.strip_broker_headers(call.message.headers))
        )
        envelope, ladder = call.encode()
        try:
            # Its own queue is there: it has just been consumed from.
            self._app.prepare(None if call.queue == delivery.queue else call.queue, ladder)
        except TransportError as error:
            if not outage(error):
                raise
            # The parent publishes once the broker is back; whoever receives it then sees its eta, and uses the ladder.
            envelope = protocol.encode(call.message, call.address)
        return replace(envelope, fate="dead")

    def later(self, delivery: Delivery, seconds: float, headers: Mapping[str, Any] | None = None) -> Envelope:
        """A message for another time, untouched but for the ladder and further headers."""
        return self._held(climbing(delivery, headers), seconds, delivery.queue)

    def again(self, delivery: Delivery, headers: Mapping[str, Any]) -> Parcel:
        """The same message once more, on its queue, with further headers."""
        return codec.pack(copied(delivery, headers))

    # --- parts -------------------------------------------------------------------------------------------

    def _given_up(self, request: Request, error: BaseException) -> list[Envelope]:
        if request.task not in LATE_TASKS:
            return []
        told = giving_up.call(request, error, self._app.conf)
        return [] if told is None else [told]

    @contextmanager
    def _gathered(self) -> Iterator[batch.Gathering]:
        gathering = batch.Gathering(self._app)
        # The task has run, and what follows cannot be published in an outage: there is nothing better to do than wait.
        token, waiting = batch.current.set(gathering), declarations.outlasting.set(_patience())
        try:
            yield gathering
        finally:
            declarations.outlasting.reset(waiting)
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

    def _step(self, step: Signature, value: Any, rest: Sequence[Mapping[str, Any]]) -> None:
        if kind_of(step) == "task":
            step.apply_async((value,), chain=rest or None)
        else:
            sending.send(sending.then(step.clone((value,)), rest, self._app))


def dead_if_unroutable(envelopes: Sequence[Envelope]) -> list[Envelope]:
    """What finds no queue later goes to the dead letters: nobody is there to be told."""
    return [
        replace(envelope, fate="dead") if envelope.fate == "raise" else envelope for envelope in envelopes
    ]


def _patience() -> float:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return OUTAGE
    return 0.0  # the other coroutines of this loop would wait as well


def _seconds(when: float | datetime | None, now: datetime) -> float:
    if isinstance(when, datetime):
        aware = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (aware - now).total_seconds())
    return max(0.0, float(when or 0.0))
