"""One measurement's client side, in a process of its own: `client.py CONTENDER WHAT COUNT [ROUNDS]` prints JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from random import Random
from typing import TextIO

from contenders import CONTENDERS, Contender
from contenders.base import from_threads, one_by_one
from names import names

LONG = 1.0
"""Seconds of a long task in the mix."""
LATE_RATE = 2000
"""Delayed tasks that fall due in a second."""
WAIT = 0.1
"""Seconds that a waiting task waits."""

_held: list[Callable[[], int]] = []


def send(contender: Contender, count: int) -> dict[str, float]:
    return {"seconds": one_by_one(contender.client_send(), count)}


def threads(contender: Contender, count: int) -> dict[str, float]:
    return {"seconds": from_threads(contender.client_send(), count)}


def batch(contender: Contender, count: int) -> dict[str, float]:
    contender.client_batch(1)
    start = time.perf_counter()
    contender.client_batch(count)
    return {"seconds": time.perf_counter() - start}


def call(contender: Contender, count: int) -> dict[str, float]:
    once = contender.client_call()
    for _ in range(20):
        once()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    times.sort()
    return {"p50": times[len(times) // 2], "p99": times[int(len(times) * 0.99)]}


def group(contender: Contender, count: int) -> dict[str, float]:
    contender.client_group(10)
    start = time.perf_counter()
    contender.client_group(count)
    return {"seconds": time.perf_counter() - start}


def chain(contender: Contender, count: int, rounds: int) -> dict[str, float]:
    """Seconds of a whole chain of `count` steps, one chain after the other."""
    return _one_by_one(contender.client_chain(), count, rounds)


def chord(contender: Contender, count: int, rounds: int) -> dict[str, float]:
    """Seconds of a chord of `count` members, one chord after the other."""
    return _one_by_one(contender.client_chord(), count, rounds)


def chords(contender: Contender, count: int, rounds: int) -> dict[str, float]:
    """Seconds until all of `rounds` chords, of `count` members each, are sent and done."""
    start_one = contender.client_chord()
    _same(start_one(10)(), 10)
    start = time.perf_counter()
    _held.extend(start_one(count) for _ in range(rounds))
    for wait in _held:
        _same(wait(), count)
    return {"seconds": time.perf_counter() - start}


def _one_by_one(start_one: Callable[[int], Callable[[], int]], count: int, rounds: int) -> dict[str, float]:
    _same(start_one(10)(), 10)
    times = sorted(_timed(start_one, count) for _ in range(rounds))
    return {"p50": times[len(times) // 2], "most": times[-1]}


def _timed(start_one: Callable[[int], Callable[[], int]], count: int) -> float:
    start = time.perf_counter()
    wait = start_one(count)
    value = wait()
    took = time.perf_counter() - start
    _held.append(wait)
    _same(value, count)
    return took


def _same(value: int, due: int) -> None:
    if value != due:
        raise RuntimeError(f"a workflow gave {value!r}, and {due!r} is right: what it took is no figure")


def gather(contender: Contender, count: int) -> dict[str, float]:
    contender.client_gather(10)
    start = time.perf_counter()
    contender.client_gather(count)
    return {"seconds": time.perf_counter() - start}


def mix(contender: Contender, count: int) -> dict[str, float]:
    """Sixty tasks a second, each hundredth a long one: two children are busy for a third of the time."""
    short, long = contender.client_send_short(), contender.client_send_long()
    start = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, start + number / 60 - time.monotonic()))
        if number % 100 == 10:
            long(LONG)
        else:
            short(time.monotonic())
    return {"seconds": time.monotonic() - start}


def late(contender: Contender, count: int) -> dict[str, float]:
    """Tasks that fall due in any order, `LATE_RATE` a second, once all of them are published."""
    once = contender.client_send_late()
    together = contender.client_together()
    once(0.0, time.monotonic())
    probe = min(300, count // 4)
    start = time.perf_counter()
    with together():
        for _ in range(probe):
            once(0.0, time.monotonic())
    hold = 1.5 * (time.perf_counter() - start) / probe * count + 5.0
    random = Random(3)
    begin, start = time.monotonic() + hold, time.perf_counter()
    with together():
        for _ in range(count):
            due = begin + random.uniform(0, count / LATE_RATE)
            once(due - time.monotonic(), due)
    return {"seconds": time.perf_counter() - start, "early": probe + 1, "begin": begin}


def failing(contender: Contender, count: int) -> dict[str, float]:
    return _together(contender, contender.client_send_failing(), count)


def waiting(contender: Contender, count: int) -> dict[str, float]:
    once = contender.client_send_waiting()
    return _together(contender, lambda: once(WAIT), count)


def _together(contender: Contender, once: Callable[[], object], count: int) -> dict[str, float]:
    began = time.monotonic()
    with contender.client_together()():
        for _ in range(count):
            once()
    return {"began": began}


def ping(contender: Contender, count: int, rounds: int) -> dict[str, float]:
    """Seconds until the last of so many workers has answered: the first time, which connects, and after."""
    once, times = contender.client_ping(), []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        answers = once(names(count))
        times.append(time.perf_counter() - start)
        if answers != count:
            raise RuntimeError(f"{answers} of {count} workers answered")
    return {"first": times[0], "p50": sorted(times[1:])[rounds // 2], "most": max(times[1:])}


WORK: dict[str, Callable[..., dict[str, float]]] = {
    work.__name__: work
    for work in (
        send,
        threads,
        batch,
        call,
        group,
        chain,
        chord,
        chords,
        gather,
        mix,
        late,
        failing,
        waiting,
        ping,
    )
}


def main(name: str, what: str, *counts: str, out: TextIO = sys.stdout) -> None:
    print(json.dumps(WORK[what](CONTENDERS[name], *map(int, counts))), file=out, flush=True)
    if _held:
        os._exit(0)  # what it costs to end is not measured


if __name__ == "__main__":
    main(*sys.argv[1:])
