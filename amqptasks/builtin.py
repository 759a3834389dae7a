"""The tasks that every app has, under Celery's names, so that its clients' maps and chunks run here too.

Bodies only; `app` registers them. They know signatures and run them in place.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from amqptasks.signatures import signature


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


def _body(self: Any, task: Any) -> Callable[..., Any]:
    found: Callable[..., Any] = self.app.tasks[signature(task, app=self.app).task]
    return found


BODIES: Mapping[str, Callable[..., Any]] = {
    "celery.backend_cleanup": backend_cleanup,
    "celery.accumulate": accumulate,
    "celery.map": mapped,
    "celery.starmap": starmapped,
}
