"""What a worker counts for `/metrics` beyond its counters: integers by task and queue, and three histograms.

Knows flights and outcomes; nothing of Prometheus or HTTP. Used in the loop only.
"""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_left
from collections.abc import Collection, Sequence

from amqptasks import states
from amqptasks.amqp import Delivery
from amqptasks.errors import AmqptasksError
from amqptasks.states import SUCCESS
from amqptasks.transport import codec
from amqptasks.worker.admission import came_by_ladder, epoch
from amqptasks.worker.flight import Flight
from amqptasks.worker.outcome import Outcome, Verdict

RUNTIMES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Seconds; celery-exporter's, so that both can be in one query."""
WAITS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
CONFIRMS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
APART = 0.01
"""Seconds between two messages of a task whose wait is read."""
EXCEPTIONS = 50
"""Names of exceptions that are told apart for a task; the others are one."""
OTHERS = "other"
Key = tuple[str, str]
_AFTER_HEADERS, _TIMESTAMP = 0b1111000, 0b1000000
"""The flags, in their second byte, of AMQP's last properties: timestamp, type, user id, application id."""
_STAMPED = "timestamp_in_ms"
_STAMPED_BYTES = _STAMPED.encode()
_EXCEPTION = re.compile(rb'"exception":"(\w+)')


class Histogram:
    """Counts by upper bound, as Prometheus wants them, but not yet summed up."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def copy(self) -> Histogram:
        other = Histogram(self.bounds)
        other.counts, other.total = self.counts.copy(), self.total
        return other


class Tally:
    """What became of one task's calls that came from one queue, once they are over."""

    __slots__ = (
        "alike",
        "exceptions",
        "looked",
        "received",
        "runtime",
        "started",
        "states",
        "succeeded",
        "wait",
        "waited",
    )

    def __init__(self) -> None:
        self.received = 0
        self.started = 0
        self.succeeded = 0
        self.states: dict[str, int] = {}
        """The other ends."""
        self.exceptions: dict[str, int] = {}
        self.runtime = Histogram(RUNTIMES)
        self.wait = Histogram(WAITS)
        self.waited: float | None = None
        """The last wait that was looked at; None if nothing said how long it was."""
        self.looked = 0.0
        """When."""
        self.alike = 0
        """Runs since then: reading a message's time costs as much as all the rest, so theirs are taken as the same."""

    def look(self, waited: float | None, now: float) -> None:
        """Take down a wait, after those that are taken as alike to the last."""
        if self.alike and self.waited is not None:
            self.wait.observe(self.waited, self.alike)
        if waited is not None:
            waited = max(0.0, waited)  # two machines' clocks may differ
            self.wait.observe(waited)
        self.waited, self.looked, self.alike = waited, now, 0

    def failed(self, exception: str) -> None:
        known = self.exceptions
        if exception not in known and len(known) >= EXCEPTIONS:
            exception = OTHERS
        known[exception] = known.get(exception, 0) + 1

    def copy(self) -> Tally:
        other = Tally()
        other.received, other.started, other.succeeded = self.received, self.started, self.succeeded
        other.states, other.exceptions = self.states.copy(), self.exceptions.copy()
        other.runtime, other.wait = self.runtime.copy(), self.wait.copy()
        if self.alike and self.waited is not None:
            other.wait.observe(self.waited, self.alike)
        return other


