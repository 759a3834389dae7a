"""Deliveries in flight: from the moment one is received until it is settled. Values and counters; no I/O."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from amqptasks.amqp import Delivery
from amqptasks.bounded import drop_oldest
from amqptasks.worker.outcome import TaskOptions, Verdict

if TYPE_CHECKING:
    from amqptasks.worker.lane import Lane
    from amqptasks.worker.outcome import Outcome

V = TypeVar("V")

UNKNOWN_TASK = TaskOptions(name="", acks_late=True)
"""What the manifest does not list is acknowledged only after its dead letter is confirmed."""


@dataclass(slots=True, eq=False)
class Flight:
    """One delivery between `receive` and `settle`."""

    key: int
    delivery: Delivery
    lane: Lane
    options: TaskOptions
    since: float
    """Loop time of its arrival."""
    identity: tuple[Any, ...] | None = None
    """The id, and what else tells a redelivery from another message; None: nothing does."""
    started: bool = False
    pid: int = 0
    """Of the process that runs it, once it has started."""
    acked: bool = False
    """Settled on the broker already: early, at the start."""
    climbed: bool = False
    """It came by the ladder, which may pass a message on twice."""
    void: bool = False
    """The channel that delivered it is gone; the broker will deliver it again."""
    unconfirmed: int = 0
    verdict: Verdict = Verdict.ACK
    failed: bool = False
    """Counts as a failed delivery when it is given back."""
    losses: int = 0
    """Children that died on it: the first by running it, later ones by writing its obituary."""
    heir: Flight | None = None
    """The redelivery of this very message, which waits for this run's outcome."""

    @property
    def task_id(self) -> str:
        """Empty for what is no call in protocol 2."""
        return str(self.identity[0]) if self.identity else ""


class Watched(Protocol):
    """Who is told of every call while task events are on."""

    def received(self, fields: Mapping[str, Any], delivery: Delivery) -> None:
        """`fields` are those of admission; none of what is no call."""
        ...

    def started(self, flight: Flight) -> None: ...
    def finished(self, flight: Flight, event: bytes) -> None:
        """`event` is that of the outcome."""
        ...


class Recent(Generic[V]):
    """A bounded mapping that forgets the oldest first; a key of None is never kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: dict[Hashable, V] = {}

    def add(self, key: Hashable, value: V) -> None:
        if key is None:
            return
        values = self._values
        values[key] = value
        if len(values) > self._limit:
            drop_oldest(values, self._limit)

    def discard(self, key: Hashable) -> None:
        self._values.pop(key, None)

    def get(self, key: Hashable) -> V | None:
        return self._values.get(key)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(slots=True)
class Counters:
    """What a worker has done since it started; shown by `stats` and in the last log line."""

    received: int = 0
    started: int = 0
    finished: int = 0
    lost: int = 0
    """Runs whose child died."""
    refused: int = 0
    """Put into a dead-letter queue by us."""
    returned: int = 0
    """Given back to the broker without having run."""
    doubles: int = 0
    """Redeliveries of what this worker had started or finished, dropped."""
    undeliverable: int = 0
    """Results whose client is gone."""
    states: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)
    """Runs that started, by task."""

    def ended(self, flight: Flight, outcome: Outcome) -> None:
        """Count a run that ended, in a state if it has one."""
        self.finished += 1
        state = outcome.state
        if state:
            self.states[state] = self.states.get(state, 0) + 1
