"""Random canvases through a real broker and a prefork worker come to what they come to in plain Python."""

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from amqptasks import chord, group
from amqptasks.canvas import parts
from amqptasks.errors import ChordError, NotFound
from integration.apps.canvas_tasks import app
from integration.support import WorkerProcess, wait_until
from tests.support.canvases import Tree, built, expected, seen, trees

LONGEST = 30.0
SOME = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # shrinking would wait for each stalled canvas
)


@pytest.fixture(scope="module")
def running(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker of the trees' tasks; this process's app is its client."""
    log = tmp_path_factory.mktemp("canvas") / "worker.log"
    before = app.conf.broker_url
    app.conf.broker_url = broker_url
    app.set_current()
    with WorkerProcess("integration.apps.canvas_tasks", "-c", "2", log=log, broker_url=broker_url) as worker:
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
