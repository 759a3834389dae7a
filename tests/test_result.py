"""Results: what the client's handle says, waits for and raises."""

from __future__ import annotations

import builtins
import pickle
import traceback
from typing import Any

import pytest

from amqptasks import App, AsyncResult, GroupResult, Task, allow_join_result
from amqptasks.errors import (
    NoBackend,
    ResultElsewhere,
    ResultIgnored,
    TimeoutError,
    WouldDeadlock,
)
from amqptasks.result import result_from_tuple
from amqptasks.waiting import RemoteTraceback
from tests.working import Work


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="proj.add")
    def add(x: Any, y: Any) -> Any:
        return x + y

    return add


# --- one result ----------------------------------------------------------------------------------------------


def test_a_result_is_pending_until_it_has_come(app: App, add: Any, work: Work) -> None:
    result = add.delay(4, 4)
    before = (result.state, result.status, result.ready(), result.result)
    work(1)

    assert before == ("PENDING", "PENDING", False, None)
    assert result.get(timeout=60) == 8
    assert (result.state, result.ready(), result.successful(), result.failed()) == (
        "SUCCESS",
        True,
        True,
        False,
    )
    assert (result.result, result.info, result.name) == (8, 8, "proj.add")


def test_a_failure_is_raised_with_class_arguments_and_remote_traceback(
    app: App, add: Any, work: Work
) -> None:
    result = add.delay(2, "2")
    work(1)

    with pytest.raises(builtins.TypeError) as caught:
        result.get(timeout=60)

    error = caught.value
    assert error.args == ("unsupported operand type(s) for +: 'int' and 'str'",)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "return x + y" in "".join(traceback.format_exception(error))
    assert (result.failed(), result.successful()) == (True, False)
    assert "return x + y" in (result.traceback or "")


def test_propagate_false_returns_the_exception(app: App, add: Any, work: Work) -> None:
    result = add.delay(2, "2")
    work(1)

    assert isinstance(result.get(timeout=60, propagate=False), builtins.TypeError)


def test_a_repeated_get_answers_again(app: App, add: Any, work: Work) -> None:
    result = add.delay(2, 2)
    work(1)

    assert [result.get(timeout=60), result.get(), app.AsyncResult(result.id).get()] == [4, 4, 4]


def test_a_timeout_is_the_builtin_one_too(app: App, add: Any) -> None:
    result = add.delay(2, 2)

    with pytest.raises(builtins.TimeoutError) as caught:
        result.get(timeout=0.05)

    assert isinstance(caught.value, TimeoutError)
    assert result.id in str(caught.value)


def test_an_ignored_result_says_so(app: App, add: Any, work: Work) -> None:
    result = add.apply_async((2, 2), ignore_result=True)
    work(1)

    assert result.ignored
    assert result.state == "PENDING"
    with pytest.raises(ResultIgnored, match="ignore_result=False"):
        result.get(timeout=60)


@pytest.mark.parametrize(
    ("setting", "option", "call", "ignored"),
    [
        (False, None, None, False),
        (True, None, None, True),
        (True, False, None, False),
        (False, True, None, True),
        (False, True, False, False),
        (True, False, True, True),
    ],
)
def test_ignore_result_setting_then_task_then_call(
    app: App, setting: bool, option: bool | None, call: bool | None, ignored: bool
) -> None:
    app.conf.task_ignore_result = setting

    @app.task(ignore_result=option)
    def noop() -> None: ...

    options: dict[str, Any] = {} if call is None else {"ignore_result": call}

    assert noop.apply_async(**options).ignored is ignored


def test_without_a_backend_there_is_no_reply_queue_and_get_says_why() -> None:
    with App("proj", broker="memory://without-backend", backend=None, set_as_current=False) as app:

        @app.task(name="proj.noop")
        def noop() -> None: ...

        result = noop.delay()
        sent = app.connection.get("amqptasks")

        with pytest.raises(NoBackend, match='backend="rpc://"'):
            result.get(timeout=1)
        assert sent is not None
        assert b"amqptasks.reply" not in sent.header


def test_an_unknown_id_is_told_apart_at_once(app: App) -> None:
    with pytest.raises(ResultElsewhere, match="nope"):
        app.AsyncResult("nope").get()


def test_get_inside_a_task_is_refused_unless_allowed(app: App, add: Any) -> None:
    @app.task(bind=True)
    def outer(self: Task[..., Any], allowed: bool) -> Any:
        result = AsyncResult[Any]("other", app=app)
        if allowed:
            with allow_join_result():
                return result.get(timeout=0.01)
        return result.get(timeout=0.01)

    with pytest.raises(WouldDeadlock, match=r"use a chain"):
        outer.apply((False,)).get()
    with pytest.raises(ResultElsewhere):
        outer.apply((True,)).get()


