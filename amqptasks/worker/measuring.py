"""The counters and the publisher of a worker with a health port: as the plain ones, and they tell `Measures`.

A worker without a health port has the plain ones, and pays nothing. Used in the loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from amqptasks.amqp import Parcel
from amqptasks.errors import AmqptasksError, TransportError
from amqptasks.transport import codec
from amqptasks.transport.base import Connect, Done
from amqptasks.transport.publisher import Publisher
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.flight import Counters, Flight
from amqptasks.worker.measures import Measures
from amqptasks.worker.outcome import Outcome

APART = 0.01
"""Seconds between two publishes whose confirms are timed."""
_REASON = ("x-amqptasks-reason",)


@dataclass(slots=True, kw_only=True)
class MeasuredCounters(Counters):
    """A dispatch's counters that tell of each end."""

    measures: Measures
    dispatch: Dispatch

    def ended(self, flight: Flight, outcome: Outcome) -> None:
        Counters.ended(self, flight, outcome)
        self.measures.finished(flight, outcome, self.dispatch.began, self.dispatch.ended)


class MeasuredPublisher(Publisher):
    """Times some of the confirms, and counts the dead letters that arrived."""

    def __init__(
        self, measures: Measures, dead_exchange: str, connect: Connect, *, on_room: Callable[[], None]
    ) -> None:
        super().__init__(connect, on_room=on_room)
        self._measures = measures
        self._dead_exchange = dead_exchange
        self._clock = asyncio.get_running_loop().time
        self._timed = 0.0

    def post(self, parcel: Parcel, done: Done, deadline: float | None = None) -> None:
        now = self._clock()
        if parcel.exchange == self._dead_exchange:
            done = partial(self._arrived, parcel, done)
        elif now - self._timed >= APART:
            self._timed = now
            done = partial(self._confirmed, now, done)
        super().post(parcel, done, deadline)

    def _confirmed(self, since: float, done: Done, error: TransportError | None) -> None:
        if error is None:
            self._measures.confirms.observe(self._clock() - since)
        done(error)

    def _arrived(self, parcel: Parcel, done: Done, error: TransportError | None) -> None:
        if error is None:
            self._measures.died(parcel.routing_key, _reason(parcel))
        done(error)


def _reason(parcel: Parcel) -> str:
    try:
        said = codec.select(parcel.header, _REASON)
    except AmqptasksError:
        return ""
    return str(said.get(_REASON[0], ""))
