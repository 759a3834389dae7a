"""The solo pool: one thread of the worker's own process, for debugging and for `memory://`.

What it gives up: a task that kills its process kills the worker, there are no time limits, nothing can be
terminated, and a task that holds the interpreter lock delays heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from amqptasks.amqp import Delivery, Parcel
from amqptasks.errors import PoolFailed
from amqptasks.worker.outcome import Cause, LoadSpec, Manifest, Outcome, Run
from amqptasks.worker.pools.base import Executor, Loaded, Pool, Report
from amqptasks.worker.pools.hooks import NO_DELIVERY
from amqptasks.worker.pools.loading import load

logger = logging.getLogger(__name__)


class SoloPool(Pool):
    """Runs one task at a time in a thread. Takes a loaded app, or what to load."""

    name = "solo"

    def __init__(self, app: Loaded | LoadSpec) -> None:
        self._app = app
        self._report: Report
        self._loop: asyncio.AbstractEventLoop
        self._make_executor: Callable[[], Executor]
        self._hooked: frozenset[str] = frozenset()
        self._waiting: deque[Run] = deque()
        self._busy: int | None = None
        self._running: dict[int, float] = {}
        self._answers: deque[asyncio.Future[bytes]] = deque()
        """To the commands in the thread's hands, in order."""
        self._paused = False
        self._idle = asyncio.Event()
        self._runs: SimpleQueue[Run | None] | None = None
        self._thread: threading.Thread | None = None

    async def start(self, report: Report) -> Manifest:
        self._report = report
        self._loop = asyncio.get_running_loop()
        loaded = self._app if isinstance(self._app, Loaded) else load(self._app)
        self._hooked = loaded.manifest.hooks
        self._make_executor = loaded.make_executor
        await self._begin()
        return loaded.manifest

    def submit(self, run: Run) -> None:
        self._waiting.append(run)
        self._next()

    def hook(self, signal: str, delivery: Delivery | None = None) -> None:
        if signal in self._hooked and self._runs is not None:
            self._runs.put(Run(0, delivery or NO_DELIVERY, Cause.HOOK, signal))

    async def command(self, name: str, arguments: bytes, limit: float) -> bytes:
        """As everywhere, but a thread cannot be ended: what takes longer than `limit` seconds goes on, unheard."""
        if self._runs is None:
            raise PoolFailed("the pool is being restarted, or stopped")
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._answers.append(answer)
        self._runs.put(Run(0, replace(NO_DELIVERY, body=arguments), Cause.COMMAND, name))
        return await asyncio.wait_for(answer, limit)

    def recall(self) -> list[Run]:
        runs = list(self._waiting)
        self._waiting.clear()
        return runs

    def pause(self, paused: bool) -> None:
        self._paused = paused
        self._next()

    def terminate(self, key: int, reason: str) -> bool:
        """A thread cannot be killed: always False."""
        return False

    async def resize(self, size: int) -> None:
        """One slot is what this pool is."""

    async def restart(self, modules: Sequence[str] = ()) -> Manifest | None:
        """Make a new executor once the running task has ended; nothing is imported anew in the worker itself."""
        if modules:
            raise PoolFailed(
                "the solo pool lives in the worker's own process; to load modules, restart the worker"
            )
        await self._quiet()
        self._end()
        await self._begin()
        self._next()
        return None

    async def stop(self, timeout: float | None) -> bool:
        """Let the running task end; after `timeout` seconds it is left alone, and ends with the process."""
        thread = self._thread
        if thread is None:
            return True
        self._paused = True
        try:
            await asyncio.wait_for(self._quiet(), timeout)
        except TimeoutError:
            self._thread = None
            return False
        self._end()
        await asyncio.to_thread(thread.join)
        return True

    @property
    def size(self) -> int:
        return 1

    @property
    def running(self) -> dict[int, float]:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._waiting) + (self._busy is not None and not self._running)

    def __repr__(self) -> str:
        return f"<SoloPool {'busy' if self._busy is not None else 'idle'} | {len(self._waiting)} waiting>"

    # --- in the loop -------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        runs: SimpleQueue[Run | None] = SimpleQueue()
        ready: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work, args=(runs, ready, self._make_executor), name="amqptasks-solo", daemon=True
        )
        self._thread.start()
        await ready
        self._runs = runs

    def _end(self) -> None:
        if self._runs is not None:
            self._runs.put(None)
        self._runs = self._thread = None

    def _next(self) -> None:
        """The thread holds one run at a time, so that whatever waits can be taken back."""
        if self._busy is None and self._waiting and not self._paused and self._runs is not None:
            run = self._waiting.popleft()
            self._busy = run.key
            self._idle.clear()
            self._runs.put(run)

    async def _quiet(self) -> None:
        while self._busy is not None:
            await self._idle.wait()

    def _started(self, key: int, parcels: Sequence[Parcel]) -> None:
        self._running[key] = self._loop.time()
        self._report.started(key, os.getpid(), parcels)

    def _ended(self, key: int, outcome: Outcome | None, reason: str) -> None:
        self._report.began, self._report.ended = self._running.pop(key, 0.0), self._loop.time()
        self._busy = None
        self._idle.set()
        if outcome is not None:
            self._report.finished(key, outcome)
        else:
            self._report.lost(key, reason, innocent=False)
        self._next()

    def _answered(self, outcome: Outcome | None) -> None:
        answer = self._answers.popleft()
        if answer.done():
            return  # too late
        if outcome is None:
            answer.set_exception(PoolFailed("it ended the thread that it ran in"))
        else:
            answer.set_result(outcome.publish[0].body)

    # --- in the thread -----------------------------------------------------------------------------------

    def _work(
        self,
        runs: SimpleQueue[Run | None],
        ready: asyncio.Future[None],
        make_executor: Callable[[], Executor],
    ) -> None:
        try:
            executor = make_executor()
        except BaseException as error:
            self._tell(ready.set_exception, error)
            return
        self._tell(ready.set_result, None)
        try:
            while (run := runs.get()) is not None:
                if run.cause >= Cause.HOOK:
                    self._run_beside(executor, run)
                else:
                    self._run(executor, run)
        finally:
            executor.close()

    def _run_beside(self, executor: Executor, run: Run) -> None:
        """A signal of the worker, or a command: no task, and its end must not be the thread's."""
        outcome: Outcome | None = None
        try:
            outcome = executor.run(run, _ignore)
        except BaseException:
            logger.exception("%s ended its executor", run.detail)
        if run.cause is Cause.COMMAND:
            self._tell(self._answered, outcome)

    def _run(self, executor: Executor, run: Run) -> None:
        outcome, reason = None, ""
        try:
            outcome = executor.run(run, lambda parcels: self._tell(self._started, run.key, parcels))
        except SystemExit as stop:
            reason = f"sys.exit({stop.code!r})"
        except BaseException as error:
            logger.exception("the executor failed")
            reason = repr(error)
        self._tell(self._ended, run.key, outcome, reason)

    def _tell(self, what: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(what, *args)
        except RuntimeError:  # the loop is closed: nobody listens any more
            return


def _ignore(_: Sequence[Parcel]) -> None:
    """What is no task has no start."""
