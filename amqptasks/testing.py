"""For users' tests: a worker inside the test's own process, on `memory://` or on a real broker.

    with running_worker(app) as worker:
        assert add.delay(2, 2).get(timeout=5) == 4

The whole way is taken: messages are encoded, routed, delivered, decoded, and results come back; only processes are
spared. Runs one task at a time, in a thread (the solo pool).
"""

from __future__ import annotations

import asyncio
import builtins
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from amqptasks.amqp import Queue
from amqptasks.app import App
from amqptasks.errors import TimeoutError, WorkerError
from amqptasks.worker.boot import loaded
from amqptasks.worker.flight import Counters
from amqptasks.worker.options import WorkerOptions
from amqptasks.worker.pools.solo import SoloPool
from amqptasks.worker.shutdown import Phase
from amqptasks.worker.worker import Worker, load_spec

__all__ = ["RunningWorker", "running_worker"]

PATIENCE = 30.0
"""Seconds for a worker to start, to answer, to be idle, and to stop: machines that run tests are often busy."""
LOOK = 0.002
"""Seconds between two looks at whether a worker is idle."""


class RunningWorker:
    """A worker in a thread of this process."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._loop = loop

    @property
    def node(self) -> str:
        return self._worker.options.node

    @property
    def counters(self) -> Counters:
        """What it has done since it started."""
        return self._worker.dispatch.counters

    def wait_until_idle(self, timeout: float = PATIENCE) -> None:
        """Return once everything it was given is settled and its queues are empty. Raises errors.TimeoutError."""
        idle = asyncio.run_coroutine_threadsafe(self._idle(), self._loop)
        try:
            idle.result(timeout)
        except builtins.TimeoutError:
            idle.cancel()
            raise TimeoutError(f"{self.node} was not idle within {timeout} s") from None

    async def _idle(self) -> None:
        while True:
            await self._worker.dispatch.settled()
            link = self._worker.consumers.link
            queues = [Queue(lane.queue.name) for lane in self._worker.consumers.lanes]
            if link is None:
                return
            waiting = await link.declare(*queues, passive=True)
            if not any(queue.messages for queue in waiting) and not self._worker.dispatch.in_flight:
                return
            await asyncio.sleep(LOOK)  # a memory broker answers at once, and the worker shares this loop

    def rate_limit(self, task: str, rate: str | float | None) -> None:
        """Start a task at most that often from now on: "10/s", "100/m", "1000/h"; 0 or None lifts its limit.

        Raises NotRegistered, ImproperlyConfigured.
        """

        async def change() -> None:
            self._worker.rate_limit(task, rate)

        asyncio.run_coroutine_threadsafe(change(), self._loop).result(PATIENCE)

    def stop(self, phase: Phase = Phase.WARM) -> None:
        """Tell it to stop; the `with` block waits for it."""
        self._loop.call_soon_threadsafe(self._worker.shutdown.request, phase)


@contextmanager
def running_worker(
    app: App, *, queues: Sequence[str] = (), hostname: str = "test@localhost", timeout: float = PATIENCE
) -> Iterator[RunningWorker]:
    """Run a worker of `app` for the length of the block; it consumes before the body starts.

    `timeout` is in seconds, for starting and for stopping. Raises what keeps a worker from starting.
    """
    options = WorkerOptions(queues=tuple(queues), hostname=hostname, pool="solo", quiet=True)
    ready, ended = threading.Event(), threading.Event()
    failures: list[BaseException] = []
    running: list[RunningWorker] = []

    async def work() -> None:
        worker = Worker(options, SoloPool(loaded(app, load_spec(options))), on_ready=ready.set)
        running.append(RunningWorker(worker, asyncio.get_running_loop()))
        await worker.run()

    def main() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()
            ready.set()

    thread = threading.Thread(target=main, name="amqptasks-worker", daemon=True)
    thread.start()
    if not ready.wait(timeout):
        raise WorkerError(f"the worker did not consume within {timeout} s")
    if failures:
        raise failures[0]
    try:
        yield running[0]
    finally:
        if not ended.is_set():
            running[0].stop()
        if not ended.wait(timeout):
            raise WorkerError(f"the worker did not stop within {timeout} s; a task still runs")
    if failures:
        raise failures[0]
