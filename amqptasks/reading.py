"""What can be read of one call's newest state: `AsyncResult` without waiting.

Knows `Meta`; where it comes from is the subclass's business.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from amqptasks import states
from amqptasks.backends.base import Meta
from amqptasks.waiting import value_of


class Reading:
    """The newest state of one call, attribute by attribute. Nothing here waits."""

    __slots__ = ("id", "task_name")
    id: str
    task_name: str | None

    @abstractmethod  # for the type checker: with ABCMeta each isinstance() of a result would cost three times as much
    def _newest(self) -> Meta | None:
        """Return the newest state that is known here, None when nothing is."""

    @property
    def state(self) -> str:
        """The newest state known here, without waiting; PENDING when nothing is known."""
        meta = self._newest()
        return states.PENDING if meta is None else meta.status

    @property
    def status(self) -> str:
        return self.state

    @property
    def result(self) -> Any:
        """The value, the exception, a state's own mapping, or None as long as nothing is known."""
        meta = self._newest()
        return None if meta is None else meta.result

    @property
    def info(self) -> Any:
        return self.result

    @property
    def traceback(self) -> str | None:
        """The remote traceback as text, once the task has failed."""
        meta = self._newest()
        return None if meta is None else meta.traceback

    @property
    def date_done(self) -> str | None:
        meta = self._newest()
        return None if meta is None else meta.date_done

    def _extended(self, key: str) -> Any:
        meta = self._newest()
        return None if meta is None else meta.extended.get(key)

    @property
    def name(self) -> str | None:
        """The task's name; of a result made from a bare id only with the setting `result_extended`."""
        return self.task_name or cast("str | None", self._extended("name"))

    @property
    def args(self) -> Sequence[Any] | None:
        return cast("Sequence[Any] | None", self._extended("args"))

    @property
    def kwargs(self) -> Mapping[str, Any] | None:
        return cast("Mapping[str, Any] | None", self._extended("kwargs"))

    @property
    def worker(self) -> str | None:
        return cast("str | None", self._extended("worker"))

    @property
    def retries(self) -> int | None:
        return cast("int | None", self._extended("retries"))

    @property
    def queue(self) -> str | None:
        return cast("str | None", self._extended("queue"))

    def ready(self) -> bool:
        """Has it ended, well or not? Does not wait."""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        return self.state == states.FAILURE

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """Raise the task's exception if it has failed already; else return what is known. Does not wait."""
        meta = self._newest()
        value = None if meta is None else value_of(meta, propagate)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw
