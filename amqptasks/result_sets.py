"""Results of several calls together: gathered in one pass, however many they are.

Knows states and how to wait for them; what a single result is, it knows by what it asks of one.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from amqptasks import states
from amqptasks.backends.awaiting import awatch
from amqptasks.backends.base import Backend, Meta
from amqptasks.errors import ResultIgnored
from amqptasks.waiting import (
    HasBackend,
    aprepare_to_wait,
    as_mapping,
    later,
    prepare_to_wait,
    revoke_ids,
    value_of,
)

if TYPE_CHECKING:
    from amqptasks.result import AsyncResult

OnMessage = Callable[[dict[str, Any]], Any]


class ResultSet:
    """Results in their order: of calls, and of other sets. Waiting takes one pass; nothing is asked one by one."""

    __slots__ = ("app", "results")

    def __init__(self, results: Iterable[Any] = (), app: HasBackend | None = None) -> None:
        self.results: list[Any] = list(results)
        self.app = app

    # --- members ------------------------------------------------------------------------------------------

    @property
    def children(self) -> list[Any]:
        return self.results

    def leaves(self) -> Iterator[AsyncResult[Any]]:
        """Yield the results of calls, also of those in sets that belong to this one."""
        for result in self.results:
            if isinstance(result, ResultSet):
                yield from result.leaves()
            else:
                yield result

    def add(self, result: Any) -> None:
        """Add a result, unless it is there."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Remove a result, or that of an id. Raises KeyError if it is not there."""
        if result not in self.results:
            raise KeyError(result)
        self.results.remove(result)

    def discard(self, result: Any) -> None:
        """Remove a result, or that of an id, if it is there."""
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add those results that are not there."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        self.results.clear()

    # --- waiting ------------------------------------------------------------------------------------------

    def get(  # noqa: PLR0917 (Celery's signature)
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """Wait for all, at most `timeout` seconds together, and return their values in order.

        `on_message(state)` is called with each state and `callback(id, value)` with each value, as they arrive. With
        `propagate` the first failure that arrives is raised at once. Raises what `AsyncResult.get` raises.
        """
        for result, meta in self._arriving(timeout, disable_sync_subtasks=disable_sync_subtasks):
            if on_message is not None:
                on_message(as_mapping(meta))
            result.remember(meta)
            value = value_of(meta, propagate)
            if callback is not None and meta.ready:
                callback(result.id, value)
        return self._values(propagate)

    join = get
    join_native = get

    def _values(self, propagate: bool) -> list[Any]:
        """Return the values in order, once all are known: nothing is waited for, so it may be anywhere."""
        return [result.get(propagate=propagate, disable_sync_subtasks=False) for result in self.results]

    def _arriving(
        self, timeout: float | None, *, disable_sync_subtasks: bool
    ) -> Iterator[tuple[AsyncResult[Any], Meta]]:
        deadline = None if timeout is None else time.monotonic() + timeout
        prepare_to_wait(disable_sync_subtasks)
        known, waiting = self._known()
        yield from known
        for backend, by_id in waiting.items():
            for meta in backend.watch(list(by_id), _left(deadline)):
                yield by_id[meta.task_id], meta

    async def _aarriving(
        self, timeout: float | None, *, disable_sync_subtasks: bool
    ) -> AsyncIterator[tuple[AsyncResult[Any], Meta]]:
        deadline = None if timeout is None else time.monotonic() + timeout
        await aprepare_to_wait(disable_sync_subtasks)
        known, waiting = self._known()
        for each in known:
            yield each
        for backend, by_id in waiting.items():
            async for meta in awatch(backend, list(by_id), _left(deadline)):
                yield by_id[meta.task_id], meta

    def _known(
        self,
    ) -> tuple[list[tuple[AsyncResult[Any], Meta]], dict[Backend, dict[str, AsyncResult[Any]]]]:
        """Return the calls whose end is known, and by their backends those that are waited for."""
        known: list[tuple[AsyncResult[Any], Meta]] = []
        waiting: dict[Backend, dict[str, AsyncResult[Any]]] = {}
        for result in self.leaves():
            meta = result.remembered
            if meta is not None:
                known.append((result, meta))
            elif result.ignored:
                raise ResultIgnored(
                    f"{result.id} in {self._called()} was called with ignore_result: it sends no result"
                )
            else:
                waiting.setdefault(result.backend, {})[result.id] = result
        return known, waiting

    def _called(self) -> str:
        return f"a set of {len(self.results)} results"

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (id, state mapping) of each member as it ends, in the order of arrival."""
        for result, meta in self._arriving(timeout, disable_sync_subtasks=True):
            if on_message is not None:
                on_message(as_mapping(meta))
            result.remember(meta)
            if meta.ready:
                yield result.id, as_mapping(meta)

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any]:
        """As `get`, awaited."""
        async for result, meta in self._aarriving(timeout, disable_sync_subtasks=disable_sync_subtasks):
            if on_message is not None:
                on_message(as_mapping(meta))
            result.remember(meta)
            value = value_of(meta, propagate)
            if callback is not None and meta.ready:
                callback(result.id, value)
        return self._values(propagate)

    async def as_completed(self, timeout: float | None = None) -> AsyncIterator[AsyncResult[Any]]:
        """Yield each call's result as it ends, in the order of arrival: `get()` of it returns, or raises, at once.

        `async for result in group_result` is the same without a timeout. Raises errors.TimeoutError when `timeout`
        seconds are over, and what `get` raises for results that cannot come.
        """
        async for result, meta in self._aarriving(timeout, disable_sync_subtasks=True):
            result.remember(meta)
            if meta.ready:
                yield result

    def __aiter__(self) -> AsyncIterator[AsyncResult[Any]]:
        return self.as_completed()

    def then(
        self, callback: Callable[[Any], Any], on_error: Callable[[Exception], Any] | None = None
    ) -> ResultSet:
        """Call `callback(self)` once all have ended, well or not; see `AsyncResult.then`."""
        return later(self, lambda: self.get(propagate=False), callback, on_error)

    # --- what is known ------------------------------------------------------------------------------------

    def _standing(self) -> list[str | None]:
        """Return the state of each call that has ended, None for the others; asks each backend once."""
        unknown: dict[Backend, dict[str, AsyncResult[Any]]] = {}
        for result in self.leaves():
            if result.remembered is None and not result.ignored:
                unknown.setdefault(result.backend, {})[result.id] = result
        for backend, by_id in unknown.items():
            for meta in backend.fetch_all(list(by_id)):
                by_id[meta.task_id].remember(meta)
        known = [result.remembered for result in self.leaves()]
        return [None if meta is None or not meta.ready else meta.status for meta in known]

    def completed_count(self) -> int:
        """Return how many members have succeeded, as far as is known here."""
        if any(isinstance(result, ResultSet) for result in self.results):
            return sum(result.successful() for result in self.results)
        return self._standing().count(states.SUCCESS)

    def ready(self) -> bool:
        """Have all ended, well or not? Does not wait."""
        return None not in self._standing()

    def successful(self) -> bool:
        return all(state == states.SUCCESS for state in self._standing())

    def failed(self) -> bool:
        """Has any failed?"""
        return states.FAILURE in self._standing()

    def waiting(self) -> bool:
        """Is any member not ready?"""
        return not self.ready()

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> None:
        """Raise the first failure that is known. Does not wait."""
        self._standing()
        for result in self.results:
            result.maybe_throw(propagate, callback)

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        """Drop what is kept of all."""
        for result in self.results:
            result.forget()

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float = 1.0,
    ) -> None:
        """Have no worker run these calls, by one message for all; see `AsyncResult.revoke`."""
        ids = [result.id for result in self.leaves()]
        if ids:
            app = self.app or next(self.leaves()).app
            revoke_ids(app, ids, terminate, signal, wait, timeout)

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: int) -> Any:
        return self.results[index]

    def __bool__(self) -> bool:
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.results,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResultSet) and self.results == other.results

    def __hash__(self) -> int:
        return hash(tuple(self.results))

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(str(result) for result in self.results)}]>"


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
