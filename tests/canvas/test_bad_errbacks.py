"""Errbacks that cannot be called: a mistake of theirs changes nothing for who waits."""

from __future__ import annotations

from typing import Any

import pytest

from amqptasks import App, chord
from amqptasks.errors import ChordError
from tests.working import Work


@pytest.fixture
def fails(app: App) -> Any:
    @app.task(name="proj.fails", throws=(ValueError,))
    def fails() -> None:
        raise ValueError("no")

    return fails


@pytest.fixture
def takes_nothing(app: App) -> Any:
    @app.task(name="proj.takes_nothing")
    def takes_nothing() -> None: ...

    return takes_nothing


def test_a_failure_is_told_though_its_errback_takes_no_id(
    app: App, fails: Any, takes_nothing: Any, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    @app.task(name="proj.tells")
    def tells(task_id: str) -> None:
        seen.append(task_id)

    result = fails.apply_async(link_error=[takes_nothing.s(), tells.s()])
    work.all()

    with pytest.raises(ValueError, match="no"):
        result.get(timeout=60)
    assert seen == [result.id], "the others are called all the same"
    assert "errback proj.takes_nothing could not be called" in caplog.text


@pytest.mark.parametrize("address", [{}, {"exchange": "amq.direct", "routing_key": "nowhere"}])
def test_a_join_ends_though_an_errback_of_its_body_cannot_be_called(
    app: App, fails: Any, add: Any, takes_nothing: Any, work: Work, address: dict[str, str]
) -> None:
    """Tried again it would fail again, for ever."""
    errback = app.signature("elsewhere.tells").set(**address) if address else takes_nothing.s()
    result = chord([fails.s()], add.s().on_error(errback)).apply_async()
    work(1)
    work(1, queue="amqptasks.internal")

    with pytest.raises(ChordError, match="raised ValueError"):
        result.get(timeout=60)
    assert work.outcomes[-1].state == "SUCCESS"
    assert app.connection.inspect("amqptasks.internal").messages == 0
