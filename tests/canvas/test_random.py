"""Random canvases through a broker in memory come to what the same composition comes to in plain Python."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amqptasks import App, chord
from amqptasks.canvas.shaping import shaped
from amqptasks.testing import RunningWorker, running_worker
from amqptasks.waiting import home
from tests.support.canvases import Failure, Tree, built, collected, expected, flat, register, seen, trees

LONGEST = 60.0
"""Seconds that a canvas may take before it counts as stalled."""
QUICK = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    before = home.app
    with App("tree", broker=f"memory://{uuid.uuid4()}") as made:
        register(made)
        yield made
    home.app = before


@pytest.fixture(scope="module")
def errors(app: App) -> list[str]:
    """The ids that the errback `tree.note` was called with."""
    noted: list[str] = []

    @app.task(name="tree.note")
    def note(request: Any, exc: Any, traceback: Any) -> None:
        noted.append(request.id)

    return noted


@pytest.fixture(scope="module")
def worker(app: App, errors: list[str]) -> Iterator[RunningWorker]:
    with running_worker(app) as running:
        yield running


def outcome(app: App, tree: Tree) -> Any:
    result = built(app, tree).apply_async()
    return seen(result.get(timeout=LONGEST, propagate=False))


@QUICK
@given(tree=trees())
def test_a_canvas_comes_to_what_plain_python_comes_to(app: App, worker: RunningWorker, tree: Tree) -> None:
    assert outcome(app, tree) == expected(tree)


@QUICK
@given(tree=trees(failing=True))
def test_a_failing_canvas_fails_as_specified(app: App, worker: RunningWorker, tree: Tree) -> None:
    assert outcome(app, tree) == expected(tree)


@QUICK
@given(tree=trees())
def test_running_in_place_comes_to_the_same(app: App, tree: Tree) -> None:
    assert seen(built(app, tree).apply().get()) == expected(tree)


@settings(QUICK, max_examples=200)
@given(tree=trees())
def test_shaping_twice_is_shaping_once(app: App, tree: Tree) -> None:
    once = shaped(built(app, tree))

    assert shaped(once) == once


@settings(QUICK, max_examples=200)
@given(tree=trees())
def test_shaping_changes_nothing_of_what_it_is_given(app: App, tree: Tree) -> None:
    sig = built(app, tree)
    before = repr(sig), dict(sig)

    shaped(sig)

    assert (repr(sig), dict(sig)) == before


@QUICK
@given(members=st.lists(trees(3, failing=True), min_size=1, max_size=3))
def test_a_header_s_states_and_the_body_s_errbacks_are_as_specified(
    app: App, worker: RunningWorker, errors: list[str], members: list[Tree]
) -> None:
    """The members' own outcomes, whatever becomes of the body; one call of its errback, if one failed."""
    errors.clear()
    body = app.tasks["tree.hash"].s().on_error(app.tasks["tree.note"].s())

    result = chord([built(app, member) for member in members], body).apply_async()
    value = seen(result.get(timeout=LONGEST, propagate=False))
    worker.wait_until_idle()

    states = [collected(member) for member in flat(members)]
    failed = any(isinstance(state, Failure) for state in states)
    assert seen(result.parent.get(timeout=LONGEST, propagate=False)) == states
    assert isinstance(value, Failure) == failed
    assert errors == [result.id] * failed
