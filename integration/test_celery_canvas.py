"""Canvases over a mixed cluster: each task runs on a worker of ours or on one of Celery's, chords are joined by ours."""

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from amqptasks import chain, chord
from amqptasks.canvas.rules import leaves
from amqptasks.errors import ChordError
from integration.apps.canvas_tasks import app
from integration.support import CeleryWorker, WorkerProcess
from integration.support.peers import LEAN, printed_queues
from tests.support.canvases import Tree, built, expected, seen, trees

LONGEST = 60.0
EXAMPLES = 200 if os.environ.get("AMQPTASKS_TEST_FAULTS") == "full" else 40
SOME = settings(
    deadline=None,
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)


@pytest.fixture(scope="module", autouse=True)
def cluster(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("cluster")
    queues = printed_queues(broker_url, folder, "integration.apps.canvas_tasks")
    theirs = CeleryWorker(
        "integration.apps.canvas_theirs", "-Q", "theirs", "-c", "2", *LEAN,
        log=folder / "celery.log", broker_url=broker_url, env={"INTEROP_QUEUES": queues},
    )  # fmt: skip
    ours = WorkerProcess(
        "integration.apps.canvas_tasks", "-c", "2", log=folder / "ours.log", broker_url=broker_url
    )
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(lambda worker: worker.start(), (ours, theirs)))
    before = app.conf.broker_url
    app.conf.broker_url = broker_url
    app.set_current()
    with ours, theirs:
        yield
        app.close()
        app.conf.broker_url = before
        theirs.end()  # its warm shutdown takes seconds, and is not ours to test


def placed(sig: Any, seed: int) -> Any:
    """Send each task of a canvas to one side or the other."""
    chosen = random.Random(seed)
    for task in leaves(sig):
        if chosen.random() < 0.5:
            task.set(queue="theirs")
    return sig


@SOME
@given(tree=trees(), seed=st.integers(0, 1000))
def test_a_canvas_over_both_comes_to_what_plain_python_comes_to(tree: Tree, seed: int) -> None:
    result = placed(built(app, tree), seed).apply_async()

    assert seen(result.get(timeout=LONGEST, propagate=False)) == expected(tree)


def task(name: str, *args: Any) -> Any:
    return app.tasks[f"tree.{name}"].s(*args)


def theirs(name: str, *args: Any) -> Any:
    return task(name, *args).set(queue="theirs")


def test_a_member_that_fails_on_celery_s_worker_fails_the_body() -> None:
    boom = theirs("boom").set(task_id="it-was-me")

    with pytest.raises(ChordError, match="Dependency it-was-me raised"):
        chord([task("hash", 1), boom], task("hash")).delay().get(timeout=LONGEST)


def test_a_failure_on_celery_s_worker_is_told_to_who_waits_for_a_chord_after_it() -> None:
    result = chain(theirs("boom"), chord([task("hash", 1)], task("hash")), task("hash")).apply_async()

    with pytest.raises(Exception, match="boom"):
        result.get(timeout=LONGEST)
