"""What `|` and `chain()` make, against Celery's own canvas: the same dictionaries, in both directions."""

from __future__ import annotations

import functools
import json
import operator
from typing import Any

import celery
import celery.canvas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amqptasks import App, signature
from tests.support.canvases import Tree, built, register, trees

PEER = celery.Celery("peer", set_as_current=False)
MANY = settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
PIPES = st.lists(trees(3), min_size=2, max_size=4)


@pytest.fixture(scope="module", autouse=True)
def peers_tasks() -> None:
    for name in ("hash", "list", "boom"):
        PEER.task(name=f"tree.{name}")(lambda *args: None)


@pytest.fixture
def trees_app(app: App) -> App:
    register(app)
    return app


def celerys(tree: Tree) -> Any:
    """Return Celery's own signature of a tree."""
    match tree:
        case ("chain", members):
            return celery.canvas.chain([celerys(member) for member in members])
        case ("group", members):
            return celery.canvas.group([celerys(member) for member in members], app=PEER)
        case ("chord", members, body):
            return celery.canvas.chord([celerys(member) for member in members], celerys(body), app=PEER)
    name, args, immutable = tree
    return PEER.signature(f"tree.{name}", args=args, immutable=immutable)


def plain(sig: Any) -> Any:
    return json.loads(json.dumps(sig))


@MANY
@given(tree=trees())
def test_a_canvas_is_the_dictionary_that_celery_makes(trees_app: App, tree: Tree) -> None:
    assert plain(built(trees_app, tree)) == plain(celerys(tree))


@MANY
@given(steps=PIPES)
def test_pipes_make_what_they_make_in_celery(trees_app: App, steps: list[Tree]) -> None:
    ours = functools.reduce(operator.or_, [built(trees_app, step) for step in steps])
    theirs = functools.reduce(operator.or_, [celerys(step) for step in steps])

    assert plain(ours) == plain(theirs)


@MANY
@given(tree=trees())
def test_celery_s_dictionary_comes_back_as_the_same_canvas(trees_app: App, tree: Tree) -> None:
    sig = signature(plain(celerys(tree)), app=trees_app)

    assert plain(sig) == plain(celerys(tree))
    assert type(sig) is type(built(trees_app, tree))


@MANY
@given(tree=trees())
def test_celery_reads_what_we_write(trees_app: App, tree: Tree) -> None:
    theirs = celery.canvas.Signature.from_dict(plain(built(trees_app, tree)), app=PEER)

    assert plain(theirs) == plain(celerys(tree))
