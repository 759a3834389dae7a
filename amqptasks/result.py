"""What a call returns: `AsyncResult` and `GroupResult`. They read states from a backend.

Knows backends; knows nothing of apps, tasks or brokers. Results may be shared between threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast

from amqptasks import result_graph
from amqptasks.backends.awaiting import awatch
from amqptasks.backends.base import Backend, Meta
from amqptasks.errors import ResultIgnored
from amqptasks.reading import Reading
from amqptasks.result_sets import OnMessage, ResultSet
from amqptasks.waiting import (
    HasBackend,
    aprepare_to_wait,
    as_mapping,
    home,
    later,
    prepare_to_wait,
    revoke_ids,
    revoke_stamped,
    value_of,
)

__all__ = ["AsyncResult", "GroupResult", "OnMessage", "ResultSet", "ResultTuple", "result_from_tuple"]

R = TypeVar("R")
ResultTuple = tuple[tuple[str, Any], Any]


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

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: OnMessage | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """As `get`, awaited, for calls of `delay` and of `adelay` alike; cancelling it forgets nothing."""
        if self._meta is None:
            self._refuse_ignored()
            await aprepare_to_wait(disable_sync_subtasks)
            async for meta in awatch(self.backend, [self.id], timeout):
                if on_message is not None:
                    on_message(as_mapping(meta))
                self.remember(meta)
        return self.get(propagate=propagate, callback=callback)

    def _final(
        self, timeout: float | None, on_message: OnMessage | None, disable_sync_subtasks: bool
    ) -> Meta:
        if self._meta is not None:
            return self._meta
        self._refuse_ignored()
        prepare_to_wait(disable_sync_subtasks)
        for meta in self.backend.watch([self.id], timeout):
            if on_message is not None:
                on_message(as_mapping(meta))
            self.remember(meta)
        final = self.remembered
        assert final is not None, "watch() ends once every task is ready"
        return final

    def _refuse_ignored(self) -> None:
        if self.ignored:
            raise ResultIgnored(
                f"task {self.task_name or ''}[{self.id}] was called with ignore_result, so it sends no "
                "result; "
                "call it with ignore_result=False to wait for it"
            )

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

    def exists(self) -> bool:
        """Is any state known here? Tells a call that waits from an id that nobody called, where states are stored."""
        return self._newest() is not None

    def then(
        self, callback: Callable[[Any], Any], on_error: Callable[[Exception], Any] | None = None
    ) -> AsyncResult[R]:
        """Call `callback(self)` once the call has ended, well or not; return self.

        At once if it has ended already, else in a thread that waits for it. `on_error(error)` is called with what the
        waiting or the callback raises; without it, that is logged.
        """
        return later(self, lambda: self.get(propagate=False), callback, on_error)

    # --- what it called -----------------------------------------------------------------------------------

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield (parent, result) of this call and of all that hang on it, the nearest first. Does not wait.

        Raises ResultError at one that has not ended, unless `intermediate`.
        """
        return result_graph.walk(self, intermediate)

    def collect(self, intermediate: bool = False, **options: Any) -> Iterator[tuple[Any, Any]]:
        """Yield (result, value) of this call and of all that hang on it; waits for each as `get(**options)` does."""
        return result_graph.collect(self, intermediate, options)

    def get_leaf(self) -> Any:
        """Return the value of the last one that hangs on this call. Raises ResultError if one has not ended."""
        value = None
        for _, result in self.iterdeps():
            value = result.get()
        return value

    def build_graph(self, intermediate: bool = False) -> dict[Any, list[Any]]:
        """Return this result and all that hang on it, each with those that it called."""
        return result_graph.graph(self, intermediate)

    @property
    def graph(self) -> dict[Any, list[Any]]:
        return self.build_graph()

    def forget(self) -> None:
        """Drop what is kept of this result, and of those it hangs on."""
        self._meta = None
        self.claim = None
        if self.parent is not None:
            self.parent.forget()
        self.backend.forget(self.id)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float = 1.0,
    ) -> None:
        """Have no worker run this call; with `terminate` kill the process that runs it. `wait`: for the replies."""
        revoke_ids(self.app, self.id, terminate, signal, wait, timeout)

    def revoke_by_stamped_headers(  # noqa: PLR0917 (Celery's signature)
        self,
        headers: Mapping[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float = 1.0,
    ) -> None:
        """Have no worker run the calls that bear one of these stamps, this one or any other; see `revoke`."""
        revoke_stamped(self.app, headers, terminate, signal, wait, timeout)

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


class GroupResult(ResultSet):
    """The results of calls that belong together, under an id of their own."""

    __slots__ = ("id", "parent")

    def __init__(
        self,
        id: str,
        results: Iterable[AsyncResult[Any] | GroupResult] = (),
        parent: AsyncResult[Any] | GroupResult | None = None,
        app: HasBackend | None = None,
    ) -> None:
        super().__init__(results, app)
        self.id = id
        self.parent = parent

    def _called(self) -> str:
        return f"group {self.id}"

    def save(self, backend: Backend | None = None) -> None:
        """Keep in the backend which results belong to this id, for `restore` in another process.

        Raises ImproperlyConfigured where the backend stores nothing (rpc), StoreUnavailable.
        """
        (backend or (self.app or home.find()).backend).save_group(self.id, self.as_tuple())

    def delete(self, backend: Backend | None = None) -> None:
        """Drop what `save` kept; the results themselves stay."""
        (backend or (self.app or home.find()).backend).forget_group(self.id)

    @classmethod
    def restore(
        cls, id: str, backend: Backend | None = None, app: HasBackend | None = None
    ) -> GroupResult | None:
        """Return the group that was saved under this id; None if there is none (any more)."""
        members = (backend or (app or home.find()).backend).restore_group(id)
        found = result_from_tuple(members, app)
        return found if isinstance(found, GroupResult) else None

    def as_tuple(self) -> ResultTuple:
        return (self.id, self.parent.as_tuple() if self.parent is not None else None), [
            result.as_tuple() for result in self.results
        ]

    def as_list(self) -> list[str]:
        return [self.id, *(self.parent.as_list() if self.parent is not None else [])]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, self.results, self.parent)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and self.id == other.id and self.results == other.results

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

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
