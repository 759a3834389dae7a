"""Names of tasks: how one is found for a function, and the warnings where two of them, or none, would serve.
Pure.

Knows functions and modules; knows nothing of apps.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any


class TaskNameWarning(UserWarning):
    """Two tasks share a name, one function has two, or a decorator hides it."""


class DuplicateTaskNameWarning(TaskNameWarning):
    """Two functions were registered under one name; the first is kept."""


def task_name(name: str, module: str | None, main: str | None) -> str:
    """Return `module.name`; the app's main name stands for `__main__`, and where no module is known."""
    found = sys.modules.get(module or "__main__")
    known = getattr(found, "__name__", None) or module or "__main__"
    if known == "__main__" and main:
        known = main
    return f"{known}.{name}"


def place(function: Any) -> str:
    """Return file and line of a function, as a person can open it."""
    code = getattr(function, "__code__", None)
    if code is None:
        return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)!s}"
    return f"{code.co_filename}:{code.co_firstlineno}"


def same_function(one: Any, other: Any) -> bool:
    """Are these one function of the source, reloaded or edited in between?"""
    if getattr(one, "__closure__", None) and getattr(one, "__code__", 0) is getattr(other, "__code__", 1):
        return one is other  # two functions made by one factory
    return _origin(one) == _origin(other)


def _origin(function: Any) -> tuple[Any, ...]:
    code = getattr(function, "__code__", None)
    return (
        getattr(function, "__module__", None),
        getattr(function, "__qualname__", None),
        getattr(code, "co_filename", 0),
    )


def warn_of_duplicate(name: str, kept: Any, refused: Any) -> None:
    warnings.warn(
        f"two functions are registered as task {name!r}: {place(kept)}, which is kept, and "
        f"{place(refused)}; give one "
        "of them another name: @app.task(name=...)",
        DuplicateTaskNameWarning,
        stacklevel=4,
    )


def warn_of_second_name(function: Any, name: str, known: str) -> None:
    """Warn that a function is registered under another name already: its module was imported under two
    names.
    """
    warnings.warn(
        f"{place(function)} is registered under two names, {known!r} and {name!r}: its module is imported "
        "under two "
        "names (run as a program, or by a relative import), so callers and workers will disagree; import "
        "it under "
        "one, or fix the name: @app.task(name=...)",
        TaskNameWarning,
        stacklevel=4,
    )


def source_of(function: Any) -> tuple[str, int, str] | None:
    """Return what tells a function of the source from others, however often it was imported."""
    code = getattr(function, "__code__", None)
    return None if code is None else (code.co_filename, code.co_firstlineno, code.co_name)


def warn_of_hidden_name(function: Callable[..., Any], name: str) -> None:
    """Warn if the name is that of a decorator's inner function, so that two tasks would soon share it."""
    qualname = getattr(function, "__qualname__", "")
    closure = getattr(function, "__closure__", None) or ()
    wraps_another = (
        "<locals>" in qualname and any(callable(_contents(cell)) for cell in closure) and _takes_all(function)
    )
    if getattr(function, "__name__", "") == "<lambda>":
        reason = "it is a lambda"
    elif wraps_another and not hasattr(function, "__wrapped__"):
        reason = f"the decorator at {place(function)} hides the function's own name"
    else:
        return
    warnings.warn(
        f"a task is named {name!r} because {reason}; use functools.wraps in the decorator, or give the name: "
        "@app.task(name=...)",
        TaskNameWarning,
        stacklevel=4,
    )


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is still empty
        return None


def _takes_all(function: Callable[..., Any]) -> bool:
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    return bool(kinds) and kinds <= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
