"""Results together, what hangs on a call, and callbacks: gathered in one pass, asked in one question."""

from __future__ import annotations

import asyncio
import pickle
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from amqptasks import App, AsyncResult, GroupResult, ResultSet, states
from amqptasks.backends.base import Meta
from amqptasks.backends.memory import MemoryBackend
from amqptasks.errors import ImproperlyConfigured, ResultError, TaskRevoked, TimeoutError, WouldDeadlock
from amqptasks.request import Request
from amqptasks.result import result_from_tuple
from amqptasks.waiting import home, running


class Counting(MemoryBackend):
    """Counts how often it is asked."""

    def __init__(self, conf: Any) -> None:
        super().__init__(f"memory://{uuid.uuid4()}")
        self.watched: list[int] = []
        self.asked: list[int] = []

    def watch(self, task_ids: Sequence[str], timeout: float | None) -> Iterator[Meta]:
        self.watched.append(len(task_ids))
        return super().watch(task_ids, timeout)

    def fetch_all(self, task_ids: Sequence[str]) -> Iterator[Meta]:
        self.asked.append(len(task_ids))
        return super().fetch_all(task_ids)


@pytest.fixture
def app() -> Iterator[App]:
    before = home.app
    with App("proj", broker=f"memory://{uuid.uuid4()}", backend=f"{__name__}:Counting") as made:
        yield made
    home.app = before


@pytest.fixture
def backend(app: App) -> Counting:
    assert isinstance(app.backend, Counting)
    return app.backend


def end(backend: Counting, id: str, value: Any = None, state: str = states.SUCCESS, **more: Any) -> None:
    backend.store(Meta(task_id=id, status=state, result=value, **more), lambda _: None)


def results(app: App, *ids: str) -> list[AsyncResult[Any]]:
    return [app.AsyncResult(id) for id in ids]


# --- sets ----------------------------------------------------------------------------------------------------


def test_ten_thousand_are_gathered_in_one_pass_as_they_arrive(app: App, backend: Counting) -> None:
    ids = [str(number) for number in range(10_000)]
    group = GroupResult("g", results(app, *ids), app=app)
    worker = threading.Thread(target=lambda: [end(backend, id, int(id)) for id in ids])
    worker.start()
    called: list[tuple[str, Any]] = []

    values = group.get(timeout=60, callback=lambda id, value: called.append((id, value)))
    worker.join()

    assert values == list(range(10_000))
    assert sorted(called) == sorted((id, int(id)) for id in ids)
    assert backend.watched == [10_000]


def test_ten_thousand_are_asked_in_one_question(app: App, backend: Counting) -> None:
    ids = [str(number) for number in range(10_000)]
    group = GroupResult("g", results(app, *ids), app=app)
    for id in ids[:-1]:
        end(backend, id)

    assert (group.ready(), group.completed_count(), group.failed()) == (False, 9999, False)
    end(backend, ids[-1], ValueError("x"), states.FAILURE)
    assert (group.ready(), group.successful(), group.failed()) == (True, False, True)
    # Those that have ended are not asked for again.
    assert backend.asked == [10_000, 1, 1, 1]


def test_callbacks_are_called_as_results_arrive(app: App, backend: Counting) -> None:
    seen: list[Any] = []
    end(backend, "a", 1)
    end(backend, "b", {"done": 1}, "PROGRESS")

    with pytest.raises(TimeoutError):
        ResultSet(results(app, "a", "b")).get(
            timeout=0.1,
            callback=lambda id, value: seen.append((id, value)),
            on_message=lambda state: seen.append(state["status"]),
        )

    assert seen == ["SUCCESS", ("a", 1), "PROGRESS"]


def test_iter_native_yields_the_first_that_ends_first(app: App, backend: Counting) -> None:
    arriving = ResultSet(results(app, "a", "b")).iter_native(timeout=60)
    end(backend, "b", 2)
    first = next(arriving)
    end(backend, "a", 1)

    assert [first[0], *(id for id, _ in arriving)] == ["b", "a"]


