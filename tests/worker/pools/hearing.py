"""What the tests of the pools share: a report that remembers, runs to submit, waiting with a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from amqptasks.amqp import Delivery, Parcel
from amqptasks.worker.outcome import Cause, LoadSpec, Outcome, Run
from amqptasks.worker.pools.base import Pool

from .fake_app import LOADER

LONGEST = 100.0

_keys = count(1)


def spec(app: str = "fake", **settings: Any) -> LoadSpec:
    """Its children are waited for, however slowly a busy machine starts them."""
    return LoadSpec(LOADER, app, "w1@here", {"worker_proc_alive_timeout": 60.0, **settings})


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on a loop of its own, within `LONGEST` seconds."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(LONGEST):
                await test(*args, **kwargs)

        asyncio.run(bounded())

    return run


async def until(condition: Callable[[], object], what: str = "", longest: float = 60.0) -> None:
    deadline = time.monotonic() + longest
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what or condition}"
        await asyncio.sleep(0.002)


@contextlib.contextmanager
def errors_in(path: Path) -> Iterator[Callable[[], str]]:
    """Have this process, and all that it starts, write stderr there; give what reads it.

    pytest's own file loses what another process writes while it is read.
    """
    kept = os.dup(2)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        yield path.read_text
    finally:
        os.dup2(kept, 2)
        os.close(kept)


async def run_all(pool: Pool, heard: Heard, *runs: Run) -> None:
    """Start the pool, have it run these to their ends, and stop it."""
    await pool.start(heard)
    for run in runs:
        pool.submit(run)
    await heard.ends(*runs)
    await pool.stop(60)


def task(body: str | bytes, *, header: bytes = b"header", **options: Any) -> Run:
    """A run with a key of its own, whose body says what the fake app is to do."""
    body = body.encode() if isinstance(body, str) else body
    return Run(next(_keys), Delivery("short", 7, 1, False, "amqptasks", "short", header, body), **options)


class Heard:
    """Remembers what a pool reported, in order."""

    def __init__(self) -> None:
        self.starts: dict[int, int] = {}
        self.start_parcels: dict[int, Sequence[Parcel]] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.losses: dict[int, tuple[str, bool, Cause]] = {}
        self.order: list[tuple[str, int]] = []
        self.on_end: Callable[[int], None] = lambda key: None

    def started(self, key: int, pid: int, publish: Sequence[Parcel]) -> None:
        assert key not in self.starts, f"{key} started twice"
        self.starts[key] = pid
        self.start_parcels[key] = publish
        self.order.append(("started", key))

    def finished(self, key: int, outcome: Outcome) -> None:
        assert key not in self.outcomes, f"{key} finished twice"
        assert key not in self.losses, f"{key} finished after it was lost"
        self.outcomes[key] = outcome
        self.order.append(("finished", key))
        self.on_end(key)

    def lost(self, key: int, reason: str, innocent: bool, cause: Cause = Cause.LOST) -> None:
        assert key not in self.losses, f"{key} lost twice"
        assert key not in self.outcomes, f"{key} lost after it had finished"
        self.losses[key] = (reason, innocent, cause)
        self.order.append(("lost", key))
        self.on_end(key)

    async def ends(self, *runs: Run) -> None:
        """Wait until all these have finished or are lost."""
        keys = {run.key for run in runs}
        await until(lambda: keys <= self.outcomes.keys() | self.losses.keys(), f"the end of {keys}")

    async def begins(self, run: Run) -> None:
        await until(lambda: run.key in self.starts, f"the start of {run.key}")

    def states(self, *runs: Run) -> list[str]:
        return [self.outcomes[run.key].state for run in runs]
