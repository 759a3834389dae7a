"""Calls that count a chord's parts: held until the part is confirmed, and gathered.

A part that the broker forgot in a crash is published again, and must be counted after that: so a count leaves when the
part before it is confirmed. Which call counts does not matter: those of one chord that fall due within a moment are
one, and the runs that asked for it wait for its confirm together. Knows parcels and one publisher; of chords only that
their queues have a prefix, and that a count's message id begins with the chord's. Used from the loop's thread only.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from amqptasks import late_parts
from amqptasks.amqp import Address, Parcel
from amqptasks.errors import Nacked, TransportError, Unroutable
from amqptasks.protocol import CHORDS
from amqptasks.transport.base import Done
from amqptasks.worker.late_results import LateResults

MOMENT = 0.002
"""Seconds that a call waits for others. A count costs as much as a short task (docs/explanation/chords.md)."""


@dataclass(slots=True, eq=False)
class Part:
    """A part on its way, and the count that waits for its confirm."""

    confirmed: bool = False
    count: tuple[Parcel, Done] | None = None


class Counting:
    """Posts what follows from runs, each run's messages in order: counts late and gathered, all else at once."""

    def __init__(self, publisher: LateResults, internal: Address | None = None) -> None:
        """`internal`: where calls to the workers themselves go, if this one may make any."""
        self._publisher = publisher
        self._internal = internal
        self._parts: dict[str, Part] = {}
        self._newest: dict[str, Part] = {}
        self._due: dict[str, list[Done]] = {}

    def post(self, parcel: Parcel, done: Done) -> None:
        """As `Publisher.post`. A part that was refused for now may be posted again."""
        if parcel.fate == "count":
            self._count(parcel, done)
        elif parcel.fate == "part":
            self._part(parcel, done)
        else:
            self._publisher.post(parcel, done)

    def _part(self, parcel: Parcel, done: Done) -> None:
        part = self._parts.setdefault(parcel.message_id, Part())
        if part.count is None:
            self._newest[parcel.routing_key.removeprefix(CHORDS)] = part

        def told(error: TransportError | None) -> None:
            # What was nacked is posted again by whoever posted it; all else has had its end.
            if (
                not isinstance(error, Nacked | Unroutable)
                and self._parts.pop(parcel.message_id, None) is not None
            ):
                part.confirmed = True
                if part.count is not None:
                    self._gather(*part.count)
            done(error)

        def answered(error: TransportError | None) -> None:
            if not isinstance(error, Unroutable):
                told(error)
            elif self._internal is None:
                told(
                    None
                )  # nobody can be asked why; most likely it is the double of a part whose chord is done
            else:
                asked = late_parts.call(parcel, self._internal)
                self._publisher.post(asked, lambda refusal: told(error if refusal else None))

        self._publisher.post(parcel, answered)

    def _count(self, parcel: Parcel, done: Done) -> None:
        part = self._newest.pop(_chord(parcel), None)
        if part is None or part.confirmed:
            self._gather(parcel, done)
        else:
            part.count = parcel, done

    def _gather(self, parcel: Parcel, done: Done) -> None:
        chord = _chord(parcel)
        due = self._due.get(chord)
        if due is not None:
            due.append(done)
            return
        self._due[chord] = [done]
        asyncio.get_running_loop().call_later(MOMENT, self._flush, chord, parcel)

    def _flush(self, chord: str, parcel: Parcel) -> None:
        due = self._due.pop(chord)

        def answered(error: TransportError | None) -> None:
            for done in due:
                done(error)

        self._publisher.post(parcel, answered)


def _chord(parcel: Parcel) -> str:
    return parcel.message_id.rpartition(".")[0]