def test_a_set_is_changed_like_a_set_and_read_like_a_list(app: App) -> None:
    a, b, c = results(app, "a", "b", "c")
    together = ResultSet([a, b], app)
    together.add(b)
    together.update([b, c])
    together.remove("a")
    together.discard("nothing")

    assert (list(together), len(together), together[0]) == ([b, c], 2, b)
    assert together == ResultSet([b, c])
    assert pickle.loads(pickle.dumps(together)) == together
    assert repr(together) == "<ResultSet: [b, c]>"
    with pytest.raises(KeyError):
        together.remove("a")
    together.clear()
    assert together.ready()


def test_a_failure_that_is_known_is_thrown(app: App, backend: Counting) -> None:
    end(backend, "a", 1)
    together = ResultSet(results(app, "a", "b"))
    together.maybe_throw()
    end(backend, "b", ValueError("x"), states.FAILURE)

    with pytest.raises(ValueError, match="x"):
        together.maybe_throw()


def test_forget_drops_all(app: App, backend: Counting) -> None:
    end(backend, "a", 1)
    end(backend, "p", 1)
    member = AsyncResult[Any]("a", backend, parent=app.AsyncResult("p"))
    ResultSet([member]).forget()

    assert (backend.fetch("a"), backend.fetch("p")) == (None, None)


