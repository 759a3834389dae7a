"""Tasks of no app in particular: `@shared_task` makes them for libraries, which must not know their users'
app.

Such a task is registered in every app, made before or after; called, it uses the current one.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, cast, overload

from amqptasks import naming
from amqptasks.app import App
from amqptasks.decorating import BoundDecorator, Decorator
from amqptasks.registry import AnyTask, make_task, shared
from amqptasks.task import CoroutineTask, Task
from amqptasks.task_checks import check_function
from amqptasks.waiting import home

P = ParamSpec("P")
R = TypeVar("R")


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Any) -> BoundDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = False, **options: Any) -> Decorator: ...
def shared_task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a task that belongs to every app. Options are those of `App.task`.

    It may be used before there is an app; the settings are read when it is called.
    """
    if function is None:
        return lambda function: _shared_from(function, options)
    return _shared_from(function, options)


def _shared_from(function: Callable[..., Any], options: Mapping[str, Any]) -> AnyTask:
    given = dict(options)
    base = given.pop("base", None) or Task
    name = given.pop("name", None)
    check_function(function, named=name is not None)
    name = name or _name(function)
    task = make_task(function, name, base, given, None)
    for app in shared.add(task):
        cast(App, app).adopt(task)
    return task


def _name(function: Callable[..., Any]) -> str:
    if home.app is not None:
        return cast(App, home.app).gen_task_name(function.__name__, function.__module__)
    return naming.task_name(function.__name__, function.__module__, None)
