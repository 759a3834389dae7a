"""What a row is: a name, its figures, how contenders are set up for it, and the function that measures it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bench import Bench
from contenders import Contender
from mode import Mode

Measured = dict[str, float]
QUEUE = "bench"


@dataclass(frozen=True)
class Figure:
    """One figure of a row: a line of the table."""

    key: str
    title: str
    unit: str
    more_is_better: bool = False


@dataclass(frozen=True)
class Row:
    """`limit` measures the same by a bare socket (or stock pika): what cannot be passed."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    mode: Mapping[str, object]
    measure: Callable[[Bench, Contender, Mode], Measured]
    limit: Callable[[Bench, Mode], Measured] | None = None
    peers_mode: Mapping[str, object] | None = None
    """Of the others, where it is not the same."""
    monitored: bool = False
    """It measures events or remote control, which not every contender has."""
    alone: bool = False
    """It measures what can be simulated of this project only."""

    def mode_of(self, contender: Contender, url: str) -> Mode:
        given = self.mode if self.peers_mode is None or contender.name == "amqptasks" else self.peers_mode
        return replace(Mode(url, QUEUE), **given)  # type: ignore[arg-type]

    def takes(self, contender: Contender) -> bool:
        mode = self.mode_of(contender, "")
        return (
            (contender.has_results or not mode.results)
            and (contender.quorum or mode.queue_type != "quorum")
            and (mode.pool is None or mode.pool in contender.pools)
            and (contender.has_events or not self.monitored)
            and (contender.name == "amqptasks" or not self.alone)
        )


RATE = Figure("rate", "", "/s", more_is_better=True)