def test_get_calls_back_with_id_and_value(app: App, add: Any, work: Work) -> None:
    seen: list[tuple[str, Any]] = []
    result = add.delay(2, 2)
    work(1)

    result.get(timeout=60, callback=lambda id, value: seen.append((id, value)))

    assert seen == [(result.id, 4)]


def test_track_started_is_seen_before_the_value(app: App, work: Work) -> None:
    @app.task(track_started=True)
    def noop() -> int:
        return 1

    result = noop.delay()
    states: list[str] = []
    work(1)
    result.get(timeout=60, on_message=lambda body: states.append(body["status"]))

    assert states[-1] == "SUCCESS"
    assert set(states) <= {"STARTED", "SUCCESS"}


def test_result_extended_brings_the_call_s_own_facts(app: App, add: Any, work: Work) -> None:
    app.conf.result_extended = True
    id = add.delay(2, y=2).id
    work(1)
    result = app.AsyncResult(id)
    result.get(timeout=60)

    assert (result.name, result.args, result.kwargs) == ("proj.add", [2], {"y": 2})
    assert (result.worker, result.retries, result.queue) == ("w1@test", 0, "amqptasks")


def test_forget_drops_it(app: App, add: Any, work: Work) -> None:
    result = add.delay(2, 2)
    work(1)
    result.get(timeout=60)

    result.forget()

    assert result.state == "PENDING"


def test_results_are_equal_by_id_and_travel_by_pickle(app: App) -> None:
    result = AsyncResult[int]("t1", app=app)

    copy = pickle.loads(pickle.dumps(result))

    assert copy == result == "t1"
    assert len({result, copy}) == 1
    assert copy.backend is app.backend
    assert (str(result), repr(result)) == ("t1", "<AsyncResult: t1>")


def test_a_tuple_says_a_result_and_its_parents() -> None:
    parent = AsyncResult[int]("p")
    child = AsyncResult[int]("c", parent=parent)

    assert child.as_tuple() == (("c", (("p", None), None)), None)
    back = result_from_tuple([["c", [["p", None], None]], None])
    assert back == child
    assert isinstance(back, AsyncResult)
    assert back.parent == parent


# --- groups --------------------------------------------------------------------------------------------------


def test_a_group_gathers_in_order(app: App, add: Any, work: Work) -> None:
    results = [add.delay(number, number) for number in range(20)]
    group = GroupResult("g", results, app=app)
    work()

    assert group.get(timeout=60) == [2 * number for number in range(20)]
    assert (group.ready(), group.successful(), group.failed(), group.waiting()) == (True, True, False, False)
    assert (group.completed_count(), len(group), group[3].get()) == (20, 20, 6)
    assert group.join() == group.get()


def test_a_group_raises_the_first_failure_or_returns_it(app: App, add: Any, work: Work) -> None:
    group = GroupResult("g", [add.delay(1, 1), add.delay(1, "1")], app=app)
    work()

    with pytest.raises(builtins.TypeError):
        group.get(timeout=60)
    values = group.get(timeout=60, propagate=False)

    assert values[0] == 2
    assert isinstance(values[1], builtins.TypeError)
    assert (group.failed(), group.successful(), group.completed_count()) == (True, False, 1)


def test_a_group_s_timeout_is_for_all_together(app: App, add: Any, work: Work) -> None:
    group = GroupResult("g", [add.delay(1, 1), add.delay(2, 2)], app=app)
    work(1)

    with pytest.raises(TimeoutError):
        group.get(timeout=0.1)
    assert group.waiting()


def test_iter_native_yields_each_as_it_ends(app: App, add: Any, work: Work) -> None:
    results = [add.delay(number, 0) for number in range(3)]
    work()

    ended = dict(GroupResult("g", results, app=app).iter_native(timeout=60))

    assert {id: body["result"] for id, body in ended.items()} == {
        result.id: number for number, result in enumerate(results)
    }


def test_a_group_tells_which_member_sends_no_result(app: App, add: Any) -> None:
    group = GroupResult("g", [add.apply_async((1, 1), ignore_result=True)], app=app)

    with pytest.raises(ResultIgnored, match="group g"):
        group.get(timeout=1)


def test_an_empty_group_is_ready(app: App) -> None:
    group = GroupResult("g", [], app=app)

    assert group.get(timeout=0) == []
    assert group.successful()
