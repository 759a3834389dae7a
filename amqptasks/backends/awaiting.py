"""Waiting for states in a coroutine: the event loop is woken by whoever receives them, in whatever thread.

`Watch` is one wait, as a thread or as a coroutine has it; `aside` is for stores that can only block. Knows states.
"""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Generic, TypeVar

from amqptasks import states
from amqptasks.backends.base import Backend, Meta
from amqptasks.backends.watching import Watcher
from amqptasks.errors import StoreTimeout, StoreUnavailable, TimeoutError
from amqptasks.ids import process

T = TypeVar("T")

SLICE = 1.0
"""Seconds after which a thread that waits in a store looks whether anybody still wants to know."""


THREADS = 64
"""Waits in stores, or looks at databases, at one time; what is more takes turns. A group is one, however large."""


class LoopLatch:
    """What wakes a coroutine from any thread: many calls of `set` cost one wake-up. Made on its loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._set = False

    def set(self) -> None:
        if not self._set:
            self._set = True
            try:
                self._loop.call_soon_threadsafe(self._event.set)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

    def clear(self) -> None:
        self._event.clear()
        self._set = False

    async def wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except builtins.TimeoutError:
            pass


class LoopWatcher(Watcher[T]):
    """A watcher that a coroutine waits for."""

    __slots__ = ("own",)

    def __init__(self) -> None:
        super().__init__()
        self.own = LoopLatch()
        self.latch = self.own

    async def woken(self, seconds: float | None) -> None:
        """As `wait`."""
        await self.own.wait(seconds)
        self.own.clear()


class Watch(Generic[T]):
    """One wait for `left`, until each of them is ready.

    `read` makes a state of what arrived; `patience` says how many seconds may be waited now, and raises when that is
    over.
    """

    def __init__(
        self,
        watcher: Watcher[T],
        left: set[str],
        read: Callable[[T], Meta],
        patience: Callable[[set[str]], float | None],
    ) -> None:
        self._watcher = watcher
        self._left = left
        self._read = read
        self._patience = patience

    def _arrived(self) -> Iterator[Meta]:
        arrived = self._watcher.arrived
        while arrived:
            meta = self._read(arrived.popleft())
            if meta.ready:
                self._left.discard(meta.task_id)
            yield meta

    def blocking(self) -> Iterator[Meta]:
        while self._left:
            yield from self._arrived()
            if self._left:
                self._watcher.wait(self._patience(self._left))

    async def awaited(self) -> AsyncIterator[Meta]:
        watcher = self._watcher
        assert isinstance(watcher, LoopWatcher)
        while self._left:
            for meta in self._arrived():
                yield meta
            if self._left:
                await watcher.woken(self._patience(self._left))


@lru_cache(maxsize=1)
def threads(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process that wait in stores: not the loop's own, which others need."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix="amqptasks results")


async def aside(
    watch: Callable[[Sequence[str], float | None], Iterator[Meta]],
    task_ids: Sequence[str],
    timeout: float | None,
    patience: float,
) -> AsyncIterator[Meta]:
    """Yield what a blocking `watch` yields, run in threads, a slice at a time: a cancelled wait ends its thread.

    Raises as it does: StoreUnavailable, too, when no slice of `patience` seconds had an answer.
    """
    loop, left = asyncio.get_running_loop(), dict.fromkeys(task_ids)
    deadline = None if timeout is None else time.monotonic() + timeout
    arrived: asyncio.Queue[Meta | None] = asyncio.Queue()

    def slice_of(seconds: float) -> None:
        try:
            for meta in watch(list(left), seconds):
                loop.call_soon_threadsafe(arrived.put_nowait, meta)
        finally:
            loop.call_soon_threadsafe(arrived.put_nowait, None)

    seen: dict[str, Meta] = {}
    silent: float | None = None
    while left:
        began = time.monotonic()
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        last = remaining is not None and remaining <= SLICE
        seconds = SLICE if remaining is None else min(SLICE, remaining)
        thread = loop.run_in_executor(threads(process()), slice_of, seconds)
        thread.add_done_callback(_retrieved)
        while (meta := await arrived.get()) is not None:
            if meta.ready:
                left.pop(meta.task_id, None)
            elif seen.get(meta.task_id) == meta:
                continue  # told in the slice before
            seen[meta.task_id] = meta
            yield meta
        try:
            await thread
        except StoreTimeout as error:
            silent = began if silent is None else silent
            if last:
                raise
            if time.monotonic() - silent >= patience:
                raise _unavailable(error, time.monotonic() - silent) from error
        except TimeoutError:
            silent = None
            if last and left:  # what the slice says is told of the slice's own seconds
                known = seen.get(min(left))
                raise TimeoutError(late(left, known.status if known else states.PENDING, timeout)) from None


def late(left: Collection[str], state: str, timeout: float | None) -> str:
    """Say that a wait came to its end; `state` is the last known one of the first that is left."""
    first, others = min(left), f" and {len(left) - 1} more" if len(left) > 1 else ""
    return (
        f"no result of {first}{others} within {timeout:g} s; its last known state is {state}; the task may "
        "still finish"
    )


def _retrieved(thread: asyncio.Future[None]) -> None:
    """A cancelled wait does not hear how its thread ended, which is not an error of the loop."""
    if not thread.cancelled():
        thread.exception()


def _unavailable(error: StoreTimeout, seconds: float) -> StoreUnavailable:
    return StoreUnavailable(
        f"{error}; tried for {seconds:.1f} s (`result_store_timeout`); see that it runs and that this machine "
        "reaches it"
    )


def awatch(backend: Backend, task_ids: Sequence[str], timeout: float | None) -> AsyncIterator[Meta]:
    """As `Backend.watch`, awaited: by the backend itself where it can, else aside."""
    own: Callable[[Sequence[str], float | None], AsyncIterator[Meta]] | None = getattr(
        backend, "awatch", None
    )
    if own is not None:
        return own(task_ids, timeout)
    return aside(backend.watch, task_ids, timeout, backend.patience)
