"""The rows of chains and chords. What a client gets back is checked: a wrong sum is no figure."""

from __future__ import annotations

from bench import Bench
from contenders import Contender
from mode import Mode
from row import QUEUE, Figure, Measured, Row

STEPS = 100
"""Steps of the chain."""
MEMBERS = 20
"""Members of each of the many chords."""
LONGEST = 600.0
"""Seconds for the client of a large chord; Celery's takes minutes for 10,000 members."""
GROWTH = (10, 100, 1000, 10_000)


def chain(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """Chains one after the other, on an idle worker: how long a step takes."""
    bench.empty(QUEUE)
    with bench.worker(contender, mode):
        times = bench.client(contender, mode, "chain", STEPS, rounds=bench.size(2, 10))
    return {name: 1000 * seconds / STEPS for name, seconds in times.items()}


def chords(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """Many chords, all sent before the first is waited for."""
    bench.empty(QUEUE)
    count = bench.size(10, 100)
    with bench.worker(contender, mode):
        seconds = bench.client(contender, mode, "chords", MEMBERS, rounds=count)["seconds"]
    return {"seconds": seconds, "rate": count * MEMBERS / seconds}


def chord(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    bench.empty(QUEUE)
    count = bench.size(1000, 10_000)
    with bench.worker(contender, mode):
        seconds = bench.client(contender, mode, "chord", count, LONGEST, rounds=1)["p50"]
    return {"seconds": seconds, "rate": count / seconds}


def growth(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """What each member costs in a chord of 10, of 100 and so on; linear means that it is the same in all."""
    bench.empty(QUEUE)
    sizes = GROWTH[: bench.size(3, len(GROWTH))]
    measured = {}
    with bench.worker(contender, mode):
        for size in sizes:
            rounds = max(1, bench.size(100, 2000) // size)
            seconds = bench.client(contender, mode, "chord", size, LONGEST, rounds=rounds)["p50"]
            measured[f"each_{size}"] = 1e6 * seconds / size
    return measured


_TOGETHER = (Figure("seconds", "", "s"), Figure("rate", "members", "/s", more_is_better=True))
_OURS = {"results": True, "confirmed": False}
_STORED = {**_OURS, "store": "redis"}

WORKFLOWS = (
    Row(
        "chain",
        f"chain of {STEPS}, a step",
        (Figure("p50", "p50", "ms"), Figure("most", "slowest chain", "ms")),
        _OURS,
        chain,
    ),
    Row("chords", f"100 chords of {MEMBERS}", _TOGETHER, _OURS, chords, peers_mode=_STORED),
    Row("chord", "one chord of 10,000", _TOGETHER, _OURS, chord, peers_mode=_STORED),
    Row(
        "chord.growth",
        "growth of a chord, a member",
        tuple(Figure(f"each_{size}", f"of {size:,}", "us") for size in GROWTH),
        _OURS,
        growth,
        peers_mode=_STORED,
    ),
)
