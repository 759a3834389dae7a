"""The worker's parent process, composed: what is opened is closed by its block, and start order is source order.

Never imports the app and never runs user code (the solo pool, for debugging and for `memory://`, is the exception
that its help names).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Literal, TextIO

from amqptasks.errors import NotRegistered
from amqptasks.pidbox import Clock
from amqptasks.transport.base import Connect
from amqptasks.transport.opening import configured
from amqptasks.worker import banner, stacks
from amqptasks.worker.autoscale import Autoscaler
from amqptasks.worker.commands import Remote
from amqptasks.worker.consumer import Consumers, Retrying
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.eventing import Events
from amqptasks.worker.logging import LogSetup, install, set_clock
from amqptasks.worker.notify import Notifier, supervised
from amqptasks.worker.options import WorkerOptions
from amqptasks.worker.outcome import LoadSpec, Manifest
from amqptasks.worker.overdue import Overdue
from amqptasks.worker.patience import Patience
from amqptasks.worker.pools.base import Pool
from amqptasks.worker.pools.hooks import saying
from amqptasks.worker.pools.opening import open_pool
from amqptasks.worker.prefetch import Prefetch
from amqptasks.worker.rates import per_second
from amqptasks.worker.shutdown import Phase, Shutdown, abandoned
from amqptasks.worker.station import Station
from amqptasks.worker.vitals import Vitals

logger = logging.getLogger(__name__)

WARM_EXIT, COLD_EXIT = 0, 1
ROLES = {"read": "consuming", "write": "publishing"}
LAST_CONFIRMS = 10.0
"""Seconds to wait for the confirms of what a stopping worker has published."""
BRIEFLY = 1.0
"""The same for events and answers, which nobody misses when the broker is away."""
OUTAGE = 30.0
"""Seconds that a stopping worker which has run everything waits for a broker that is away: most restarts take less."""


class Worker:
    """One node: a pool, a connection that consumes and one that publishes. Runs in one event loop.

    `out` gets the banner, and the process's log is set up then; None, for a worker inside another program, leaves
    both alone. `on_ready` is called once it consumes; a `notifier` hears of that too.
    """

    def __init__(
        self,
        options: WorkerOptions,
        pool: Pool,
        *,
        out: TextIO | None = None,
        on_ready: Callable[[], None] | None = None,
        notifier: Notifier | None = None,
    ) -> None:
        self.options = options
        self.pool = pool
        self.shutdown = Shutdown()
        self._out = out
        self._on_ready = on_ready
        self._vitals = Vitals(options.node, self.shutdown, notifier)

    async def run(self) -> int:
        """Work until told to stop; return the exit code. Raises what keeps a worker from starting."""
        self.dispatch = Dispatch(self.pool, self.options.node)
        async with (
            self._pool() as manifest,
            self._vitals.served(manifest, self.dispatch),
            self._publishing(manifest),
            self._consuming(manifest) as consuming,
        ):
            if await self._until_told(consuming):
                consuming.result()
            return await self._stop(manifest)

    def rate_limit(self, task: str, rate: str | float | None) -> None:
        """Start a task at most that often from now on: "10/s", "100/m", "1000/h", a number for a second; 0 or None
        lifts its limit. Until this worker ends, whatever the settings say. Call it in the worker's loop.

        Raises NotRegistered, ImproperlyConfigured.
        """
        tasks = self.dispatch.tasks
        if task not in tasks:
            raise NotRegistered(f"{task} is no task of this worker, so it cannot have a rate limit")
        self.dispatch.rates.change(task, per_second(rate))
        limited = replace(tasks[task], described={**tasks[task].described, "rate_limit": str(rate)})
        self.dispatch.tasks = {**tasks, task: limited}

    # --- what is opened, in this order -------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _pool(self) -> AsyncIterator[Manifest]:
        manifest = await self.pool.start(self.dispatch)
        try:
            self._autoscaler = Autoscaler.of(self.options.autoscale, manifest.settings, self.pool)
            if self._out is not None:
                self._announce(manifest, self._out)
            yield manifest
        finally:
            await self.pool.stop(0)

    @contextlib.asynccontextmanager
    async def _publishing(self, manifest: Manifest) -> AsyncIterator[None]:
        self.publisher = self._vitals.publisher(self._opener(manifest, "write"), on_room=self.dispatch.room)
        self.dispatch.begin(self.publisher, manifest)
        try:
            yield
        finally:
            await self.publisher.close(0)

    @contextlib.asynccontextmanager
    async def _consuming(self, manifest: Manifest) -> AsyncIterator[asyncio.Task[None]]:
        """Consume; the body gets the task that keeps it so, and watches the connection until the last ack."""
        self._patience = Patience.of(manifest)
        self.consumers = self._make_consumers(manifest)
        station = self._station(manifest)
        self._remote = Remote(station)
        self._vitals.equipped(station)
        consuming = asyncio.create_task(self._consume())
        try:
            yield consuming
        finally:
            consuming.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await consuming
            self._remote.close()
            await self.consumers.close()

    async def _consume(self) -> None:
        # Consuming comes first: its errors at start are the ones to show, and publishing waits with its own patience.
        await self.consumers.open()
        await self.publisher.start()
        self.events.go_online(heartbeats=self.options.heartbeats)
        if self.options.purge:
            logger.warning("purged %d messages", await self.consumers.purge())
        self._say_ready()
        if remark := self._patience.remark():
            logger.info("%s", remark)
        self.pool.hook("worker_ready")
        self._vitals.consuming()
        if self._on_ready is not None:
            self._on_ready()
        beside = [asyncio.create_task(self._give_back_overdue()), asyncio.create_task(self._autoscale())]
        try:
            await self.consumers.run()
        finally:
            for watching in beside:
                watching.cancel()

    async def _autoscale(self) -> None:
        if self._autoscaler is not None:
            await self._autoscaler.run()

    async def _give_back_overdue(self) -> None:
        if self._patience.timeout:
            await Overdue(self.dispatch, lambda: self.consumers.link, self._patience.timeout).run()

    # --- stopping ----------------------------------------------------------------------------------------

    async def _until_told(self, consuming: asyncio.Task[None]) -> bool:
        """Wait for the first signal; True when consuming ended before, which only an error can cause."""
        told = asyncio.create_task(self.shutdown.reached(Phase.WARM))
        try:
            await asyncio.wait({consuming, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
        return consuming.done()

    async def _stop(self, manifest: Manifest) -> int:
        """Warm first, colder when asked. Children stop before the connections: their last results still have to be
        published and acknowledged."""
        self.pool.hook("worker_shutting_down", saying(**self.shutdown.told))
        self.pool.hook("worker_shutdown")
        self._vitals.stopping()
        await self.consumers.stop_taking()
        self.dispatch.give_back()
        finishing = asyncio.create_task(self.dispatch.settled())
        colder = asyncio.create_task(self.shutdown.reached(Phase.COLD))
        alone = asyncio.create_task(self._left_alone())
        await asyncio.wait({finishing, colder, alone}, return_when=asyncio.FIRST_COMPLETED)
        code = WARM_EXIT if finishing.done() else COLD_EXIT
        given_up = alone.done() and not finishing.done()
        if not finishing.done() and not given_up:
            await self._end_what_runs(manifest, finishing)
        for waiting in (colder, finishing, alone):
            waiting.cancel()
        await self.pool.stop(manifest.settings["worker_proc_alive_timeout"])
        self.events.go_offline()
        await self.publisher.drain(BRIEFLY if given_up else LAST_CONFIRMS, BRIEFLY)
        return code

    async def _left_alone(self) -> None:
        """Return when there is no broker any more that could take what became of the runs, which have all ended."""
        publisher = self.publisher
        await abandoned(
            lambda: not self.pool.running,
            lambda: publisher.link is not None and not publisher.blocked,
            OUTAGE,
        )
        logger.error(
            "the broker has been away for %g seconds since the last task ended; the worker ends, and what became of "
            "%d tasks is not published: of these the late-acknowledged ones will run again",
            OUTAGE,
            self.dispatch.in_flight,
        )

    async def _end_what_runs(self, manifest: Manifest, finishing: asyncio.Task[None]) -> None:
        """Cold: a grace period, then the children that run tasks are killed; late-acknowledged tasks go back."""
        grace = manifest.settings["worker_soft_shutdown_timeout"]
        if grace > 0 and self.shutdown.phase is Phase.COLD:
            logger.warning("Initiating Soft Shutdown, terminating in %s seconds", grace)
            hurry = asyncio.create_task(self.shutdown.reached(Phase.NOW))
            await asyncio.wait({finishing, hurry}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        if not finishing.done():
            logger.warning("Waiting gracefully for cold shutdown to complete...")
            self.dispatch.abandon()
            await asyncio.wait({finishing}, timeout=LAST_CONFIRMS)

    # --- parts -------------------------------------------------------------------------------------------

    def _make_consumers(self, manifest: Manifest) -> Consumers:
        settings = manifest.settings
        multiplier = settings["worker_prefetch_multiplier"]
        fixed = None if multiplier == "auto" else int(multiplier)
        waits = settings["broker_connection_retry_on_startup"]
        return Consumers(
            self._opener(manifest, "read"),
            manifest.queues,
            self.dispatch,
            prefetch=lambda: Prefetch(
                self._autoscaler.most if self._autoscaler is not None else self.pool.size, fixed
            ),
            node=self.options.node,
            retrying=Retrying(
                startup=settings["broker_connection_retry"] if waits is None else waits,
                most=settings["broker_connection_max_retries"],
            ),
            patience=self._patience,
            # It is made of these consumers, so it comes after them.
            prepare=lambda link: self._remote.prepare(link),  # noqa: PLW0108
        )

    def _station(self, manifest: Manifest) -> Station:
        node, settings, clock = self.options.node, manifest.settings, Clock()
        self.events = Events(node, settings, self.publisher, self.dispatch, clock)
        if settings["worker_send_task_events"]:
            self.events.enable()
        return Station(
            node=node,
            manifest=manifest,
            pool=self.pool,
            dispatch=self.dispatch,
            consumers=self.consumers,
            publisher=self.publisher,
            shutdown=self.shutdown,
            events=self.events,
            clock=clock,
            rate_limit=self.rate_limit,
            autoscaler=self._autoscaler,
        )

    def _opener(self, manifest: Manifest, role: Literal["read", "write"]) -> Connect:
        return configured(manifest.settings, role, f"{self.options.node} {ROLES[role]}")

    def _announce(self, manifest: Manifest, out: TextIO) -> None:
        """Now that the app's settings are known, they count for the log too."""
        set_clock(manifest.clock)
        install(LogSetup.of(self.options, manifest.settings))
        if not self.options.quiet:
            print(banner.render(manifest, self.options, self.pool), file=out, flush=True)
        for warning in manifest.warnings:
            logger.warning("%s", warning)

    def _say_ready(self) -> None:
        line = banner.ready_line(self.options.node)
        logger.info("%s", line)
        if self._out is not None and not logger.isEnabledFor(logging.INFO):
            print(line, file=self._out, flush=True)

    def dump_stacks(self) -> None:
        """Write the running tasks, and the stacks of the parent and of its children, to stderr."""
        stacks.dump(self.pool, self.dispatch, asyncio.get_running_loop().time(), sys.stderr)


