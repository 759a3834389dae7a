"""The child of the asyncio pool: one loop, a coroutine for each run, threads for what is not `async def`.

Takes no more runs from its socket than it may run at a time; the rest the parent can take back. Knows nothing of
tasks.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from amqptasks.amqp import Parcel
from amqptasks.errors import SoftTimeLimitExceeded
from amqptasks.worker.awaiting import Guard
from amqptasks.worker.outcome import Cause, Outcome, Run
from amqptasks.worker.pools import ends, orders, wire
from amqptasks.worker.pools.base import Executor
from amqptasks.worker.pools.control import ChildSettings
from amqptasks.worker.pools.outbox import Outbox
from amqptasks.worker.pools.signal_actions import dump_coroutines_too

logger = logging.getLogger(__name__)

THREADS = 32
"""Tasks that are not `async def` and run at the same time, at most; the others of them wait."""

SAYING = 60.0
"""Seconds that a thread waits for the loop to say that its task begins; a coroutine that never yields holds it up."""

PATIENCE = 2.0
"""Seconds that a coroutine has to end once it is cancelled; then it is reported without it."""


def serve_coroutines(sock: ends.End, told: ends.End, executor: Executor, settings: ChildSettings) -> None:
    """Until the parent closes its side of `sock` and all that was taken has ended. `told` brings orders."""
    runner = asyncio.Runner(loop_factory=_loop_factory())
    child = Coroutines(sock, told, executor, settings)
    try:
        runner.run(child.serve())
    except SystemExit:
        child.flush()
        raise
    if child.is_quiet:
        runner.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return asyncio.new_event_loop
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


class Stopped(BaseException):
    """The run was ended from outside; whatever its body still said does not count."""


class Stage:
    """One run on the child's loop."""

    def __init__(self, child: Coroutines, run: Run) -> None:
        self.run = run
        self.sentence: tuple[Cause, str] | None = None
        """Why it was ended from outside."""
        self.given_up = False
        """It was reported already, since it did not end when cancelled."""
        self._child = child
        self._loop = child.loop
        self._guard: Guard | None = None
        self._threaded = False
        self._timers: list[asyncio.TimerHandle] = []

    def started(self, parcels: Sequence[Parcel], /) -> None:
        """Say that the body begins. In a thread it waits until that is said: what follows may end the process."""
        message = wire.encode_started(self.run.key, parcels, time.monotonic())
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            said = threading.Event()
            self._loop.call_soon_threadsafe(self._child.put, message, said.set)
            said.wait(SAYING)
        else:
            self._child.put(message)

    async def watch(self, body: Guard) -> Any:
        self._guard = body
        if self.run.soft is not None:
            self._later(self.run.soft, body.interrupt, SoftTimeLimitExceeded(self.run.soft))
        if self.run.hard is not None:
            self._later(self.run.hard, self.stop, Cause.TIMEOUT, f"{self.run.hard:g}")
        try:
            value = await body
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            self._check()
            raise
        finally:
            self._guard = None
            for timer in self._timers:
                timer.cancel()
        self._check()
        return value

    async def thread(self, function: Callable[[], Outcome]) -> Outcome:
        if self.run.soft is not None or self.run.hard is not None:
            self._child.warn_of_limits()
        self._threaded = True
        context = contextvars.copy_context()
        return await self._loop.run_in_executor(self._child.threads, context.run, function)

    def stack(self) -> str:
        """Where its body waits; empty when there is none on the loop."""
        return "" if self._guard is None else self._guard.stack()

    def stop(self, cause: Cause, reason: str) -> None:
        """End the body, by cancellation; one that goes on nevertheless is given up after `PATIENCE`."""
        if self.sentence is not None:
            return
        if self._guard is None:
            if self._threaded:
                logger.warning("a task that runs in a thread cannot be ended (%s); it goes on", reason)
            return
        self.sentence = cause, reason
        self._guard.cancel()
        self._later(PATIENCE, self._child.give_up, self)

    def _check(self) -> None:
        if self.sentence is not None:
            raise Stopped

    def _later(self, seconds: float, function: Callable[..., None], *arguments: Any) -> None:
        self._timers.append(self._loop.call_later(seconds, function, *arguments))


