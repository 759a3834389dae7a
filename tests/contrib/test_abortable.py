"""Abortable tasks: when the broker is asked, and what is answered in between."""

from __future__ import annotations

import pickle
import uuid
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App, states
from amqptasks.backends.base import Meta
from amqptasks.contrib.abortable import ABORTED, PREFIX, AbortableAsyncResult, AbortableTask
from amqptasks.errors import BrokerUnavailable
from amqptasks.result import AsyncResult
from tests.working import Work


@pytest.fixture
def asked(app: App, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions to the broker."""
    questions: list[str] = []
    inspect = app.connection.inspect

    def counted(queue: str) -> Any:
        questions.append(queue)
        return inspect(queue)

    monkeypatch.setattr(app.connection, "inspect", counted)
    return questions


def test_a_tight_loop_asks_once_in_an_interval(app: App, work: Work, asked: list[str]) -> None:
    @app.task(bind=True, base=AbortableTask, name="proj.loop", abort_interval=3600)
    def loop(self: AbortableTask[..., Any]) -> list[bool]:
        answers = [self.is_aborted() for _ in range(1000)]
        AbortableAsyncResult(self.request.id or "", app=app).abort()
        return [any(answers), self.is_aborted()]

    first, second = loop.delay(), loop.delay()
    work(2)

    assert first.get(timeout=60) == second.get(timeout=60) == [False, False]
    assert asked == [PREFIX + first.id, PREFIX + second.id]


def test_once_aborted_it_stays_so_without_asking(app: App, work: Work, asked: list[str]) -> None:
    @app.task(bind=True, base=AbortableTask, name="proj.loop", abort_interval=0)
    def loop(self: AbortableTask[..., Any]) -> list[bool]:
        return [self.is_aborted() for _ in range(100)]

    call = loop.delay()
    assert isinstance(call, AbortableAsyncResult)
    call.abort()
    asked.clear()
    work(1)

    assert call.get(timeout=60) == [True] * 100
    assert len(asked) == 1


def test_the_state_is_aborted_until_the_task_has_ended(app: App, work: Work, asked: list[str]) -> None:
    loop = app.task(bind=True, base=AbortableTask, name="proj.loop")(lambda self: "done")
    call = loop.delay()

    assert call.state == call.status == states.PENDING
    call.abort()
    assert call.state == call.status == ABORTED
    asked.clear()
    assert not call.ready()
    assert asked == []
    work(1)
    assert call.get(timeout=60) == "done"
    assert call.state == states.SUCCESS


def test_while_the_broker_is_away_the_last_answer_stands(
    app: App, work: Work, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(queue: str) -> Any:
        raise BrokerUnavailable("away")

    @app.task(bind=True, base=AbortableTask, name="proj.loop", abort_interval=0)
    def loop(self: AbortableTask[..., Any]) -> bool:
        with monkeypatch.context() as patch:
            patch.setattr(app.connection, "inspect", away)
            return self.is_aborted()

    call = loop.delay()
    work(1)

    assert call.get(timeout=60) is False
    assert f"cannot ask whether proj.loop[{call.id}] is aborted" in caplog.text


def test_the_wish_of_a_celery_client_is_read_from_the_store(tmp_path: Path) -> None:
    """Celery's `AbortableAsyncResult.abort`, and so Flower's, writes the state ABORTED into the result backend."""
    with App("other", broker=f"memory://{uuid.uuid4()}", backend=f"db+sqlite:///{tmp_path}/r.db") as app:
        call = AbortableAsyncResult[None]("i", app=app)
        assert not call.is_aborted()

        app.backend.store(Meta(task_id="i", status=ABORTED), lambda _: None)

        assert call.is_aborted()
        assert not AbortableAsyncResult[None]("j", app=app).is_aborted()


def test_it_may_be_asked_twice_for_different_times(app: App) -> None:
    call = AbortableAsyncResult[None]("i", app=app)

    call.abort()
    call.abort(expires=60)

    assert call.is_aborted()


def test_a_handle_can_be_had_by_id_and_pickled(app: App) -> None:
    loop = app.task(bind=True, base=AbortableTask, name="proj.loop")(lambda self: None)
    call = loop.AsyncResult("i")
    call.abort()

    again = pickle.loads(pickle.dumps(call))

    assert type(again) is AbortableAsyncResult
    assert again.is_aborted()
    assert again == AsyncResult("i")
    assert not loop.AsyncResult("other").is_aborted()


def test_a_run_in_place_has_ended_already(app: App) -> None:
    loop = app.task(bind=True, base=AbortableTask, name="proj.loop")(lambda self: self.is_aborted())

    assert loop.apply().get() is False
