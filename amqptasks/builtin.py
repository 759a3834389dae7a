"""The tasks that every app has: the workers' own (`amqptasks.*`), and those that are real messages of Celery's.

Bodies and options only; `app` registers them. They know signatures, run them in place or send them, and join chords.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from amqptasks import late_parts
from amqptasks.canvas import failing, giving_up, joining, sending
from amqptasks.canvas.giving_up import GAVE_UP
from amqptasks.canvas.parts import EXPIRED, PART, UNLOCK, Place
from amqptasks.errors import NotFound, QueueDown, ResultLost, StoreUnavailable, TransportError
from amqptasks.late_parts import LATE, RESULT
from amqptasks.signatures import signature

AGAIN = 1.0
"""Seconds until a join that met another one, or no broker, is tried again."""
LONGEST = 30.0
"""Seconds at most until it is asked again whether a queue's node is back."""


def backend_cleanup(self: Any) -> None:
    """Remove expired results, where the backend does not do so by itself."""
    self.app.backend.cleanup()


def accumulate(self: Any, *args: Any, index: int | None = None, **kwargs: Any) -> Any:
    """Return the arguments, or the one at `index`: a step that only hands values on."""
    return args if index is None else args[index]


def mapped(self: Any, task: Any, it: Iterable[Any]) -> list[Any]:
    """Return the task's value for each element; all run one after the other, in this call."""
    return list(map(_body(self, task), it))


def starmapped(self: Any, task: Any, it: Iterable[Any]) -> list[Any]:
    """As `mapped`, where each element is a list of arguments."""
    return list(itertools.starmap(_body(self, task), it))


def chunked(self: Any, task: Any, it: Iterable[Any], n: int) -> list[list[Any]]:
    """Return the values of `starmapped`, `n` to a list; all run one after the other, in this call."""
    elements = iter(it)
    parts = iter(lambda: list(itertools.islice(elements, n)), [])
    return [starmapped(self, task, part) for part in parts]


def _body(self: Any, task: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = self.app.tasks[signature(task, app=self.app).task]
    return found


def composed(kind: str) -> Callable[..., None]:
    """Return the task that sends a chain, group or chord that came in a message."""

    def send(self: Any, *args: Any, canvas: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Send what `canvas` says, by its `kwargs` and `options`; without it, what this call's own keywords say."""
        given = kwargs if canvas is None else {"canvas": canvas}
        sig = sending.then(sending.held(kind, args, given, self.app), self.request.chain or (), self.app)
        self.request.chain = None  # it is sent with the canvas
        with _again(self):
            try:
                sending.send(sig)
            except Exception as error:
                if not failing.hopeless(error):
                    raise
                failing.fail(self.app, sig, error, self.request.id)

    return send


@contextmanager
def _again(task: Any) -> Iterator[None]:
    """What the broker, a store or another join has no answer to now is tried again, until it has one."""
    try:
        yield
    except QueueDown as error:  # until the cluster's node is back, which may take long
        raise task.retry(exc=error, countdown=min(LONGEST, AGAIN * 2**task.request.retries)) from error
    except (joining.Busy, TransportError, StoreUnavailable) as error:
        raise task.retry(exc=error, countdown=AGAIN) from error


def chord_unlock(self: Any, group_id: str, size: int, **kwargs: Any) -> bool:
    """Fire a chord if all its parts are there; return whether that was now."""
    with _again(self):
        return joining.unlock(self.app, group_id, size)


def chord_expired(self: Any, group_id: str, seconds: float) -> None:
    """Fail a chord that is not done by now."""
    with _again(self):
        joining.expired(self.app, group_id, seconds)


def chord_part(self: Any, value: Any = None, failed: bool = False, **place: Any) -> None:
    """Leave the part of a chord's member that a worker of Celery's ran."""
    with _again(self):
        joining.part_by_call(self.app, value, Place.of(place), failed, self.request.parent_id)


def chord_late(self: Any, group_id: str, header: str, body: str) -> None:
    """Leave a part that found no queue, unless its chord is done."""
    with _again(self):
        joining.late(self.app, group_id, late_parts.part(group_id, header, body))


def late_result(self: Any, queue: str, header: str, body: str) -> None:
    """Send a result that found no queue to its caller once that is back. Raises ResultLost when he is gone."""
    with _again(self):
        try:
            self.app.connection.inspect(queue)
        except NotFound:
            raise ResultLost(f"a result is lost: the queue {queue} of its caller is gone") from None
        self.app.connection.publish([late_parts.result_of(queue, header, body)])


def gave_up(self: Any, **given: Any) -> None:
    """Tell who waits for a workflow that nothing carries on any more."""
    with _again(self):
        giving_up.tell(self.app, giving_up.GivenUp(**given))


BODIES: Mapping[str, Callable[..., Any]] = {
    UNLOCK: chord_unlock,
    PART: chord_part,
    EXPIRED: chord_expired,
    LATE: chord_late,
    RESULT: late_result,
    GAVE_UP: gave_up,
    "amqptasks.backend_cleanup": backend_cleanup,
    "amqptasks.accumulate": accumulate,
    "amqptasks.map": mapped,
    "amqptasks.starmap": starmapped,
    "amqptasks.chunks": chunked,
    "celery.backend_cleanup": backend_cleanup,
    "celery.accumulate": accumulate,
    "celery.chunks": chunked,
    "celery.map": mapped,
    "celery.starmap": starmapped,
    **{
        f"{family}.{kind}": composed(kind)
        for family in ("amqptasks", "celery")
        for kind in ("chain", "group", "chord")
    },
}

LATE_TASKS = frozenset(
    {UNLOCK, PART, EXPIRED, LATE, RESULT, GAVE_UP, "amqptasks.chain", "amqptasks.group", "amqptasks.chord"}
)
"""Those by which workers carry a workflow on."""


def options_of(name: str) -> dict[str, Any]:
    """Return a built-in task's options. What carries a workflow on is acknowledged when it is done, and goes on
    after a crash."""
    if name not in LATE_TASKS:
        return {"bind": True}
    return {
        "bind": True,
        "acks_late": True,
        "reject_on_worker_lost": True,
        "retry_on_worker_lost": False,
        "ignore_result": True,
        "max_retries": None,
        "rate_limit": 0,
    }
