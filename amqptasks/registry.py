"""Tasks by name: the registry of an app, and the shared tasks that every app has. Thread-safe.

Makes tasks from functions; knows nothing of how they are sent or run.
"""

from __future__ import annotations

import difflib
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from amqptasks import annotating, builtin, models, naming, retrying
from amqptasks.client import Client
from amqptasks.errors import NotRegistered
from amqptasks.task import Task
from amqptasks.task_checks import check_base, check_kinds
from amqptasks.task_options import FOREIGN

AnyTask = Task[..., Any]
_METADATA = ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__")


class TaskRegistry(dict[str, AnyTask]):
    """An app's tasks; a name that is not there raises NotRegistered, with the nearest one."""

    def __missing__(self, name: str) -> AnyTask:
        near = difflib.get_close_matches(str(name), self, 1)
        hint = f"did you mean {near[0]!r}?" if near else "is its module listed in `include`?"
        raise NotRegistered(f"no task is named {name!r}; {hint}")

    def regular(self) -> dict[str, AnyTask]:
        """Return the user's tasks, without the built-in ones."""
        return {name: task for name, task in self.items() if name not in builtin.BODIES}


class Registrar:
    """Puts tasks into a registry, and warns where names would mislead."""

    def __init__(self) -> None:
        self.tasks = TaskRegistry()
        self._sources: dict[tuple[str, int, str], str] = {}
        self._lock = threading.RLock()

    def add(self, task: AnyTask, *, named: bool = True) -> AnyTask:
        """Register; return what is registered under the name now: of two functions, the first.

        `named`: the user chose the name, so that the same function under another name is no mistake.
        """
        function = getattr(task, "__wrapped__", None)
        with self._lock:
            known = self.tasks.get(task.name)
            if known is not None and function is not None:
                first = getattr(known, "__wrapped__", None)
                if not naming.same_function(first, function):
                    naming.warn_of_duplicate(task.name, first, function)
                    return known
            if not named:
                self._note_source(function, task.name)
            self.tasks[task.name] = task
        return task

    def _note_source(self, function: Any, name: str) -> None:
        source = naming.source_of(function)
        if source is None:
            return
        known = self._sources.setdefault(source, name)
        if known != name and function.__qualname__ == getattr(self.tasks[known], "__qualname__", None):
            naming.warn_of_second_name(function, name, known)


def make_task(
    function: Callable[..., Any],
    name: str,
    base: type[AnyTask],
    options: Mapping[str, Any],
    app: Client | None,
) -> AnyTask:
    """Return a task of class `base` whose body is `function`. Raises TypeError for an option that does not
    exist.
    """
    check_base(base, name)
    task = base()
    check_options(options, base, name)
    for attribute in _METADATA:
        if hasattr(function, attribute):
            setattr(task, attribute, getattr(function, attribute))
    for key, value in {**options, "name": name, "__wrapped__": function, "_app": app}.items():
        setattr(task, key, value)
    return equipped(task)


def equipped(task: AnyTask) -> AnyTask:
    """Make a task's options true of its body, once they are all said or have changed.

    Raises TypeError for a value of the wrong kind, ValueError for limits that contradict each other,
    ImproperlyConfigured where pydantic is missing.
    """
    check_kinds(task)
    check_limits(task)
    vars(task).pop("run", None)
    function = getattr(task, "__wrapped__", None)
    body = task.run if function is None else function.__get__(task) if task.bind else function
    found = None
    if task.pydantic:
        found = models.Models(task, body)
        body = models.modelled(found, body)
    object.__setattr__(task, "_models", found)
    if task.autoretry_for:
        body = retrying.autoretrying(task, body)
    if function is not None or found is not None or task.autoretry_for:
        object.__setattr__(task, "run", body)
    return task


def annotate(task: AnyTask, said: annotating.Annotations) -> None:
    """Apply the setting `task_annotations`. Raises what `equipped` raises, and ImproperlyConfigured."""
    options = said.of(task)
    if options:
        annotating.put(task, options)
        object.__setattr__(task, "adapted", True)
        equipped(task)


def check_options(options: Mapping[str, Any], base: type[AnyTask], name: str) -> None:
    """Raise TypeError for an option that neither Task nor `base` has, with the nearest one."""
    for option in options:
        if option in FOREIGN:
            raise TypeError(
                f"task {name}: Celery's option {option!r} has no meaning here: {FOREIGN[option]}; leave it out"
            )
        if not hasattr(base, option):
            known = [key for key in dir(base) if not key.startswith("_")]
            near = difflib.get_close_matches(option, known, 1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"options of your own are attributes of a class: base={base.__name__}"
            )
            raise TypeError(f"task {name}: unknown option {option!r}; {hint}")


def check_limits(task: AnyTask) -> None:
    """Raise ValueError for a soft limit that the hard one would forestall."""
    soft, hard = task.soft_time_limit, task.time_limit
    if soft and hard and soft > hard:
        raise ValueError(
            f"task {task.name}: soft_time_limit ({soft:g} s) must not exceed time_limit ({hard:g} s), "
            "which kills the task"
        )


def copy_for(task: AnyTask, app: Client, usual: type[AnyTask]) -> AnyTask:
    """Return a shared task as a task of `app`; if it names no class of its own, of the class `usual`."""
    if type(task) is Task and usual is not Task:
        copy = usual()
        object.__setattr__(copy, "adapted", True)
    else:
        copy = object.__new__(type(task))
    for key, value in vars(task).items():
        object.__setattr__(copy, key, value)
    object.__setattr__(copy, "_app", app)
    object.__setattr__(copy, "_preset", None)
    return equipped(copy)


class SharedTasks:
    """Tasks that belong to every app of the process, whenever it is made."""

    def __init__(self) -> None:
        self.apps: weakref.WeakSet[Client] = weakref.WeakSet()
        self._tasks: list[AnyTask] = []
        self._lock = threading.Lock()

    def add(self, task: AnyTask) -> list[Client]:
        """Keep a task; return the apps that are there already."""
        with self._lock:
            self._tasks.append(task)
            return list(self.apps)

    def all(self) -> list[AnyTask]:
        with self._lock:
            return list(self._tasks)


shared = SharedTasks()
