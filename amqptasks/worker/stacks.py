"""What a worker does right now, for whoever sends it SIGUSR1: the tasks that run, and the stack of every thread.

Written to stderr by faulthandler, so that neither a hung interpreter nor a broken log keeps it back.
"""

from __future__ import annotations

import faulthandler
from collections.abc import Iterator
from typing import TextIO

from amqptasks.worker.admission import fields_of
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.pools.base import Pool


def dump(pool: Pool, dispatch: Dispatch, now: float, out: TextIO) -> None:
    """Name the running tasks, write the parent's stacks, and have every child write its own. `now` is loop time."""
    out.writelines(f"{line}\n" for line in _running(pool, dispatch, now))
    out.flush()
    faulthandler.dump_traceback(file=out, all_threads=True)
    pool.dump()


def _running(pool: Pool, dispatch: Dispatch, now: float) -> Iterator[str]:
    yield f"--- running tasks: {len(pool.running)}; stacks of the worker's own process and of each child follow"
    for key, since in pool.running.items():
        flight = dispatch.flights.get(key)
        fields = fields_of(flight.delivery) if flight is not None else {}
        yield f"run {key}, for {now - since:.1f} s: {fields.get('task', 'a task')}[{fields.get('id', '?')}]"
