"""A call whose option has a wrong value: the error names the option, what it takes, and what it was given."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from amqptasks import App
from amqptasks.errors import EncodeError

WRONG: list[tuple[str, Any, str]] = [
    ("countdown", "1", "seconds from now"),
    ("countdown", dt.timedelta(seconds=1), "seconds from now"),
    ("countdown", 1e12, "before the year 10000"),
    ("countdown", float("nan"), "seconds from now"),
    ("eta", dt.date(2030, 1, 1), "a datetime, ISO 8601 text"),
    ("eta", "tomorrow", "a datetime, ISO 8601 text"),
    ("expires", "soon", "a datetime, ISO 8601 text"),
    ("expires", [1], "a datetime, ISO 8601 text"),
    ("priority", "3", "an integer from 0 to 255"),
    ("priority", 300, "an integer from 0 to 255"),
    ("priority", -1, "an integer from 0 to 255"),
    ("headers", 3, "a dict"),
    ("time_limit", "5", "seconds"),
    ("soft_time_limit", [5], "seconds"),
    ("task_id", 5, "a string"),
    ("routing_key", 5, "a string"),
    ("serializer", 5, "a string"),
]


@pytest.mark.parametrize(("option", "value", "wanted"), WRONG)
def test_the_option_is_named(app: App, option: str, value: Any, wanted: str) -> None:
    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    with pytest.raises(TypeError, match=rf"apply_async\(\) of proj.add: {option} must be .*{wanted}.*, not "):
        add.apply_async((1, 2), **{option: value})


def test_a_task_without_a_name(app: App) -> None:
    with pytest.raises(TypeError, match="a task's name is a string, not None"):
        app.send_task(None)  # type: ignore[arg-type]


def test_an_error_of_the_user_s_own_stays_as_it_is(app: App) -> None:
    def route(name: str, *_: Any, **__: Any) -> None:
        raise ValueError("mine")

    app.conf.task_routes = [route]

    with pytest.raises(ValueError, match=r"^mine$"):
        app.send_task("proj.add", priority=3)


def test_a_value_that_cannot_be_written_is_told_as_such(app: App) -> None:
    with pytest.raises(EncodeError, match="type set"):
        app.send_task("proj.add", ({1},), priority=3)
