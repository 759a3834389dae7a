"""The contract of a contender: how its worker is started, and what its client can be told to do."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from mode import Mode

FOLDER = Path(__file__).resolve().parents[1]
THREADS = 16


def program(name: str) -> str:
    """A command of the environment that runs the benchmark."""
    return str(Path(sys.executable).with_name(name))


def environment(mode: Mode) -> dict[str, str]:
    """What every worker and client is started with."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    # What is measured is the tree that this file lies in, whatever is installed.
    return (
        inherited | mode.to_environment() | {"PYTHONPATH": os.pathsep.join((str(FOLDER), str(FOLDER.parent)))}
    )


class Contender(Protocol):
    """One task queue. `client_` methods run in a process of their own, in which the app is imported first."""

    name: str
    late_only: bool
    """It has no early acknowledgement."""
    has_results: bool
    """It has results over RabbitMQ."""
    quorum: bool
    """Its queues can be quorum queues."""
    has_batches: bool
    """It can publish several at once; who cannot is measured one by one."""
    has_events: bool
    """Its workers tell monitors of their tasks, and answer remote control, on Celery's wire."""
    pools: frozenset[str]
    """The pools that it has, besides its default, of those that are measured."""

    def version(self) -> list[str]:
        """The command that prints the version."""

    def worker(self, mode: Mode) -> tuple[list[str], dict[str, str]]:
        """The command of a worker with two children, and what it needs in the environment besides."""

    def described(self, mode: Mode) -> dict[str, str]:
        """Prefetch, queue type, delivery and ack mode, as the table shows them."""

    def client_send(self) -> Callable[[], object]:
        """What publishes one no-op, from any thread."""

    def client_send_short(self) -> Callable[[float], object]: ...

    def client_send_long(self) -> Callable[[float], object]: ...

    def client_batch(self, count: int) -> None:
        """Publish no-ops together; called only if it has batches."""

    def client_call(self) -> Callable[[], object]:
        """What calls one no-op and waits for its result."""

    def client_group(self, count: int) -> None:
        """Run a group of no-ops and wait for all results."""

    def client_gather(self, count: int) -> None:
        """Call no-ops from as many coroutines, and wait for all results."""

    def client_chain(self) -> Callable[[int], Callable[[], int]]:
        """What starts a chain of so many steps that add one, beginning at none, and returns what waits for its end."""

    def client_chord(self) -> Callable[[int], Callable[[], int]]:
        """What starts a chord of so many ones and returns what waits for their sum."""

    def client_together(self) -> Callable[[], AbstractContextManager[object]]:
        """A block whose publishes are waited for together, where it has batches."""

    def client_ping(self) -> Callable[[list[str]], int]:
        """What asks workers by name whether they are there, and returns how many have answered."""

    def ping(self, names: list[str]) -> list[str]:
        """The command that asks the same."""

    def client_send_late(self) -> Callable[[float, float], object]:
        """What publishes a task that is due in so many seconds, and is told when by the monotonic clock."""

    def client_send_failing(self) -> Callable[[], object]:
        """What publishes a task that fails twice, and is run again a second later."""

    def client_send_waiting(self) -> Callable[[float], object]:
        """What publishes a task that waits so many seconds, as the pool of its mode does it best."""


def one_by_one(send: Callable[[], object], count: int) -> float:
    """Seconds; the first message, which opens the connection, is not counted."""
    send()
    start = time.perf_counter()
    for _ in range(count):
        send()
    return time.perf_counter() - start


def from_threads(send: Callable[[], object], count: int) -> float:
    """Seconds that THREADS threads take together; each has sent one before."""
    ready = threading.Barrier(THREADS + 1)

    def work() -> None:
        send()
        ready.wait()
        for _ in range(count // THREADS):
            send()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start
