"""The pool contract: runs what the parent hands over, somewhere else, and reports.

A pool knows nothing of tasks, brokers or acks: it moves `Run`s to children and `Outcome`s back. All calls and
all reports happen in the parent's event-loop thread.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from amqptasks.amqp import Delivery, Parcel
from amqptasks.errors import PoolFailed
from amqptasks.worker.awaiting import Guard
from amqptasks.worker.outcome import Cause, Manifest, Outcome, Run


class Report(Protocol):
    """What the parent wants to hear. Called in the loop's thread, per run in this order: started, then one of
    the two others. A run that was handed over and never started is handed to another child, silently.

    An obituary, and a message that cannot be read, finish without having started.
    """

    began: float
    ended: float
    """Loop times of the run that is told as finished next, set by the pool before; 0.0 if it has not started."""

    def started(self, key: int, pid: int, publish: Sequence[Parcel]) -> None:
        """The task body is about to run; `publish` holds its STARTED state, if tracked."""

    def finished(self, key: int, outcome: Outcome) -> None:
        """The run has ended and this follows from it."""

    def lost(self, key: int, reason: str, innocent: bool, cause: Cause = Cause.LOST) -> None:
        """Started, and its child died without an outcome. `reason` says how: "signal 9 (SIGKILL)".

        `innocent`: the child ran several tasks, so nobody can say which of them killed it. `cause` is LOST,
        TIMEOUT (`reason` is then the hard limit in seconds) or TERMINATED (`reason` as given to `terminate`).
        A run that killed several children in a row before it started is reported lost too.
        """


class Stage(Protocol):
    """Where one run of the asyncio pool takes place. `started` may be called in any thread."""

    def started(self, publish: Sequence[Parcel], /) -> None:
        """See `Executor.run`."""

    def watch(self, body: Guard) -> Awaitable[Any]:
        """Await the task's body, so that limits and termination reach it; nothing else is reached by them."""

    def thread(self, function: Callable[[], Outcome]) -> Awaitable[Outcome]:
        """Call what blocks in a thread, with a copy of the context."""


class Executor(Protocol):
    """What a child does with a run; made in each child after the fork. See `worker.executor`."""

    def run(self, run: Run, started: Callable[[Sequence[Parcel]], None]) -> Outcome:
        """Run, or write the obituary. Call `started` once, just before the task body; raise no Exception."""

    async def arun(self, run: Run, stage: Stage) -> Outcome:
        """As `run`, in a loop that runs others at the same time; used by the asyncio pool alone."""

    def close(self) -> None:
        """Flush and close what the child opened."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An app, loaded in this process: what the parent must know, and how each child makes its executor."""

    manifest: Manifest
    make_executor: Callable[[], Executor]


class Pool(ABC):
    """n slots that run tasks outside the parent's loop."""

    name: str
    elastic = False
    """Whether slots come and go one by one, so that the size may follow the work."""

    @abstractmethod
    async def start(self, report: Report) -> Manifest:
        """Load the app, start the children, return what the parent must know.

        Raises AppNotFound, AppImportFailed, ImproperlyConfigured, PoolFailed.
        """

    @abstractmethod
    def submit(self, run: Run) -> None:
        """Take a run; never blocks. It waits here when no child has room."""

    @abstractmethod
    def recall(self) -> list[Run]:
        """Take back everything that has not started, for a shutdown; these will never be reported."""

    @abstractmethod
    def pause(self, paused: bool) -> None:
        """While paused nothing more is handed to children; what they hold goes on."""

    @abstractmethod
    def terminate(self, key: int, reason: str) -> bool:
        """Kill the child that runs `key`, and no other; False if it is not running. `lost` is reported.

        A pool of coroutines cancels the one that runs `key` instead, and reports `lost` when that has ended.
        """

    @abstractmethod
    async def resize(self, size: int) -> None:
        """Have `size` slots; busy children above that end after their task."""

    @abstractmethod
    async def restart(self, modules: Sequence[str] = ()) -> Manifest | None:
        """Load the app anew, and these modules with it; each child is replaced as it becomes idle.

        Returns what the parent must know from now on; None if nothing was loaded. Raises what `start` raises.
        """

    @abstractmethod
    async def stop(self, timeout: float | None) -> bool:
        """Let running tasks end, at most `timeout` seconds (None: as long as they take), then kill.

        True when all ended by themselves.
        """

    def hook(self, signal: str, delivery: Delivery | None = None) -> None:
        """Have a child that runs no tasks send one of the manifest's `hooks`; does nothing for any other."""

    async def command(self, name: str, arguments: bytes, limit: float) -> bytes:
        """Have a child that runs no tasks carry out a command of the manifest's; return its answer.

        Raises PoolFailed, with what became of that child, and TimeoutError after `limit` seconds, when it is ended.
        """
        raise PoolFailed(f"the {self.name} pool carries out no commands")

    def dump(self) -> None:
        """Have every child write the stacks of its threads to stderr."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Slots."""

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the processes that run tasks and are ready."""
        return (os.getpid(),)

    @property
    @abstractmethod
    def running(self) -> dict[int, float]:
        """Keys of started runs, with the loop time of their start."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """Runs taken and not started."""
