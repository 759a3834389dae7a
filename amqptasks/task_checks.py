"""What a task is made of, checked where it is made: the function, the class, the kinds of its options.

Pure. Unknown names of options are `registry`'s business.
"""

from __future__ import annotations

from typing import Any, Final

from amqptasks.task import Task

NUMBERS: Final = ("time_limit", "soft_time_limit", "default_retry_delay", "retry_backoff_max", "max_retries")
MAY_BE_NONE: Final = frozenset({"time_limit", "soft_time_limit", "max_retries"})
EXCEPTIONS: Final = ("autoretry_for", "dont_autoretry_for", "throws")


def check_function(function: Any, *, named: bool) -> None:
    """Raise TypeError for what is no function, or has no name where none is given."""
    if not callable(function):
        raise TypeError(f"{function!r} is no function; options are named: task(name={function!r})")
    if not named and not hasattr(function, "__name__"):
        raise TypeError(f"{function!r} has no name of its own; write task(name='...')")


def check_base(base: Any, name: str) -> None:
    """Raise TypeError for a `base` that is no class of tasks."""
    if not (isinstance(base, type) and issubclass(base, Task)):
        raise TypeError(f"task {name}: base must be a subclass of amqptasks.Task, not {base!r}")


def check_kinds(task: Task[..., Any]) -> None:
    """Raise TypeError for an option of another kind. Exceptions become tuples: `except` wants them so."""
    for option in NUMBERS:
        value = getattr(task, option)
        if value is None and option in MAY_BE_NONE:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            wanted = "a number or None" if option in MAY_BE_NONE else "a number"
            raise TypeError(f"task {task.name}: {option} must be {wanted}, not {value!r}")
    for option in EXCEPTIONS:
        given = getattr(task, option)
        several = (given,) if isinstance(given, type) or not hasattr(given, "__iter__") else tuple(given)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in several):
            raise TypeError(
                f"task {task.name}: {option} must be a class of exceptions, or several, not {given!r}"
            )
        if given is not several:
            setattr(task, option, several)
