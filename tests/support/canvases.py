"""Random canvases of deterministic tasks, and what they come to, computed in plain Python.

A canvas is described by a tree of tuples; `built` makes the signature, `value_of` the value or the failure. Needs no
broker and no worker, so every suite can run the same trees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from amqptasks import App, chain, chord, group

Tree = tuple[Any, ...]


def register(app: App, **options: Any) -> None:
    """Give an app the tasks that the trees call."""

    @app.task(name="tree.hash", **options)
    def hash_(*args: Any) -> int:
        return digest(args)

    @app.task(name="tree.boom", throws=(ValueError,), **options)
    def boom(*args: Any) -> int:
        raise ValueError("boom")

    @app.task(name="tree.list", **options)
    def list_(*args: Any) -> list[Any]:
        return listing(args)


def digest(args: Any) -> int:
    """A number that tells what was given, and in which order."""
    total = 17
    for value in args:
        inner = digest(value) if isinstance(value, list | tuple) else int(value)
        total = (total * 31 + inner) % 1_000_003
    return total


def listing(args: Any) -> list[Any]:
    """A value that is no number."""
    return [digest(args), [len(args)]]


# --- trees ----------------------------------------------------------------------------------------------------


def tasks(failing: bool = False) -> st.SearchStrategy[Tree]:
    names = ["hash", "list", *(["boom"] if failing else [])]
    return st.tuples(
        st.sampled_from(names), st.lists(st.integers(0, 99), max_size=2).map(tuple), st.booleans()
    )


def trees(depth: int = 4, failing: bool = False) -> st.SearchStrategy[Tree]:
    """Trees at most `depth` levels deep; with `failing` any task may raise."""
    tree: st.SearchStrategy[Tree] = tasks(failing)
    for _ in range(depth - 1):
        inner = tree
        # A chain of one is its step, and in a chain a group of one is its member (Celery's rules): tested apart.
        several = st.lists(inner, min_size=2, max_size=3).map(tuple)
        tree = st.one_of(
            tasks(failing),
            st.tuples(st.just("chain"), several),
            st.tuples(st.just("group"), several),
            st.tuples(st.just("chord"), st.lists(inner, max_size=3).map(tuple), inner),
        )
    return tree


def built(app: App, tree: Tree) -> Any:
    """Return the signature that a tree describes."""
    match tree:
        case ("chain", members):
            return chain([built(app, member) for member in members])
        case ("group", members):
            return group([built(app, member) for member in members])
        case ("chord", members, body):
            return chord([built(app, member) for member in members], built(app, body))
    name, args, immutable = tree
    task = app.tasks[f"tree.{name}"]
    return task.si(*args) if immutable else task.s(*args)


# --- outcomes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A task of the tree raised; `chords` counts the chords that say so in their error, one inside the other."""

    chords: int = 0

    def above(self) -> Failure:
        return Failure(self.chords + 1)


class Side(list[Any]):
    """Outcomes side by side, one for each member of a group."""


class Unrun(Side):
    """A group that was never sent: each member has the failure of what should have come before."""

    def __init__(self, outcomes: Iterable[Any], failure: Failure) -> None:
        super().__init__(outcomes)
        self.failure = failure


def outcome_of(tree: Tree, given: tuple[Any, ...] = ()) -> Any:
    """Return the canvas's value, a Failure, or for a group a `Side` of outcomes."""
    match tree:
        case ("chain", members):
            return _chain(members, given)
        case ("group", members):
            return Side(_members(members, given))
        case ("chord", members, body):
            joined = _joined([collected(member, given) for member in flat(members)])
            return _filled(body, joined) if isinstance(joined, Failure) else outcome_of(body, (joined,))
    name, args, immutable = tree
    called = args if immutable else (*given, *args)
    if name == "boom":
        return Failure()
    return digest(called) if name == "hash" else listing(called)


def _chain(members: Sequence[Tree], given: tuple[Any, ...]) -> Any:
    """What follows a group is called with the list of its values; what follows a failure is not called."""
    *before, last = members
    for member in before:
        outcome = outcome_of(member, given)
        outcome = _collapsed(outcome)
        if isinstance(outcome, Failure):
            return _filled(last, outcome)
        given = (outcome,)
    return outcome_of(last, given)


def flat(members: Sequence[Tree]) -> list[Tree]:
    """Groups in a group are its members."""
    found: list[Tree] = []
    for member in members:
        found.extend(flat(member[1]) if member[0] == "group" else [member])
    return found


def _members(members: Sequence[Tree], given: tuple[Any, ...]) -> list[Any]:
    return [outcome_of(member, given) for member in flat(members)]


def collected(member: Tree, given: tuple[Any, ...] = ()) -> Any:
    """Return what a member of a header gives its body: one value, or the failure."""
    return _collapsed(outcome_of(member, given))


def _collapsed(outcome: Any) -> Any:
    """A group that one value is wanted of, but that nothing follows, is a chord that hands on the list."""
    match outcome:
        case Unrun():
            return outcome.failure
        case Side():
            return _joined([_collapsed(each) for each in outcome])
    return outcome


def _joined(outcomes: Sequence[Any]) -> Any:
    """The list of a header's values; if members failed, what the first of them makes of the body."""
    failed = next((each for each in outcomes if isinstance(each, Failure)), None)
    return list(outcomes) if failed is None else failed.above()


def _filled(tree: Tree, failure: Failure) -> Any:
    """The same failure for every task that a canvas's result waits for."""
    match tree:
        case ("chain", members):
            return _filled(members[-1], failure)
        case ("group", members):
            return Unrun((_filled(member, failure) for member in flat(members)), failure)
        case ("chord", _, body):
            return _filled(body, failure)
    return failure


def seen(value: Any) -> Any:
    """Return what `get(propagate=False)` gave, with each exception as the Failure that it stands for."""
    if isinstance(value, BaseException):
        return Failure(str(value).count("Dependency"))
    return [seen(each) for each in value] if isinstance(value, list | tuple) else value


def expected(tree: Tree) -> Any:
    """Return what `seen` should see of a tree's canvas."""
    return _plain(outcome_of(tree))


def _plain(outcome: Any) -> Any:
    return [_plain(each) for each in outcome] if isinstance(outcome, list) else outcome
