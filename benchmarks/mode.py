"""How a contender is set up for one row: what may differ, everything else stays at its own defaults.

Travels in the environment to the measured apps, which import this: it must import next to nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

VARIABLE = "BENCH_MODE"
CONCURRENCY = 2


@dataclass(frozen=True)
class Mode:
    """None: the contender's own default."""

    broker: str
    queue: str = "bench"
    queue_type: str | None = None
    late: bool | None = None
    prefetch: int | None = None
    """Messages held per worker in all."""
    results: bool = False
    confirmed: bool = True
    """Whether each publish waits for the broker's word."""
    pool: str | None = None
    store: str | None = None
    """Where results go, if not over RabbitMQ: a URL. Rows say `redis`; `Bench.set_up` makes it a URL."""
    slots: int = CONCURRENCY
    """Tasks that run at the same time."""
    events: bool = False
    """Whether its workers tell monitors of every task."""

    def to_environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Mode:
        return cls(**json.loads(os.environ[VARIABLE]))
