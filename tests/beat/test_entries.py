"""What an app says of its schedule: Celery's ways of saying it, beat's own entry, and what is refused at the start."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App
from amqptasks.beat import checking
from amqptasks.beat.entries import Entry, read
from amqptasks.beat.scheduler import CLEANUP, open_scheduler
from amqptasks.errors import ImproperlyConfigured
from amqptasks.schedules import BaseSchedule, crontab, schedule, solar
from amqptasks.schedules.reading import as_schedule

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def make(**settings: Any) -> App:
    app = App("proj", broker="memory://entries", set_as_current=False, **({"backend": None} | settings))

    @app.task(name="proj.add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return app


def entries(app: App) -> Mapping[str, Entry]:
    app.finalize()
    return open_scheduler(app).entries()


# --- Celery's ways of saying it ---


def test_the_schedule_of_a_celery_app_is_taken_over_as_it_is() -> None:
    theirs = pytest.importorskip("celery.schedules")
    pytest.importorskip("ephem")
    given = {
        "every-30-seconds": {"task": "proj.add", "schedule": 30.0, "args": (16, 16)},
        "delta": {"task": "proj.add", "schedule": timedelta(minutes=5), "kwargs": {"x": 1}, "relative": True},
        "monday": {
            "task": "proj.add",
            "schedule": theirs.crontab(hour=7, minute="*/15", day_of_week=[1, 5]),
            "args": (16, 16),
            "options": {"queue": "reports", "expires": 15.0},
        },
        "schedule": {"task": "proj.add", "schedule": theirs.schedule(60, relative=True), "args": [1]},
        "sun": {"task": "proj.add", "schedule": theirs.solar("sunset", -37.81753, 144.96715), "args": [1]},
    }
    found = entries(make(beat_schedule=given))

    assert {name: each.schedule for name, each in found.items()} == {
        "every-30-seconds": schedule(30),
        "delta": schedule(300, relative=True),
        "monday": crontab("*/15", 7, "1,5"),
        "schedule": schedule(60, relative=True),
        "sun": solar("sunset", -37.81753, 144.96715),
    }
    assert found["monday"].options == {"queue": "reports", "expires": 15.0}
    assert found["delta"].kwargs == {"x": 1}


def test_celerys_own_class_of_a_user_is_refused() -> None:
    theirs = pytest.importorskip("celery.schedules")

    class Mine(theirs.schedule):  # type: ignore[misc, name-defined]
        """A schedule of his own on Celery's."""

    with pytest.raises(ImproperlyConfigured, match="no schedule"):
        as_schedule(Mine(5))


@pytest.mark.parametrize("signal", ["on_after_configure", "on_after_finalize"])
def test_add_periodic_task_in_both_signals(signal: str) -> None:
    app = make()

    @getattr(app, signal).connect
    def setup_periodic_tasks(sender: App, **kwargs: Any) -> None:
        add = sender.tasks["proj.add"]
        sender.add_periodic_task(10.0, add.s(1), name="number", expires=5)
        sender.add_periodic_task(timedelta(seconds=30), add.s(y=2), (1,), name="delta", queue="q")
        sender.add_periodic_task(crontab(hour=7, minute=30, day_of_week=1), add.s(3))
        sender.add_periodic_task(
            schedule(3600, relative=True), add.signature((4,), countdown=5), name="relative"
        )

    found = entries(app)

    assert list(found) == ["number", "delta", "proj.add(3)", "relative"]
    assert found["number"].options == {"expires": 5}
    assert (found["delta"].args, found["delta"].kwargs, found["delta"].options) == (
        (1,),
        {"y": 2},
        {"queue": "q"},
    )
    assert found["proj.add(3)"].schedule == crontab(30, 7, 1)
    assert found["relative"].options == {"countdown": 5}
    assert found["relative"].schedule.next_after(NOON + timedelta(minutes=7)) == NOON + timedelta(hours=1)


def test_who_connects_when_the_app_is_complete_is_called_at_once() -> None:
    """A module that was imported late would else lose its periodic tasks, and nobody would say so."""
    app = make()
    app.finalize()

    @app.on_after_configure.connect
    def late(sender: App, source: Any, **_: Any) -> None:
        assert source is app.conf
        sender.add_periodic_task(10, sender.tasks["proj.add"].s(1), name="late")

    assert list(entries(app)) == ["late"]


def test_a_receiver_that_fails_is_an_error_of_the_schedule() -> None:
    app = make()

    @app.on_after_configure.connect
    def setup(sender: App, **_: Any) -> None:
        sender.add_periodic_task(crontab(minute="61"), sender.tasks["proj.add"].s(1))

    with pytest.raises(ImproperlyConfigured, match=r"on_after_configure.*61 is no minute"):
        entries(app)


