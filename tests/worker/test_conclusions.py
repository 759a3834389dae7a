"""What follows from a run when its failure is too large to be told as it is."""

from __future__ import annotations

from typing import Any

import pytest

from amqptasks import App, chord
from amqptasks.canvas import failing
from amqptasks.errors import ChordError, EncodeError, TooLarge
from tests.working import Work

LIMIT = 8000


class Rude(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("not me")


@pytest.fixture
def fails(app: App) -> Any:
    app.conf.broker_max_message_size = LIMIT

    @app.task(name="proj.fails", throws=(ValueError,))
    def fails(size: int) -> None:
        raise ValueError("ä" * size)

    return fails


def largest(work: Work) -> int:
    return max(len(parcel.body) for outcome in work.outcomes for parcel in outcome.publish)


def test_a_failure_over_the_limit_is_told_by_its_class_and_its_beginning(
    app: App, fails: Any, work: Work
) -> None:
    """The broker would refuse it, and the caller would wait for ever."""
    result = fails.delay(LIMIT)
    work()

    with pytest.raises(TooLarge, match=r"failed with ValueError.*broker_max_message_size.*'ä{9}"):
        result.get(timeout=60)
    assert largest(work) <= LIMIT


def test_a_failure_within_the_limit_is_told_as_it_is(app: App, fails: Any, work: Work) -> None:
    result = fails.delay(10)
    work()

    with pytest.raises(ValueError, match=r"^ä{10}$"):
        result.get(timeout=60)


def test_a_failure_over_the_limit_only_with_its_traceback_loses_the_traceback_s_beginning(
    app: App, fails: Any, work: Work
) -> None:
    result = fails.delay(LIMIT // 4)
    work()

    with pytest.raises(ValueError, match=f"^ä{{{LIMIT // 4}}}$"):
        result.get(timeout=60)
    assert "ValueError" in str(result.traceback)
    assert largest(work) <= LIMIT


def test_a_chord_is_told_of_a_large_failure_by_a_chord_error(app: App, fails: Any, work: Work) -> None:
    """Its text holds the member's, and its traceback both: together they may be over the limit again."""
    body = app.tasks["celery.accumulate"].s(index=0)
    result = chord([fails.s(LIMIT // 4)], body).apply_async()
    work.all()

    with pytest.raises(ChordError, match=r"Dependency .* raised ValueError\('ä{900}"):
        result.get(timeout=60)


def test_an_exception_that_cannot_be_shown_fails_its_chord_all_the_same(app: App, work: Work) -> None:
    @app.task(name="proj.rude")
    def rude() -> None:
        raise Rude

    result = chord([rude.s()], app.tasks["celery.accumulate"].s(index=0)).apply_async()
    work.all()

    with pytest.raises(ChordError, match=r"Dependency .* raised <Rude, whose repr\(\) raised RuntimeError>"):
        result.get(timeout=60)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_part_over_the_limit_does_not_stall_its_chord(
    app: App, fails: Any, work: Work, ignored: bool
) -> None:
    body = app.tasks["celery.accumulate"].s(index=0)
    result = chord([fails.s(LIMIT).set(ignore_result=ignored)], body).apply_async()
    work.all()

    with pytest.raises(ChordError, match=r"failed with ValueError"):
        result.get(timeout=60)
    assert largest(work) <= LIMIT


def test_who_waits_is_told_when_what_follows_a_failure_cannot_be_written(
    app: App, fails: Any, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is a dead letter then; nobody else would say so to its caller."""

    def broken(*args: Any, **more: Any) -> None:
        raise RuntimeError("errbacks are broken")

    monkeypatch.setattr(failing, "call_errbacks", broken)
    result = fails.apply_async((1,), link_error=[fails.s()])
    work()

    with pytest.raises(RuntimeError, match="errbacks are broken"):
        result.get(timeout=60)
    [dead] = [each for each in work.outcomes[-1].publish if each.exchange == "amqptasks.dead"]
    assert dead.routing_key == "amqptasks"


def test_arguments_that_no_result_can_carry_are_told_as_text(app: App, work: Work) -> None:
    """`result_extended`, and a call in pickle: the task has ended well, and that is what its caller wants to know."""
    app.conf.update(result_extended=True, accept_content=["json", "pickle"])

    @app.task(serializer="pickle")
    def count(things: set[int], *, by: set[int]) -> int:
        return len(things)

    result = count.delay({1, 2}, by={3})
    work()

    assert result.get(timeout=60) == 2
    assert result.args == "({1, 2},)"
    assert result.kwargs == "{'by': {3}}"
    assert result.worker == "w1@test"


def test_a_result_that_cannot_be_written_stays_a_failure_with_extended_results(app: App, work: Work) -> None:
    app.conf.result_extended = True

    @app.task
    def make() -> set[int]:
        return {1}

    result = make.delay()
    work()

    with pytest.raises(EncodeError, match="type set"):
        result.get(timeout=60)
    assert result.args == []
