"""The result-backend contract, and `Meta`: a task's state as it is stored or sent.

A backend stores states by task id and hands them out as they arrive. Knows nothing of tasks, apps or workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

from amqptasks import states
from amqptasks.amqp import Envelope
from amqptasks.errors import ImproperlyConfigured
from amqptasks.masking import mask_url
from amqptasks.values import quick

Publish = Callable[[Envelope], None]
"""Takes a message that must leave before the task is settled: it becomes part of the run's Outcome."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """One state of one task. `result` is the plain value, an exception object, or a state's own mapping."""

    task_id: str
    status: str
    result: Any = None
    traceback: str | None = None
    children: Sequence[Any] = ()
    date_done: str | None = None
    group_id: str | None = None
    parent_id: str | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    extended: Mapping[str, Any] = field(default_factory=dict)
    """With `result_extended`: name, args, kwargs, worker, retries, queue."""

    @property
    def ready(self) -> bool:
        return self.status in states.READY_STATES


class Backend(ABC):
    """Where states go and come from. All methods are thread-safe; those that wait say how long."""

    url: str
    stores: bool = False
    """Whether `store` writes to another server, and may wait for it."""
    patience: float = 30.0
    """Seconds that a store which is down is tried again."""
    supports_autoexpire: bool = True
    """Whether what is expired goes by itself; False: beat has `cleanup` called once a day."""

    def reply_to(self) -> str | None:
        """The queue that results of calls made here are sent to; None when the backend stores instead of
        sends.

        Called at each `apply_async` that wants a result; declares and consumes the queue on first use.
        """
        return None

    def expect(self, task_id: str) -> object:
        """A call with this id is about to be published from this process and its result is wanted.

        The caller keeps what is returned as long as it wants the answer kept, whatever the caches' bounds.
        """
        return None

    @abstractmethod
    def store(self, meta: Meta, publish: Publish) -> None:
        """Write a state, or hand the message that carries it to `publish`. Runs in the worker's child."""

    def prepare(self, meta: Meta, publish: Publish) -> Callable[[], None]:
        """Return what stores the state, after what can fail for good: EncodeError, TooLarge are raised here."""
        return partial(self.store, meta, publish)

    @abstractmethod
    def fetch(self, task_id: str) -> Meta | None:
        """The newest state known here, without waiting; None when nothing is known."""

    def fetch_all(self, task_ids: Sequence[str]) -> Iterator[Meta]:
        """Yield the newest states known here, of those ids of which any is; without waiting."""
        return (meta for meta in map(self.fetch, task_ids) if meta is not None)

    @abstractmethod
    def watch(self, task_ids: Sequence[str], timeout: float | None) -> Iterator[Meta]:
        """Yield states as they arrive, of one task or 10,000, until all are ready.

        Raises errors.TimeoutError after `timeout` seconds in all (None waits for ever), ResultLost when the
        result cannot come any more, ResultElsewhere when it never could.
        """

    @abstractmethod
    def forget(self, task_id: str) -> None:
        """Drop what is kept for this id."""

    def save_group(self, group_id: str, members: Any) -> None:
        """Keep what `GroupResult.as_tuple` said. Raises ImproperlyConfigured where nothing is stored."""
        self._keeps_no_groups(group_id)

    def restore_group(self, group_id: str) -> Any:
        """Return what `save_group` kept, as it comes out of JSON; None when nothing is known."""
        self._keeps_no_groups(group_id)

    def forget_group(self, group_id: str) -> None:
        """Drop what `save_group` kept."""
        self._keeps_no_groups(group_id)

    def _keeps_no_groups(self, group_id: str) -> NoReturn:
        raise ImproperlyConfigured(
            f"group {group_id} can be neither saved nor restored: the result backend {mask_url(self.url)} keeps no "
            "groups; use a store (db+..., redis://), or pass `as_tuple()` on to `result_from_tuple`"
        )

    def cleanup(self) -> None:
        """Remove expired states. Brokers do it by themselves, so there is nothing to do by default."""

    def close(self, timeout: float | None = None) -> None:
        """Release connections; delete the reply queue if nothing is expected any more. Waits `timeout`
        seconds.
        """