@pytest.mark.parametrize("when", [schedule, crontab, lambda **how: solar("sunset", 1, 2, **how)])
def test_nowfun_tells_the_zone_and_the_time(when: Any) -> None:
    pytest.importorskip("ephem")
    zone = timezone(timedelta(hours=2))
    now = datetime(2026, 5, 1, 12, tzinfo=zone)
    made: BaseSchedule = when(nowfun=lambda: now, **({"run_every": 60} if when is schedule else {}))

    assert made.tz is zone
    assert made.now() == now
    assert made.is_due(now - timedelta(days=3)).is_due
    assert not made.is_due(now).is_due
    assert made == when(nowfun=lambda: now, **({"run_every": 60} if when is schedule else {}))


def test_the_settings_say_the_zone() -> None:
    noon_there = {"a": {"task": "proj.add", "schedule": crontab(0, 12), "args": [1]}}
    for settings, hour in (
        ({"timezone": "America/New_York"}, 16),
        ({"timezone": "Asia/Kolkata", "enable_utc": False}, 6),
        ({}, 12),
    ):
        app = make(beat_schedule=noon_there, **settings)
        found = entries(app)["a"].schedule.next_after(NOON - timedelta(hours=11), app.timezone)
        assert found is not None
        assert found.hour == hour, settings


# --- beat's own entry ---


def test_expired_results_are_deleted_at_four_where_nobody_else_does(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    database = {"backend": f"db+sqlite:///{tmp_path}/results.db"}
    own = entries(make(**database))[CLEANUP]

    assert (own.task, own.schedule, own.options) == (
        "celery.backend_cleanup",
        crontab("0", "4", "*"),
        {"expires": 12 * 3600},
    )
    assert CLEANUP in make().tasks
    mine = {"task": "proj.add", "schedule": 60, "args": [1]}
    assert entries(make(beat_schedule={CLEANUP: mine}, **database))[CLEANUP].task == "proj.add"
    assert entries(make(beat_schedule={CLEANUP: None}, **database)) == {}
    assert entries(make(result_expires=None, **database)) == {}
    for backend in ("rpc://", "memory://", None):
        assert entries(make(backend=backend)) == {}, backend


def test_the_task_of_that_entry_deletes(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    app = make(backend=f"db+sqlite:///{tmp_path}/results.db", task_always_eager=True)
    calls = []
    app.backend.cleanup = lambda: calls.append(1)  # type: ignore[method-assign]
    app.send_task
    app.tasks[CLEANUP].delay()

    assert calls == [1]


# --- what is refused at the start ---


def refusal(app: App) -> str:
    with pytest.raises(ImproperlyConfigured) as raised:
        checking.check_all(app, entries(app).values())
    return str(raised.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"args": [{1, 2}]}, "cannot be sent"),
        ({"args": [1, 2, 3]}, "too many positional arguments"),
        ({}, "missing a required argument: 'x'"),
        ({"args": [1], "options": {"quue": "q"}}, "quue"),
        ({"args": [1], "options": {"serializer": "yml"}}, "yml"),
        ({"args": 5}, "'int' object is not iterable"),
        ({"args": [1], "schedule": "* * * * *"}, "no schedule"),
        ({"args": [1], "schedule": 0}, "above zero"),
        ({"args": [1], "catchup": "all"}, "there is no catchup in an entry"),
    ],
    ids=str,
)
def test_a_wrong_entry_is_named_with_what_is_wrong(line: dict[str, Any], words: str) -> None:
    said = refusal(make(beat_schedule={"nightly": {"task": "proj.add", "schedule": 60} | line}))

    assert said.startswith("beat_schedule['nightly']")
    assert words in said


class Never(BaseSchedule):
    """A schedule of the user's own, with a mistake."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def next_after(self, last: datetime, zone: tzinfo | None = None) -> datetime | None:
        return last + 1 / self.answer * timedelta(seconds=1)


@pytest.mark.parametrize(("answer", "words"), [(0, "ZeroDivisionError"), (-1, "which is not after")])
def test_a_schedule_of_one_s_own_that_cannot_be_asked_is_named(answer: int, words: str) -> None:
    """It would end every beat, one after the other."""
    said = refusal(make(beat_schedule={"odd": {"task": "proj.add", "schedule": Never(answer), "args": [1]}}))

    assert said.startswith("beat_schedule['odd'] cannot be sent")
    assert words in said


def test_an_entry_that_is_no_dict_is_named() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"beat_schedule\['x'\]: 60 is no entry"):
        read("x", 60)  # type: ignore[arg-type]


def test_an_unknown_task_is_told_and_sent(caplog: pytest.LogCaptureFixture) -> None:
    """It may be another program's: nothing here can know."""
    app = make(beat_schedule={"nightly": {"task": "proj.ad", "schedule": 60, "args": [1, 2, 3]}})
    with caplog.at_level(logging.ERROR):
        checking.check_all(app, entries(app).values())

    assert "entry 'nightly': no task is named 'proj.ad'; did you mean 'proj.add'?" in caplog.text


def test_untyped_tasks_take_what_they_are_given() -> None:
    app = make(strict_typing=False, beat_schedule={"a": {"task": "proj.add", "schedule": 60}})
    checking.check_all(app, entries(app).values())