def test_a_set_is_revoked_by_one_message(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(
        app.control, "revoke", lambda ids, **options: told.append((ids, options["terminate"]))
    )
    inner = GroupResult("inner", results(app, "a", "b"), app=app)

    ResultSet([inner, *results(app, "c")]).revoke(terminate=True)
    ResultSet([]).revoke()

    assert told == [(["a", "b", "c"], True)]


def test_calls_with_a_stamp_are_revoked_by_any_result_of_the_app(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(
        app.control,
        "revoke_by_stamped_headers",
        lambda headers, **options: told.append((headers, options)),
    )

    results(app, "a")[0].revoke_by_stamped_headers({"tenant": ["acme"]}, wait=True)

    options = {"terminate": False, "signal": None, "reply": True, "timeout": 1.0}
    assert told == [({"tenant": ["acme"]}, options)]


# --- groups --------------------------------------------------------------------------------------------------


def test_a_group_of_groups_is_one_pass_too(app: App, backend: Counting) -> None:
    for number, id in enumerate("abc"):
        end(backend, id, number)
    inner = GroupResult("inner", results(app, "a", "b"), app=app)
    outer = GroupResult("outer", [inner, *results(app, "c")], app=app)

    assert outer.get(timeout=60) == [[0, 1], 2]
    assert backend.watched == [3]
    assert (outer.completed_count(), outer.successful()) == (2, True)
    assert str(inner) in repr(outer)


def test_a_group_of_groups_may_be_awaited_inside_a_task(app: App, backend: Counting) -> None:
    first, second = results(app, "a", "b")
    outer = GroupResult("o", [first, GroupResult("i", [second])])
    end(backend, "a", 1)
    end(backend, "b", 2)
    token = running.set(Request(id="t", task="proj.asks"))
    try:
        with pytest.raises(WouldDeadlock):
            outer.get(timeout=60)
        assert outer.get(timeout=60, disable_sync_subtasks=False) == [1, [2]]
        assert asyncio.run(outer.aget(timeout=60, disable_sync_subtasks=False)) == [1, [2]]
    finally:
        running.reset(token)


def test_a_group_is_saved_and_restored(app: App, backend: Counting) -> None:
    end(backend, "a", 1)
    GroupResult("g", results(app, "a"), app.AsyncResult("p"), app).save()

    restored = GroupResult.restore("g", app=app)

    assert restored is not None
    assert (restored.id, restored.get(timeout=60), restored.parent) == ("g", [1], "p")
    restored.delete()
    assert GroupResult.restore("g", app=app) is None


def test_a_backend_that_stores_nothing_says_so() -> None:
    with App("rpc", broker=f"memory://{uuid.uuid4()}") as app:
        group = GroupResult("g", [], app=app)
        with pytest.raises(ImproperlyConfigured, match=r"rpc:// keeps no groups; use a store"):
            group.save()
        with pytest.raises(ImproperlyConfigured, match="as_tuple"):
            GroupResult.restore("g", app=app)


# --- what hangs on a call ------------------------------------------------------------------------------------


@pytest.fixture
def tree(app: App, backend: Counting) -> AsyncResult[Any]:
    """Root called `a` and a group of `b` and `c`; `a` called `d`."""
    group = (("g", None), [(("b", None), None), (("c", None), None)])
    end(backend, "root", 0, children=[(("a", None), None), group])
    end(backend, "a", 1, children=[(("d", None), None)])
    for number, id in enumerate("bcd", 2):
        end(backend, id, number)
    return app.AsyncResult("root")


def test_what_a_call_called_is_walked_from_the_nearest(tree: AsyncResult[Any]) -> None:
    walked = [(str(parent), str(node)) for parent, node in tree.iterdeps()]

    assert walked == [
        ("None", "root"),
        ("root", "a"),
        ("root", "g"),
        ("a", "d"),
        ("g", "b"),
        ("g", "c"),
    ]
    assert [value for _, value in tree.collect(timeout=60)] == [0, 1, [2, 3], 4, 2, 3]
    assert tree.get_leaf() == 3
    assert {str(node): [str(child) for child in below] for node, below in tree.graph.items()} == {
        "root": ["a", "g"],
        "a": ["d"],
        "g": ["b", "c"],
        "d": [],
        "b": [],
        "c": [],
    }


def test_what_has_not_ended_cannot_be_followed(app: App, backend: Counting, tree: AsyncResult[Any]) -> None:
    end(backend, "root2", 0, children=[(("later", None), None)])
    root = app.AsyncResult("root2")

    with pytest.raises(ResultError, match="later called cannot be followed yet"):
        list(root.iterdeps())
    assert [str(node) for _, node in root.iterdeps(intermediate=True)] == ["root2", "later"]
    with pytest.raises(TimeoutError):
        list(root.collect(timeout=0.05))


def test_a_tuple_of_a_tree_comes_back(tree: AsyncResult[Any], app: App) -> None:
    group = tree.children[1]

    assert result_from_tuple(group.as_tuple(), app) == group
    assert result_from_tuple(tree.as_tuple(), app) == tree
    assert result_from_tuple(None) is None


# --- later ---------------------------------------------------------------------------------------------------


def test_then_is_called_at_once_if_it_has_ended(app: App, backend: Counting) -> None:
    end(backend, "a", 1)
    here: list[Any] = []

    result = app.AsyncResult("a")
    assert result.then(lambda ended: here.append((ended.get(), threading.current_thread()))) is result

    assert here == [(1, threading.current_thread())]


@pytest.mark.parametrize("kind", ["one", "set"])
def test_then_is_called_when_it_ends(app: App, backend: Counting, kind: str) -> None:
    called = threading.Event()
    states_seen: list[Any] = []
    handle: Any = app.AsyncResult("a") if kind == "one" else ResultSet(results(app, "a"))
    handle.then(lambda ended: (states_seen.append(ended.failed()), called.set()))
    end(backend, "a", ValueError("x"), states.FAILURE)

    assert called.wait(60)
    assert states_seen == [True]


def test_what_a_callback_raises_is_told_or_logged(
    app: App, backend: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    end(backend, "a", 1)
    told: list[Exception] = []

    app.AsyncResult("a").then(lambda ended: 1 / 0, told.append)
    app.AsyncResult("a").then(lambda ended: 1 / 0)

    assert isinstance(told[0], ZeroDivisionError)
    assert "a callback for the result a" in caplog.text


def test_exists_tells_a_call_from_nothing(app: App, backend: Counting) -> None:
    end(backend, "a", 1)

    assert (app.AsyncResult("a").exists(), app.AsyncResult("b").exists()) == (True, False)


def test_an_eager_result_is_complete(app: App) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    result = add.apply((2, 2))
    seen: list[Any] = []
    result.then(seen.append)

    assert (result.get(), result.ready(), result.children, list(result.collect())) == (
        4,
        True,
        [],
        [(result, 4)],
    )
    assert ResultSet([result, add.apply((1, 1))]).get(timeout=0) == [4, 2]
    assert seen == [result]
    result.revoke()
    assert result.state == states.REVOKED
    with pytest.raises(TaskRevoked):
        result.get()
