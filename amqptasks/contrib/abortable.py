"""Tasks that can be asked to stop: `AbortableTask`, whose code asks `self.is_aborted()` now and then.

The wish is a queue named after the call, on the call's own broker: `abort()` declares it, the task looks whether it
is there, and the broker removes it after a while. So no result backend that can be read is needed, and it does not
matter whether the wish or the start comes first. Where there is one, Celery's wish is seen as well, which is the state
ABORTED written there: by a Celery client, or by Flower. Knows tasks, results and connections; nothing of workers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, cast

from amqptasks import states
from amqptasks.amqp import Queue
from amqptasks.backends.base import Backend
from amqptasks.client import Client
from amqptasks.errors import NotFound, StoreUnavailable, TransportError
from amqptasks.result import AsyncResult as Result
from amqptasks.task import Task
from amqptasks.waiting import home

P = ParamSpec("P")
R = TypeVar("R")

ABORTED = "ABORTED"
"""The state of a call that was aborted and has not ended."""
PREFIX = "amqptasks.abort."
EXPIRES = 3600.0
"""Seconds for which a wish is kept, from when it was last looked at."""

logger = logging.getLogger(__name__)

_last: ContextVar[tuple[str, float, bool]] = ContextVar("amqptasks_aborted", default=("", 0.0, False))
"""What this thread or coroutine asked last: the call, when (monotonic), the answer."""


class AbortableAsyncResult(Result[R]):
    """The handle on a call of an `AbortableTask`; from another process, `AbortableAsyncResult(id, app=app)`."""

    __slots__ = ()

    def abort(self, expires: float = EXPIRES) -> None:
        """Ask the task to stop, whether it runs already or not. Blocks until the broker knows.

        `expires`: seconds for which the wish is kept; let it be longer than the call may wait to be started.
        Nothing happens by itself: the task stops when it looks. Raises BrokerUnavailable.
        """
        wish = Queue(
            PREFIX + self.id,
            arguments={"x-queue-type": "classic", "x-expires": max(1, round(expires * 1000))},
        )
        connection = self._client().connection
        try:
            connection.declare(wish)
        except TransportError:
            if not _is_there(self._client(), self.id):  # there with another `expires` is as good
                raise

    def is_aborted(self) -> bool:
        """Return whether the task was asked to stop, lately. Asks the broker. Raises BrokerUnavailable."""
        return _is_there(self._client(), self.id)

    @property
    def state(self) -> str:
        """As of any result; ABORTED from `abort()` until the task has ended. Asks the broker until then."""
        known = super().state
        return ABORTED if known not in states.READY_STATES and self.is_aborted() else known

    def ready(self) -> bool:
        return super().state in states.READY_STATES  # without asking the broker

    def _client(self) -> Client:
        return cast(Client, self.app or home.find())


class AbortableTask(Task[P, R]):
    """A base class: `@app.task(bind=True, base=AbortableTask)`. The body asks `self.is_aborted()`."""

    abort_interval: float = 0.5
    """Seconds between two questions to the broker: `is_aborted()` in a loop costs next to nothing."""

    def is_aborted(self, **kwargs: Any) -> bool:
        """Return whether `abort()` was called for this run (or for the call `task_id=`).

        Asks the broker at most every `abort_interval` seconds, and answers in between what it answered before.
        Blocks for a round trip when it asks. While the broker cannot be reached the answer is the last one.
        """
        task_id = str(kwargs.get("task_id") or self.request.id or "")
        known, asked, answer = _last.get()
        now = time.monotonic()
        if known == task_id and (answer or now - asked < self.abort_interval):
            return answer
        answer = known == task_id and answer
        try:
            answer = _is_there(self.app, task_id)
        except (TransportError, StoreUnavailable) as error:
            logger.warning("cannot ask whether %s[%s] is aborted: %s", self.name, task_id, error)
        _last.set((task_id, time.monotonic(), answer))
        return answer

    def AsyncResult(self, task_id: str) -> AbortableAsyncResult[R]:  # noqa: N802 (Celery's name)
        """Return the handle on a call of this task by its id."""
        return AbortableAsyncResult(task_id, self.backend, self.name, self.app)

    def _send(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any], *, by_delay: bool
    ) -> Result[R]:
        result = super()._send(args, kwargs, options, by_delay=by_delay)
        if type(result) is Result:  # not of a run in place, which has ended
            result.__class__ = AbortableAsyncResult
        return result


def _is_there(app: Client, task_id: str) -> bool:
    try:
        app.connection.inspect(PREFIX + task_id)
    except NotFound:
        return app.backend.stores and _is_stored(app.backend, task_id)
    return True


def _is_stored(store: Backend, task_id: str) -> bool:
    known = store.fetch(task_id)
    return known is not None and known.status == ABORTED