class Measures:
    """Told by `measuring` of each call when it is over, and of nothing before: what is under way is counted when
    somebody asks."""

    def __init__(self) -> None:
        self.tallies: dict[Key, Tally] = {}
        self.dead: dict[Key, int] = {}
        """Dead letters, by the queue that they died in and the reason."""
        self.confirms = Histogram(CONFIRMS)
        self._shown: dict[Key, Tally] = {}
        self._offset = 0.0
        self.look()

    def look(self) -> None:
        """From time to time: follow the wall clock."""
        self._offset = time.time() - asyncio.get_running_loop().time()

    def finished(self, flight: Flight, outcome: Outcome, began: float, ended: float) -> None:
        """An end was told; the run lasted from `began` to `ended` by the loop's clock, if it began at all."""
        key = (flight.options.name, flight.lane.queue.name)
        tally = self.tallies.get(key)
        if tally is None:
            # As many as the manifest has tasks, and one for what it does not know.
            tally = self.tallies[key] = Tally()
        tally.received += 1
        if flight.started:
            tally.started += 1
        if began:
            if ended - tally.looked < APART:
                tally.alike += 1
            else:
                since = waiting_since(flight.delivery)
                tally.look(None if since is None else began + self._offset - since, ended)
        if outcome.state == SUCCESS:
            tally.succeeded += 1
            tally.runtime.observe(ended - began)
        else:
            self._ended_otherwise(flight, tally, outcome)

    def _ended_otherwise(self, flight: Flight, tally: Tally, outcome: Outcome) -> None:
        state = outcome.state
        if state:
            tally.states[state] = tally.states.get(state, 0) + 1
        if state == states.FAILURE:
            tally.failed(exception_of(outcome.event))
        if outcome.verdict is Verdict.REJECT:
            self.died(flight.lane.queue.name, "rejected")

    def died(self, queue: str, reason: str) -> None:
        self.dead[queue, reason] = self.dead.get((queue, reason), 0) + 1

    def shown(self, flights: Collection[Flight]) -> dict[Key, Tally]:
        """Copies, with what is under way added. They never count less than the last time, when a message was under
        way that has gone back since: to Prometheus that would be a restart."""
        copies = {key: tally.copy() for key, tally in self.tallies.items()}
        heirs = {flight.heir.key for flight in flights if flight.heir is not None}
        for flight in flights:
            # Not what waits for its confirms, whose end was told, nor redeliveries of what runs here.
            if not flight.unconfirmed and flight.key not in heirs:
                tally = copies.setdefault(_key(flight), Tally())
                tally.received += 1
                tally.started += flight.started
        for key, before in self._shown.items():
            self._keep_up(key, copies.setdefault(key, Tally()), before)
        self._shown = copies
        return copies

    def _keep_up(self, key: Key, now: Tally, before: Tally) -> None:
        for name in ("received", "started"):
            gone = getattr(before, name) - getattr(now, name)
            if gone > 0:
                kept = self.tallies.setdefault(key, Tally())
                setattr(kept, name, getattr(kept, name) + gone)
                setattr(now, name, getattr(before, name))


def _key(flight: Flight) -> Key:
    return (flight.options.name, flight.lane.queue.name)


def waiting_since(delivery: Delivery) -> float | None:
    """When a message was sent, or due if it was to wait, as seconds since the epoch; None if nothing says so.

    To the millisecond where RabbitMQ stamps messages (`message_interceptors.incoming.set_header_timestamp`), to the
    second by the property that clients of ours set.
    """
    header = delivery.header
    try:
        last = header[1] & _AFTER_HEADERS
        if _STAMPED_BYTES in header:
            stamp = codec.select(header, (_STAMPED,)).get(_STAMPED)
            sent = stamp / 1000 if isinstance(stamp, int) else None
        elif last == _TIMESTAMP and len(header) > 10:
            sent = float(
                int.from_bytes(header[-8:])
            )  # it stands at the end, so nothing before it need be read
        elif last & _TIMESTAMP:
            sent = codec.decode_header(header).timestamp
        else:
            return None
        if sent is None or not came_by_ladder(delivery):
            return sent
        due = epoch(codec.select(header, ("eta",)).get("eta"))
        return sent if due is None else max(sent, due)
    except (AmqptasksError, IndexError):
        return None


def exception_of(event: bytes) -> str:
    """Return the class that a failed run's event names; empty if there is none."""
    # Quotes within a value are escaped, so this is the field.
    found = _EXCEPTION.search(event)
    return found[1].decode() if found else ""
