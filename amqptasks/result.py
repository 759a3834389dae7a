"""What a call returns: `AsyncResult` and `GroupResult`. They read states from a backend.

Knows backends; knows nothing of apps, tasks or brokers. Results may be shared between threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

from amqptasks.backends.base import Backend, Meta
from amqptasks.errors import ResultIgnored
from amqptasks.reading import Reading
from amqptasks.waiting import HasBackend, as_mapping, home, prepare_to_wait, value_of

R = TypeVar("R")
ResultTuple = tuple[tuple[str, Any], Any]
OnMessage = Callable[[dict[str, Any]], Any]


class AsyncResult(Reading, Generic[R]):
    """The client's handle on one call. Equal to every other handle on the same id."""

    __slots__ = ("__weakref__", "_backend", "_meta", "app", "claim", "ignored", "parent")

    def __init__(
        self,
        id: str,
        backend: Backend | None = None,
        task_name: str | None = None,
        app: HasBackend | None = None,
        parent: AsyncResult[Any] | GroupResult | None = None,
        *,
        ignored: bool = False,
        claim: object = None,
    ) -> None:
        self.id = id
        self.app = app
        self.task_name = task_name
        self.parent = parent
        self.ignored = ignored
        self._backend = backend
        self.claim = claim
        self._meta: Meta | None = None

    @property
    def backend(self) -> Backend:
        if self._backend is None:
            self._backend = (self.app or home.find()).backend
        return self._backend

    @property
    def task_id(self) -> str:
        return self.id

    def get(  # noqa: PLR0917 (Celery's signature)
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: OnMessage | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait for the task, at most `timeout` seconds, and return its value or raise what it raised.

        `propagate=False` returns the exception instead. `on_message` is called with each state as it arrives,
        `callback(id, value)` at the end. `interval`, `no_ack`, `follow_parents` and `on_interval` are
        accepted for Celery's callers: nothing polls here. Raises errors.TimeoutError, ResultIgnored,
        NoBackend, ResultElsewhere, ResultLost, and WouldDeadlock inside a task.
        """
        meta = self._final(timeout, on_message, disable_sync_subtasks)
        value = value_of(meta, propagate)
        if callback is not None:
            callback(self.id, value)
        return cast(R, value)

    wait = get

    def _final(
        self, timeout: float | None, on_message: OnMessage | None, disable_sync_subtasks: bool
    ) -> Meta:
        if self._meta is not None:
            return self._meta
        if self.ignored:
            raise ResultIgnored(
                f"task {self.task_name or ''}[{self.id}] was called with ignore_result, so it sends no "
                "result; "
                "call it with ignore_result=False to wait for it"
            )
        prepare_to_wait(disable_sync_subtasks)
        for meta in self.backend.watch([self.id], timeout):
            if on_message is not None:
                on_message(as_mapping(meta))
            self.remember(meta)
        final = self.remembered
        assert final is not None, "watch() ends once every task is ready"
        return final

    def remember(self, meta: Meta) -> None:
        """Keep a final state, so that it is read from the backend once."""
        if meta.ready:
            self._meta = meta

    @property
    def remembered(self) -> Meta | None:
        """The final state, if it has been read already."""
        return self._meta

    def _newest(self) -> Meta | None:
        if self._meta is None and not self.ignored:
            meta = self.backend.fetch(self.id)
            if meta is None or not meta.ready:
                return meta
            self._meta = meta
        return self._meta

    @property
    def children(self) -> list[AsyncResult[Any] | GroupResult]:
        """Results of the calls that the task made itself, as far as they are known."""
        meta = self._newest()
        found = [] if meta is None else [result_from_tuple(child, self.app) for child in meta.children]
        return [child for child in found if child is not None]

    def forget(self) -> None:
        """Drop what this process keeps of the result."""
        self._meta = None
        self.claim = None
        self.backend.forget(self.id)

    def as_tuple(self) -> ResultTuple:
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), None

    def as_list(self) -> list[str]:
        """Return the ids of this result and of those it hangs on."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else [])]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, None, self.task_name, None, self.parent)

    def __eq__(self, other: object) -> bool:
        return self.id == (other.id if isinstance(other, AsyncResult) else other)

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"


class GroupResult:
    """The results of calls that belong together, in their order. Gathered in one pass, however many they
    are.
    """

    __slots__ = ("app", "id", "parent", "results")

    def __init__(
        self,
        id: str,
        results: Sequence[AsyncResult[Any] | GroupResult] = (),
        parent: AsyncResult[Any] | GroupResult | None = None,
        app: HasBackend | None = None,
    ) -> None:
        self.id = id
        self.results: list[Any] = list(results)
        self.parent = parent
        self.app = app

    @property
    def children(self) -> list[Any]:
        return self.results

    def leaves(self) -> Iterator[AsyncResult[Any]]:
        """Yield the results of calls, also of those in groups that belong to this one."""
        for result in self.results:
            if isinstance(result, GroupResult):
                yield from result.leaves()
            else:
                yield result

    def get(  # noqa: PLR0917 (Celery's signature)
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any]:
        """Wait for all, at most `timeout` seconds together, and return their values in order.

        With `propagate` the first failure that arrives is raised at once. Raises what `AsyncResult.get`
        raises.
        """
        self._gather(timeout, propagate, on_message, disable_sync_subtasks)
        values = [result.get(propagate=propagate) for result in self.results]
        if callback is not None:
            for result in self.leaves():
                callback(result.id, result.get(propagate=propagate))
        return values

    join = get
    join_native = get

    def _gather(
        self,
        timeout: float | None,
        propagate: bool,
        on_message: OnMessage | None,
        disable_sync_subtasks: bool,
    ) -> None:
        for result, meta in self._arriving(timeout, disable_sync_subtasks=disable_sync_subtasks):
            if on_message is not None:
                on_message(as_mapping(meta))
            result.remember(meta)
            value_of(meta, propagate)

    def _arriving(
        self, timeout: float | None, *, disable_sync_subtasks: bool
    ) -> Iterator[tuple[AsyncResult[Any], Meta]]:
        deadline = None if timeout is None else time.monotonic() + timeout
        prepare_to_wait(disable_sync_subtasks)
        waiting: dict[Backend, dict[str, AsyncResult[Any]]] = {}
        for result in self.leaves():
            meta = result.remembered
            if meta is not None:
                yield result, meta
            elif result.ignored:
                raise ResultIgnored(
                    f"{result.id} in group {self.id} was called with ignore_result: it sends no result"
                )
            else:
                waiting.setdefault(result.backend, {})[result.id] = result
        for backend, by_id in waiting.items():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            for meta in backend.watch(list(by_id), left):
                yield by_id[meta.task_id], meta

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: OnMessage | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (id, state mapping) of each member as it ends, in the order of arrival."""
        for result, meta in self._arriving(timeout, disable_sync_subtasks=True):
            if on_message is not None:
                on_message(as_mapping(meta))
            result.remember(meta)
            if meta.ready:
                yield result.id, as_mapping(meta)

    def completed_count(self) -> int:
        """Return how many have succeeded, as far as is known here."""
        return sum(result.successful() for result in self.results)

    def ready(self) -> bool:
        return all(result.ready() for result in self.results)

    def successful(self) -> bool:
        return all(result.successful() for result in self.results)

    def failed(self) -> bool:
        return any(result.failed() for result in self.results)

    def waiting(self) -> bool:
        """Is any member not ready?"""
        return not self.ready()

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> None:
        for result in self.results:
            result.maybe_throw(propagate, callback)

    def forget(self) -> None:
        for result in self.results:
            result.forget()

    def as_tuple(self) -> ResultTuple:
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), [
            result.as_tuple() for result in self.results
        ]

    def as_list(self) -> list[str]:
        return [self.id, *(self.parent.as_list() if self.parent is not None else [])]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: int) -> Any:
        return self.results[index]

    def __bool__(self) -> bool:
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, self.results, self.parent)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and self.id == other.id and self.results == other.results

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(result.id for result in self.results)}]>"


def result_from_tuple(value: Any, app: HasBackend | None = None) -> AsyncResult[Any] | GroupResult | None:
    """Rebuild what `as_tuple` wrote (nested lists, after JSON); None for None."""
    if value is None:
        return None
    (id, parent), members = value
    above = result_from_tuple(parent, app)
    if members is None:
        return AsyncResult(id, app=app, parent=above)
    found = [result_from_tuple(member, app) for member in members]
    return GroupResult(id, [member for member in found if member is not None], above, app)
