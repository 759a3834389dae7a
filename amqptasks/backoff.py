"""Delays between attempts, shared by connections and task retries. Pure: sleeps nowhere."""

from __future__ import annotations

import random
from collections.abc import Iterator


def exponential(attempt: int, *, factor: float = 1, maximum: float = 600) -> float:
    """Return `factor * 2**attempt` seconds, at most `maximum`; `attempt` counts from 0."""
    # 2**attempt grows without bound long before float does; the cap is reached by then.
    return float(min(maximum, factor * 2 ** min(attempt, 64)))


def full_jitter(delay: float, rng: random.Random | None = None) -> int:
    """Return a random whole number of seconds from 0 to `delay` (Celery's `retry_jitter`)."""
    return (rng or random).randrange(int(delay) + 1)


def reconnecting(
    *, first: float = 0.1, maximum: float = 10.0, rng: random.Random | None = None
) -> Iterator[float]:
    """Yield seconds to wait before each connection attempt, for ever: exponential with jitter.

    Jitter keeps a fleet from returning to a restarted broker in the same instant. Half of each delay is
    fixed, so that no client hammers a broker that refuses it.
    """
    source = rng or random.Random()
    attempt = 0
    while True:
        delay = exponential(attempt, factor=first, maximum=maximum)
        yield delay / 2 + source.uniform(0, delay / 2)
        attempt += 1