def run_worker(
    options: WorkerOptions, beside: contextlib.AbstractContextManager[object] | None = None
) -> int:
    """Run a worker in this process until it is told to stop; return its exit code. Blocks.

    `beside` is entered meanwhile; it is left before the worker starts again.

    Raises AppNotFound, AppImportFailed, ImproperlyConfigured, DuplicateNode, PoolFailed and the transport errors.
    """
    with beside or contextlib.nullcontext():
        code, again = asyncio.run(_work(options))
    if again:
        # SIGHUP: the same command anew, so that new code and settings count in parent and children alike.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 (no shell)
    return code


LOADER = "amqptasks.worker.boot:load"


def load_spec(options: WorkerOptions) -> LoadSpec:
    """What the process that imports the app is told."""
    return LoadSpec(
        LOADER,
        app=options.app,
        node=options.node,
        overrides=options.settings,
        pool=options.pool,
        concurrency=options.slots or None,
        options=options,
    )


async def _work(options: WorkerOptions) -> tuple[int, bool]:
    install(LogSetup.of(options))
    with supervised() as notifier:
        worker = Worker(options, await open_pool(load_spec(options)), out=sys.stdout, notifier=notifier)
        worker.shutdown.listen(worker.dump_stacks)
        return await worker.run(), worker.shutdown.restart
