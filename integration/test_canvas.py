"""Random canvases through a real broker and a prefork worker come to what they come to in plain Python."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from amqptasks import chord, group
from amqptasks.canvas import parts
from amqptasks.errors import ChordError, NotFound
from integration.apps.canvas_tasks import app
from integration.support import WorkerProcess, wait_until
from tests.support.canvases import Failure, Tree, built, collected, expected, flat, seen, trees

LONGEST = 60.0
SOME = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # shrinking would wait for each stalled canvas
)


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the errback `tree.note` leaves the ids that it was called with."""
    path = tmp_path_factory.mktemp("errors") / "ids"
    path.touch()
    return path


@pytest.fixture(scope="module")
def running(
    broker_url: str, errors: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    """A worker of the trees' tasks; this process's app is its client."""
    log = tmp_path_factory.mktemp("canvas") / "worker.log"
    before = app.conf.broker_url
    app.conf.broker_url = broker_url
    app.set_current()
    env = {"CANVAS_ERRORS": str(errors)}
    with WorkerProcess(
        "integration.apps.canvas_tasks", "-c", "2", log=log, broker_url=broker_url, env=env
    ) as worker:
        yield worker
        app.close()
    app.conf.broker_url = before


@SOME
@given(tree=trees())
def test_a_canvas_comes_to_what_plain_python_comes_to(running: WorkerProcess, tree: Tree) -> None:
    result = built(app, tree).apply_async()

    assert seen(result.get(timeout=LONGEST, propagate=False)) == expected(tree)


@SOME
@given(tree=trees(failing=True))
def test_a_failing_canvas_fails_as_specified(running: WorkerProcess, tree: Tree) -> None:
    result = built(app, tree).apply_async()

    assert seen(result.get(timeout=LONGEST, propagate=False)) == expected(tree)


@settings(SOME, max_examples=20)
@given(members=st.lists(trees(3, failing=True), min_size=1, max_size=3))
def test_a_header_s_states_and_the_body_s_errbacks_are_as_specified(
    running: WorkerProcess, errors: Path, members: list[Tree]
) -> None:
    """The members' own outcomes, whatever becomes of the body; one call of its errback, if one failed."""
    body = app.tasks["tree.hash"].s().on_error(app.tasks["tree.note"].s())

    result = chord([built(app, member) for member in members], body).apply_async()
    value = seen(result.get(timeout=LONGEST, propagate=False))

    states = [collected(member) for member in flat(members)]
    failed = any(isinstance(state, Failure) for state in states)
    assert seen(result.parent.get(timeout=LONGEST, propagate=False)) == states
    assert isinstance(value, Failure) == failed
    wait_until(lambda: result.id in errors.read_text() or not failed, 10, "the errback was called")
    assert errors.read_text().split().count(result.id) == failed


def leaf(*args: int) -> Any:
    return app.tasks["tree.hash"].s(*args)


def test_a_chord_leaves_no_queue_behind(running: WorkerProcess) -> None:
    result = chord([leaf(1), leaf(2)], leaf()).apply_async()
    result.get(timeout=LONGEST)

    def gone() -> bool:
        try:
            app.connection.inspect(parts.queue_of(result.parent.id))
        except NotFound:
            return True
        return False

    wait_until(gone, 10, "the chord's queue is deleted")


def test_a_header_of_hundreds_is_one_list_in_order(running: WorkerProcess) -> None:
    numbers = app.tasks["celery.accumulate"]

    result = chord((numbers.s(number, index=0) for number in range(500)), numbers.s(index=0)).apply_async()

    assert result.get(timeout=60) == list(range(500))
    assert result.parent.get(timeout=60) == list(range(500))


def test_without_a_result_backend_chords_run_all_the_same(
    broker_url: str, worker: Callable[..., WorkerProcess], tmp_path: Any
) -> None:
    bodies = tmp_path / "bodies"
    worker(
        "integration.apps.canvas_tasks", "-c", "2", "-Q", "lonely", "-n", "lonely@here",
        broker_url=broker_url,
        env={"CHORD_BODIES": str(bodies), "AMQPTASKS_RESULT_BACKEND": "disabled"},
    )  # fmt: skip
    member, body = (
        app.tasks["integration.apps.canvas_tasks.member"],
        app.tasks["integration.apps.canvas_tasks.body"],
    )
    backend = app.conf.result_backend
    app.close()
    app.conf.broker_url, app.conf.result_backend = broker_url, None
    try:
        chord(
            [member.s(n, 0.0).set(queue="lonely") for n in range(5)], body.s(7).set(queue="lonely")
        ).apply_async()
    finally:
        app.close()
        app.conf.result_backend = backend

    wait_until(lambda: bodies.exists() and bodies.read_text(), 20, "the body ran")
    assert bodies.read_text().split()[0::2] == ["7", "5"]


def test_an_error_names_the_member(running: WorkerProcess) -> None:
    result = (
        group(leaf(1), app.tasks["tree.boom"].s().set(task_id=(name := str(uuid.uuid4())))) | leaf()
    ).delay()

    with pytest.raises(ChordError, match=f"Dependency {name} raised ValueError"):
        result.get(timeout=LONGEST)
