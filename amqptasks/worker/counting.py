"""Calls that count a chord's parts, gathered: one that leaves after several parts counts for all of them.

A part is counted by a call that is published after it; which call it is does not matter. So calls of one chord that
become due within a moment are one, and the runs that asked for it wait for its confirm together. Knows parcels and one
publisher; knows nothing of chords but the name in front of the message id. Used from the loop's thread only.
"""

from __future__ import annotations

import asyncio

from amqptasks.amqp import Parcel
from amqptasks.errors import TransportError
from amqptasks.transport.base import Done
from amqptasks.transport.publisher import Publisher

MOMENT = 0.002
"""Seconds that a call waits for others. A count costs as much as a short task (docs/explanation/chords.md)."""


class Counting:
    """Posts what follows from runs: counts gathered, all else at once."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._waiting: dict[str, list[Done]] = {}
        self.gathered = 0
        """Calls that were not published, because another one counted for them."""

    def post(self, parcel: Parcel, done: Done) -> None:
        """As `Publisher.post`; what was posted before is on the broker before a count is."""
        if parcel.fate != "count":
            self._publisher.post(parcel, done)
            return
        chord = parcel.message_id.rpartition(".")[0]
        waiting = self._waiting.get(chord)
        if waiting is not None:
            self.gathered += 1
            waiting.append(done)
            return
        self._waiting[chord] = [done]
        asyncio.get_running_loop().call_later(MOMENT, self._flush, chord, parcel)

    def _flush(self, chord: str, parcel: Parcel) -> None:
        waiting = self._waiting.pop(chord)

        def answered(error: TransportError | None) -> None:
            for done in waiting:
                done(error)

        self._publisher.post(parcel, answered)
