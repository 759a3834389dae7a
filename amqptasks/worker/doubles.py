"""Which deliveries are a message that is here already: redelivered after a loss, or passed on twice by the ladder.

RabbitMQ promises at least once. A message that this worker has started or finished must not run again because its
acknowledgement was lost with a connection, nor because a rung of the ladder, interrupted by the broker's restart,
passed it on a second time. Knows flights; settles nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

from amqptasks.worker.flight import Flight, Recent
from amqptasks.worker.outcome import Verdict

logger = logging.getLogger(__name__)

REMEMBERED = 50_000
"""Runs that were acknowledged or ended, kept to recognise their redeliveries."""


class Doubles:
    """`done` remembers what was started or finished here, by identity. Used in the loop only."""

    def __init__(self, forget: Callable[[Flight], None]) -> None:
        self.done: Recent[Verdict] = Recent(REMEMBERED)
        self._forget = forget
        self._first: dict[Hashable, Flight] = {}

    def join(self, flight: Flight) -> bool:
        """True when the message is in flight already: then `flight` is its heir, and shares its outcome."""
        first = self._first.get(flight.identity)
        if first is None:
            if flight.climbed:
                self._first[flight.identity] = flight
            return False
        if first.heir is not None and first.heir.void:
            self._forget(first.heir)
            first.heir = None
        while first.heir is not None:
            first = first.heir
        first.heir = flight
        logger.info(
            "%s came again and is not run twice: its run here goes on, and settles both", flight.identity
        )
        return True

    def expect(self, flight: Flight) -> None:
        """Its channel is gone: the broker will deliver it again."""
        if flight.identity is not None:
            self._first.setdefault(flight.identity, flight)

    def renounce(self, flight: Flight) -> None:
        """It ended without a word, perhaps replaced: a message of the same id may come, and is to run."""
        self.forget(flight)
        self.done.discard(flight.identity)
        flight.identity = None

    def forget(self, flight: Flight) -> None:
        """What was expected, or came by the ladder, is in flight no more."""
        if self._first.get(flight.identity) is flight:
            del self._first[flight.identity]