class Coroutines:
    """Serves one socket with coroutines. Everything but `Stage.started` happens in the loop's thread."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, sock: ends.End, told: ends.End, executor: Executor, settings: ChildSettings) -> None:
        self._sock = sock
        self._told = told
        self._executor = executor
        self._room = settings.threads
        self.threads = ThreadPoolExecutor(THREADS, f"child-{settings.number}")
        self.is_quiet = False
        """Whether nothing is left on the loop."""
        self._stages: dict[int, Stage] = {}
        self._living: set[asyncio.Task[None]] = set()
        self._outbox: Outbox
        self._large: bytearray | None = None
        self._expected = 0
        self._reading = self._closing = self._warned = False
        self._over: asyncio.Future[None]
        self._context = contextvars.copy_context()

    async def serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._over = self.loop.create_future()
        self._outbox = Outbox(self.loop, self._sock, emptied=self._end_if_done)
        self._told.settimeout(0)
        self.loop.add_reader(self._told.fileno(), self._obey)
        dump_coroutines_too(self.loop, self._dump)
        self._take()
        await self._over
        self.threads.shutdown()
        await self._wind_up()

    # --- runs in -----------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Begin what lies in the socket, as far as there is room."""
        while not self._closing and len(self._stages) < self._room:
            try:
                data = self._sock.recv(wire.LIMIT)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                self._closing = True
            elif (message := self._whole(data)) is not None:
                self._begin(wire.decode_run(message))
        reading = not self._closing and len(self._stages) < self._room
        if reading and not self._reading:
            self.loop.add_reader(self._sock.fileno(), self._take)
        elif self._reading and not reading:
            self.loop.remove_reader(self._sock.fileno())
        self._reading = reading
        self._end_if_done()

    def _whole(self, data: bytes) -> bytes | None:
        """The message that is complete with `data`, if one is."""
        if self._large is None:
            if data[0] != wire.ANNOUNCED:
                return data
            self._large, self._expected = bytearray(), wire.announced_size(data)
            return None
        self._large += data
        if len(self._large) < self._expected:
            return None
        message, self._large = bytes(self._large), None
        return message

    def _begin(self, run: Run) -> None:
        stage = self._stages[run.key] = Stage(self, run)
        # Of its own: this may be called where another run has just ended.
        living = self.loop.create_task(self._live(stage), context=self._context.copy())
        self._living.add(living)
        living.add_done_callback(self._living.discard)

    async def _live(self, stage: Stage) -> None:
        try:
            outcome = await self._outcome(stage)
        except Stopped:
            if stage.given_up:
                return
            assert stage.sentence is not None
            outcome = orders.stopped(*stage.sentence)
        except GeneratorExit as error:
            # It is the task's own if the loop runs: then nobody closes its coroutines.
            if self.loop.is_running():
                self._begin(replace(stage.run, cause=Cause.LOST, detail=repr(error)))
            return
        del self._stages[stage.run.key]
        self.put(wire.encode_finished(stage.run.key, outcome, time.monotonic()))
        self._take()

    async def _outcome(self, stage: Stage) -> Outcome:
        try:
            return await self._executor.arun(stage.run, stage)
        except (SystemExit, KeyboardInterrupt, GeneratorExit, Stopped):
            raise
        except BaseException as error:
            logger.exception("the executor failed")
            again = replace(stage.run, cause=Cause.LOST, detail=repr(error))
            return await self._executor.arun(again, stage)

    def give_up(self, stage: Stage) -> None:
        """Report a coroutine that goes on although it was cancelled; it has until the child ends."""
        if not self.has(stage) or stage.sentence is None:
            return
        cause, reason = stage.sentence
        logger.error(
            "a coroutine goes on %g s after it was cancelled (%s: %s); it is reported as ended and left alone",
            PATIENCE,
            cause.name.lower(),
            reason,
        )
        stage.given_up = True
        del self._stages[stage.run.key]
        self.put(wire.encode_finished(stage.run.key, orders.stopped(cause, reason), time.monotonic()))
        self._take()

    def has(self, stage: Stage) -> bool:
        """Whether it is not over yet."""
        return self._stages.get(stage.run.key) is stage

    def warn_of_limits(self) -> None:
        """Once in a child's life: what runs in a thread cannot be interrupted."""
        if not self._warned:
            self._warned = True
            logger.warning(
                "time limits are not kept for tasks that are not `async def` in the asyncio pool: a thread cannot be "
                "stopped; make them coroutines, or run them in a prefork worker"
            )

    # --- orders in, reports out --------------------------------------------------------------------------

    def _obey(self) -> None:
        try:
            data = self._told.recv(wire.LIMIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.loop.remove_reader(self._told.fileno())
            return
        kind, number, cause, reason = orders.decode(data)
        if kind == orders.ROOM:
            self._room = number
            self._take()
        elif (stage := self._stages.get(number)) is not None:
            stage.stop(cause, reason)

    def put(self, message: bytes, done: Callable[[], None] | None = None) -> None:
        """Send a report, now if the socket takes it; never blocks."""
        self._put(message)
        if done is not None:
            done()

    def _put(self, message: bytes) -> None:
        if len(message) <= wire.LIMIT:
            self._outbox.put(message)
        else:
            self._outbox.extend(wire.pieces(message, wire.PIECES))

    def flush(self) -> None:
        """Send what is left; blocks. The loop runs no more."""
        self._outbox.flush()

    def _dump(self) -> None:
        """Write where the coroutines wait to stderr; those that wait at one place together."""
        together: dict[str, list[int]] = {}
        for key, stage in self._stages.items():
            if stack := stage.stack():
                together.setdefault(stack, []).append(key)
        for stack, keys in together.items():
            sys.stderr.write(f"--- coroutines of runs {', '.join(map(str, keys))}\n{stack}")
        sys.stderr.flush()

    # --- the end -----------------------------------------------------------------------------------------

    def _end_if_done(self) -> None:
        if self._closing and not self._stages and not self._outbox.blocked and not self._over.done():
            self._over.set_result(None)

    async def _wind_up(self) -> None:
        """Cancel what tasks left on the loop, and wait for that for a while."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=PATIENCE)
        self.is_quiet = not left
        self.loop.remove_reader(self._told.fileno())
