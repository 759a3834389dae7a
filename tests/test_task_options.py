"""A task whose option is of the wrong kind: the line that makes it says so, not a worker hours later."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from amqptasks import App, shared_task

WRONG: list[tuple[str, Any, str]] = [
    ("time_limit", "5", "a number or None"),
    ("soft_time_limit", [5], "a number or None"),
    ("default_retry_delay", "5", "a number"),
    ("retry_backoff_max", None, "a number"),
    ("max_retries", "3", "a number or None"),
    ("max_retries", True, "a number or None"),
    ("autoretry_for", "ValueError", "a class of exceptions, or several"),
    ("autoretry_for", (ValueError, "KeyError"), "a class of exceptions, or several"),
    ("dont_autoretry_for", int, "a class of exceptions, or several"),
    ("throws", 5, "a class of exceptions, or several"),
    ("base", "Base", "a subclass of amqptasks.Task"),
    ("base", dict, "a subclass of amqptasks.Task"),
]


@pytest.mark.parametrize(("option", "value", "wanted"), WRONG)
def test_the_option_is_named(app: App, option: str, value: Any, wanted: str) -> None:
    with pytest.raises(TypeError, match=rf"task proj.wrong: {option} must be {wanted}, not "):
        app.task(name="proj.wrong", **{option: value})(lambda: None)


@pytest.mark.parametrize("option", ["throws", "autoretry_for"])
@pytest.mark.parametrize("value", [ValueError, [ValueError, KeyError], (), {OSError}])
def test_exceptions_may_be_one_or_several(app: App, option: str, value: Any) -> None:
    task = app.task(name="proj.right", **{option: value})(lambda: None)

    assert isinstance(getattr(task, option), tuple)


def test_annotations_are_checked_alike(app: App) -> None:
    app.conf.task_annotations = {"proj.wrong": {"time_limit": "5"}}

    app.task(name="proj.wrong")(lambda: None)

    with pytest.raises(TypeError, match=r"task proj.wrong: time_limit must be a number"):
        app.finalize()


@pytest.mark.parametrize("decorate", [App(set_as_current=False).task, shared_task])
def test_a_name_where_the_function_belongs(decorate: Any) -> None:
    with pytest.raises(
        TypeError, match=r"'proj.add' is no function; options are named: task\(name='proj.add'\)"
    ):
        decorate("proj.add")


def test_what_has_no_name_must_be_given_one(app: App) -> None:
    with pytest.raises(
        TypeError, match=r"functools.partial.* has no name of its own; write task\(name='...'\)"
    ):
        app.task(partial(print, 1))

    assert app.task(name="proj.printed")(partial(int, "1")).delay().id
