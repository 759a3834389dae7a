"""`with app.batch():` publishes what is called inside without waiting for each confirm, and waits once, at
the end.

Knows envelopes and tickets; knows nothing of tasks. A batch belongs to the thread or coroutine that opened
it; other threads go on publishing one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import NoReturn

from amqptasks.amqp import Envelope, Parcel
from amqptasks.errors import AmqptasksError, PublishError, Unroutable
from amqptasks.transport.tickets import Ticket

SLAB = 100
"""Messages handed to the I/O thread at a time: it is woken once for all of them, and writes them at once."""

Failed = tuple[Envelope, AmqptasksError]


class Batch:
    """Publishes made inside one `with` block. Not thread-safe: it is its own thread's."""

    answers = True
    """Whoever calls inside can be told of a mistake."""
    packs = True
    """What it takes may be encoded already."""

    def __init__(
        self,
        submit: Callable[[Sequence[Envelope | Parcel]], Ticket],
        again: Callable[[Sequence[Envelope | Parcel]], None],
        owner: object,
    ) -> None:
        self.owner = owner
        self.published = 0
        """Messages called for so far."""
        self._submit = submit
        self._again = again
        self._slab: list[Envelope | Parcel] = []
        self._tickets: list[Ticket] = []

    def add(self, message: Envelope | Parcel) -> None:
        """Take a message; waits only while the connection's window is full."""
        self._slab.append(message)
        self.published += 1
        if len(self._slab) >= SLAB:
            self.flush()

    def flush(self) -> None:
        """Hand what is held back to the I/O thread."""
        if self._slab:
            slab, self._slab = self._slab, []
            self._tickets.append(self._submit(slab))

    def finish(self, timeout: float | None = None) -> None:
        """Wait for every confirm. Raises PublishError with the envelopes that failed, once all fates are
        known.
        """
        self.flush()
        failed: list[Failed] = []
        for ticket in self._tickets:
            failed.extend(_failures(ticket, timeout))
        self._tickets.clear()
        unroutable = [message for message, error in failed if isinstance(error, Unroutable)]
        others = [(message, error) for message, error in failed if not isinstance(error, Unroutable)]
        if unroutable:
            try:
                self._again(unroutable)
            except Unroutable as error:
                others.extend((message, error) for message in error.envelopes or unroutable)
        if others:
            raise _failure(others, self.published)

    def __repr__(self) -> str:
        return f"<Batch {self.published} published, {len(self._slab)} held back>"


class Gathering(Batch):
    """A batch that keeps what would be published: it is to leave with the outcome of a run.

    `answers`: whoever calls inside can be told of a mistake.
    """

    packs = False

    def __init__(self, owner: object, *, answers: bool = False) -> None:
        super().__init__(_never, _never, owner)
        self.answers = answers
        self.envelopes: list[Envelope] = []

    def add(self, message: Envelope | Parcel) -> None:
        assert isinstance(message, Envelope)  # parcels are for who publishes at once
        self.envelopes.append(message)

    def flush(self) -> None:
        """Nothing leaves before the run's outcome does."""


def _never(envelopes: Sequence[Envelope | Parcel]) -> NoReturn:
    raise AssertionError("what is gathered is never published here")


def _failures(ticket: Ticket, timeout: float | None) -> list[Failed]:
    try:
        ticket.wait(timeout)
    except AmqptasksError:
        # The ticket knows each message's own reason; without any, it was the wait itself that failed.
        if not ticket.failures:
            raise
    return ticket.failures


def _failure(failed: Sequence[Failed], published: int) -> PublishError:
    first = failed[0][1]
    error = PublishError(
        f"{len(failed)} of {published} messages of the batch are in no queue; the first: {first}",
        [message for message, _ in failed],
    )
    error.__cause__ = first
    return error


current: ContextVar[Batch | None] = ContextVar("amqptasks_batch", default=None)
