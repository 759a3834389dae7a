"""The setting `task_annotations`: options of tasks, and methods of theirs, said outside the tasks' own code.

Finds what applies to a task and puts it there; what an option then means is the registry's business. Calls the user's
annotation objects and nothing else of his.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, Protocol

from amqptasks import dotted
from amqptasks.errors import ImproperlyConfigured

Options = Mapping[str, Any]
Said = Mapping[str, Any] | None


class Named(Protocol):
    """What an annotation object may ask of a task."""

    name: str


class Annotations:
    """What the setting holds: a dict of task names (and "*") to options, an object, or a list of both.

    An object has `annotate(task)`, `annotate_any()` or both, which return options or None, as Celery's do. Of several
    elements the first that says anything counts, for "*" and for the task's name each.
    """

    def __init__(self, setting: Any) -> None:
        """Raises ImproperlyConfigured for what is none of these."""
        given = setting if isinstance(setting, Sequence) and not isinstance(setting, str) else [setting]
        self._sources = [_source(each) for each in given if each is not None]

    def __bool__(self) -> bool:
        return bool(self._sources)

    def of(self, task: Named) -> dict[str, Any]:
        """Return the options for one task: those said of it win over those said of all."""
        every = next((said for any_task, _ in self._sources if (said := any_task())), {})
        own = next((said for _, one in self._sources if (said := one(task))), {})
        return {**every, **own}


def _source(given: Any) -> tuple[Callable[[], Said], Callable[[Named], Said]]:
    """Return what one element says of all tasks, and of one."""
    if isinstance(given, str):
        found = dotted.find(given, "an element of task_annotations")
        return _source(found() if isinstance(found, type) else found)
    if isinstance(given, Mapping):
        return partial(_entry, given, "*"), lambda task: _entry(given, task.name)
    annotate, annotate_any = getattr(given, "annotate", None), getattr(given, "annotate_any", None)
    if annotate is None and annotate_any is None:
        raise ImproperlyConfigured(
            f"task_annotations holds {given!r}; write a dict {{'proj.add': {{'rate_limit': '10/s'}}}}, or an object "
            "with annotate(task) or annotate_any()"
        )
    return annotate_any or _nothing, annotate or _nothing


def _entry(table: Mapping[str, Any], name: str) -> Said:
    said = table.get(name)
    if said is None or isinstance(said, Mapping):
        return said
    raise ImproperlyConfigured(
        f"task_annotations[{name!r}] is {said!r}; write a dict of options: {{'priority': 3}}"
    )


def _nothing(*_: object) -> None:
    return None


def put(task: Any, options: Options) -> None:
    """Give `task` these options. A function replaces the method of its name, for this task alone, and gets the
    task as its first argument.

    Raises ImproperlyConfigured for an option that the task has not.
    """
    methods: dict[str, Any] = {}
    for name, value in options.items():
        if not hasattr(task, name):
            raise ImproperlyConfigured(_unknown(task, name))
        if name == "run":
            # The registry makes the body of this, with all that the options add to it.
            vars(task).update(__wrapped__=value, bind=True, _arguments=None)
        elif isinstance(value, FunctionType) and isinstance(getattr(type(task), name, None), FunctionType):
            methods[name] = value
        else:
            setattr(task, name, value)
    if methods:
        # A class of its own, so that `super()`, `__call__` and later copies find them where methods are looked for.
        kind = type(task)
        task.__class__ = type(kind.__name__, (kind,), {"__module__": kind.__module__, **methods})


def _unknown(task: Any, name: str) -> str:
    near = difflib.get_close_matches(name, list(_options(task)), 1)
    hint = f"did you mean {near[0]!r}?" if near else "options of your own are attributes of the task's class"
    return f"task_annotations: task {task.name} has no option {name!r}; {hint}"


def _options(task: Any) -> Iterator[str]:
    return (name for name in dir(type(task)) if not name.startswith("_"))
