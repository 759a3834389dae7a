"""Tasks: calling them here and elsewhere, what a call may say, retries, runs in place."""

from __future__ import annotations

import functools
import inspect
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqptasks import App, Task, get_task_logger, protocol, signals
from amqptasks.app import current_app
from amqptasks.errors import EncodeError, MaxRetriesExceeded, Retry
from amqptasks.protocol import TaskMessage
from amqptasks.request import Request
from amqptasks.transport import codec
from tests.working import Work

JSON = frozenset({"application/json"})


@pytest.fixture
def sent(app: App) -> Callable[..., TaskMessage]:
    """Take the next message off a queue, decoded."""

    def take(queue: str = "amqptasks") -> TaskMessage:
        delivery = app.connection.get(queue)
        assert delivery is not None, f"nothing in {queue}"
        return protocol.decode(codec.unpack(delivery), accept=JSON, limit=1 << 20)

    return take


# --- calling -------------------------------------------------------------------------------------------------


def test_calling_a_task_runs_it_here(app: App) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert add(2, 2) == 4


def test_delay_sends_what_was_given(app: App, sent: Callable[..., TaskMessage]) -> None:
    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    result = add.delay(2, y=3)
    message = sent()

    assert (message.task, list(message.args), dict(message.kwargs)) == ("proj.add", [2], {"y": 3})
    assert message.id == result.id == str(uuid.UUID(result.id))
    assert message.root_id == result.id
    assert message.parent_id is None
    assert re.fullmatch(r"gen\d+@.+", message.origin or "")


def test_apply_async_carries_its_options(app: App, sent: Callable[..., TaskMessage]) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    expires = datetime(2040, 1, 1, tzinfo=UTC)
    add.apply_async(
        (2, 2),
        task_id="chosen",
        headers={"tenant": "t1"},
        expires=expires,
        time_limit=20,
        soft_time_limit=10,
        ignore_result=True,
        shadow="sum",
        priority=3,
        link=add.s(1),
        link_error=[add.si(0, 0)],
        correlation_id="mine",
        group_id="g",
        group_index=1,
        root_id="r",
        parent_id="p",
    )
    message = sent()

    assert message.id == "chosen"
    assert dict(message.headers) == {"tenant": "t1"}
    assert message.expires == expires
    assert tuple(message.timelimit) == (20, 10)
    assert message.ignore_result is True
    assert (message.shadow, message.priority, message.correlation_id) == ("sum", 3, "mine")
    assert [callback["task"] for callback in message.callbacks or ()] == [add.name]
    assert [errback["immutable"] for errback in message.errbacks or ()] == [True]
    assert (message.group, message.group_index, message.root_id, message.parent_id) == ("g", 1, "r", "p")
    assert message.reply_to is None


def test_options_of_the_task_are_defaults_of_its_calls(app: App, sent: Callable[..., TaskMessage]) -> None:
    @app.task(queue="slow", priority=2, time_limit=60, expires=3600)
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(1, 1)
    add.apply_async((1, 1), priority=7, queue="fast")
    default, chosen = sent("slow"), sent("fast")

    assert (default.priority, chosen.priority) == (2, 7)
    assert tuple(default.timelimit) == tuple(chosen.timelimit) == (60, None)
    assert default.expires is not None


def test_an_option_set_later_counts(app: App, sent: Callable[..., TaskMessage]) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(1, 1)
    add.priority = 5
    add.delay(1, 1)

    assert [sent().priority, sent().priority] == [0, 5]


# --- arguments -----------------------------------------------------------------------------------------------


def refused(call: Callable[..., Any]) -> str:
    with pytest.raises(TypeError) as caught:
        call()
    return str(caught.value)


def test_wrong_arguments_are_refused_where_the_task_is_called(app: App) -> None:
    @app.task(name="proj.add")
    def add(x: int, y: int = 0, *, z: int = 0) -> int:
        return x + y + z

    assert "proj.add(x: 'int', y: 'int' = 0, *, z: 'int' = 0)" in refused(add.delay)
    assert "too many positional" in refused(lambda: add.delay(1, 2, 3))  # type: ignore[call-arg]
    assert "unexpected keyword argument 'q'" in refused(lambda: add.apply_async((1,), {"q": 1}))
    add.delay(1)
    add.delay(1, 2, z=3)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "fits"),
    [
        (lambda *args: None, (1, 2, 3), {}, True),
        (lambda **kwargs: None, (), {"a": 1}, True),
        (lambda a, /, b: None, (1, 2), {}, True),
        (lambda a, /, b: None, (), {"a": 1, "b": 2}, False),
        (lambda *, a: None, (), {}, False),
        (lambda *, a: None, (), {"a": 1}, True),
        (lambda a, b=1: None, (1, 2), {"b": 3}, False),
        (lambda: None, (), {}, True),
        (lambda: None, (1,), {}, False),
    ],
)
def test_the_check_agrees_with_python(
    app: App, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], fits: bool
) -> None:
    task = app.task(name="proj.checked")(function)

    if fits:
        task.delay(*args, **kwargs)
    else:
        refused(lambda: task.delay(*args, **kwargs))


def test_typing_false_lets_anything_pass(app: App) -> None:
    @app.task(typing=False)
    def add(x: int, y: int) -> int:
        return x + y

    assert add.apply_async((1, 2, 3)).id


def test_an_option_given_to_delay_is_told_where_it_belongs(app: App) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    text = refused(lambda: add.delay(2, 2, countdown=10))  # type: ignore[call-arg]

    assert "'countdown' is an option" in text
    assert "apply_async(args, kwargs, countdown=...)" in text


def test_a_keyword_of_the_function_may_be_named_like_an_option(
    app: App, sent: Callable[..., TaskMessage]
) -> None:
    @app.task
    def send(queue: str) -> str:
        return queue

    send.delay(queue="letters")

    assert dict(sent().kwargs) == {"queue": "letters"}


def test_a_misspelt_option_names_the_right_one(app: App) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert "did you mean 'countdown'?" in refused(lambda: add.apply_async((2, 2), countdwn=1))  # type: ignore[call-arg]
    assert "mandatory and confirmed" in refused(lambda: add.apply_async((2, 2), mandatory=True))  # type: ignore[call-arg]


@pytest.mark.parametrize("args", ["22", 2, {1, 2}])
def test_args_must_be_a_sequence(app: App, args: Any) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert "must be a list or tuple" in refused(lambda: add.apply_async(args))


# --- making tasks --------------------------------------------------------------------------------------------


def test_empty_parentheses_and_none_make_the_same(app: App) -> None:
    @app.task()
    def one() -> int:
        return 1

    @app.task
    def two() -> int:
        return 2

    assert (one(), two()) == (1, 2)


def test_a_bound_task_gets_itself(app: App) -> None:
    @app.task(bind=True, name="proj.me")
    def me(self: Task[..., Any], x: int) -> tuple[str, int, bool]:
        return self.name, x, self.request.called_directly

    assert me(3) == ("proj.me", 3, True)
    assert "missing a required argument: 'x'" in refused(me.delay)


def test_the_task_decorator_goes_over_others(app: App) -> None:
    def doubled(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> int:
            return 2 * function(*args)

        return wrapper

    @app.task
    @doubled
    def add(x: int, y: int) -> int:
        """Sum."""
        return x + y

    assert (add(2, 2), getattr(add, "__name__", None), add.__doc__) == (8, "add", "Sum.")
    assert add.name.endswith(".add")
    refused(lambda: add.delay(1, 2, 3))


def test_a_task_may_stand_under_another_decorator(app: App) -> None:
    def kept(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> int:
            return function(*args)

        return wrapper

    @kept
    @app.task(name="proj.inner")
    def add(x: int, y: int) -> int:
        return x + y

    assert add(2, 2) == 4
    assert add.__name__ == "add"
    assert app.tasks["proj.inner"](1, 1) == 2


def test_a_base_class_brings_handlers_and_attributes(app: App) -> None:
    class DatabaseTask(Task[..., Any]):
        _db: str | None = None
        table = "users"

        @property
        def db(self) -> str:
            self._db = self._db or "connected"
            return self._db

    @app.task(base=DatabaseTask, bind=True, table="orders")
    def query(self: Any) -> tuple[str, str]:
        return self.db, self.table

    assert query() == ("connected", "orders")
    assert isinstance(query, DatabaseTask)


def test_an_unknown_task_option_names_the_near_one(app: App) -> None:
    with pytest.raises(TypeError, match="did you mean 'acks_late'"):

        @app.task(ack_late=True)
        def add() -> None: ...


def test_a_soft_limit_above_the_hard_one_is_refused(app: App) -> None:
    with pytest.raises(ValueError, match="must not exceed time_limit"):

        @app.task(time_limit=10, soft_time_limit=20)
        def add() -> None: ...


def test_a_coroutine_task_called_here_gives_the_coroutine(app: App) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    coroutine = add(2, 2)

    assert inspect.iscoroutine(coroutine)
    coroutine.close()


def test_get_task_logger_stands_below_the_task_logger() -> None:
    logger = get_task_logger("proj.tasks")

    assert logger.name == "proj.tasks"
    assert logger.parent is not None
    assert logger.parent.name == "amqptasks.task"


# --- within a run --------------------------------------------------------------------------------------------


def test_the_request_is_the_running_call_s(app: App, work: Work) -> None:
    seen: list[Request] = []

    @app.task(bind=True)
    def look(self: Task[..., Any], x: int) -> None:
        seen.append(self.request)

    result = look.apply_async((1,), headers={"tenant": "t1"})
    work(1)
    request = seen[0]

    assert (request.id, request.task, list(request.args)) == (result.id, look.name, [1])
    assert request.delivery_info["queue"] == "amqptasks"
    assert dict(request.headers) == {"tenant": "t1"}
    assert not request.called_directly
    assert look.request.called_directly


def test_calls_made_in_a_run_know_their_parent_and_root(
    app: App, work: Work, sent: Callable[..., TaskMessage]
) -> None:
    @app.task
    def inner() -> None: ...

    @app.task(bind=True)
    def outer(self: Task[..., Any]) -> None:
        inner.apply_async(queue="inner")

    result = outer.delay()
    work(1)
    message = sent("inner")

    assert (message.parent_id, message.root_id) == (result.id, result.id)
    assert result.get(timeout=60) is None
    assert [child.id for child in result.children] == [message.id]


@pytest.mark.parametrize(("inherit", "priority"), [(True, 4), (False, 0)])
def test_task_inherit_parent_priority(
    app: App, work: Work, sent: Callable[..., TaskMessage], inherit: bool, priority: int
) -> None:
    app.conf.task_inherit_parent_priority = inherit

    @app.task
    def inner() -> None: ...

    @app.task
    def outer() -> None:
        inner.apply_async(queue="inner")

    outer.apply_async(priority=4)
    work(1)

    assert sent("inner").priority == priority


def test_update_state_arrives_before_the_result(app: App, work: Work) -> None:
    @app.task(bind=True)
    def slow(self: Task[..., Any]) -> str:
        self.update_state(state="PROGRESS", meta={"done": 1})
        return "ready"

    result = slow.delay()
    seen: list[tuple[str, Any]] = []
    work(1)
    value = result.get(timeout=60, on_message=lambda body: seen.append((body["status"], body["result"])))

    assert value == "ready"
    assert seen[-1] == ("SUCCESS", "ready")


# --- retry ---------------------------------------------------------------------------------------------------


def run_again(app: App, task: Task[..., Any], *, retries: int = 0, **fields: Any) -> Retry:
    """Run `task` as its `retries + 1`th attempt; return the Retry it raises."""
    message = TaskMessage(id="t1", task=task.name, retries=retries, **fields)
    info = {
        "exchange": "amqptasks",
        "routing_key": "q",
        "queue": "origin",
        "priority": 3,
        "redelivered": False,
    }
    token = task.push_request(Request.made_from(message, delivery_info=info))
    try:
        with pytest.raises(Retry) as caught:
            task(*message.args, **message.kwargs)
        return caught.value
    finally:
        task.pop_request(token)


def test_a_retry_keeps_id_arguments_and_queue(app: App) -> None:
    @app.task(bind=True)
    def flaky(self: Task[..., Any], x: int) -> None:
        raise self.retry(countdown=10, exc=KeyError("k"))

    before = datetime.now(UTC)
    retry = run_again(app, flaky, args=(1,), headers={"h": 1}, chain=[{"task": "next"}], group="g")
    after = datetime.now(UTC)
    message = retry.call.message

    assert (message.id, message.retries, list(message.args), message.group) == ("t1", 1, [1], "g")
    assert message.headers == {"h": 1}
    assert message.chain == [{"task": "next"}]
    assert before <= message.eta - timedelta(seconds=10) <= after
    assert (retry.call.queue, retry.call.address.routing_key) == ("origin", "origin")
    assert str(retry) == "Retry in 10s: KeyError('k')"


def test_without_countdown_the_default_delay_is_three_minutes(app: App) -> None:
    @app.task(bind=True)
    def flaky(self: Task[..., Any]) -> None:
        self.retry()

    assert flaky.default_retry_delay == 3 * 60
    assert run_again(app, flaky).when == 180


def test_retry_may_change_arguments_and_queue(app: App) -> None:
    @app.task(bind=True)
    def flaky(self: Task[..., Any], x: int) -> None:
        self.retry((2,), {"y": 1}, countdown=0.5, queue="elsewhere", priority=4)

    call = run_again(app, flaky, args=(1,)).call

    assert (call.message.args, call.message.kwargs, call.message.priority) == ((2,), {"y": 1}, 4)
    assert call.queue == "elsewhere"


def test_after_max_retries_the_exception_itself_is_raised(app: App) -> None:
    @app.task(bind=True, max_retries=2)
    def flaky(self: Task[..., Any], exc: Exception | None = None) -> None:
        self.retry(exc=exc)

    for error, raised in ((KeyError("k"), KeyError), (None, MaxRetriesExceeded)):
        with pytest.raises(raised), pytest.MonkeyPatch.context():
            token = flaky.push_request(
                Request.made_from(
                    TaskMessage(id="t1", task=flaky.name, retries=2), delivery_info={"queue": "q"}
                )
            )
            try:
                flaky(error)
            finally:
                flaky.pop_request(token)


def test_called_directly_a_retry_raises_the_exception(app: App) -> None:
    @app.task(bind=True)
    def flaky(self: Task[..., Any]) -> None:
        self.retry(exc=KeyError("k"))

    with pytest.raises(KeyError):
        flaky()


def test_throw_false_returns_the_retry_and_leaves_it_on_the_request(app: App) -> None:
    @app.task(bind=True)
    def flaky(self: Task[..., Any]) -> Any:
        return self.retry(throw=False, countdown=1)

    request = Request.made_from(TaskMessage(id="t1", task=flaky.name), delivery_info={"queue": "q"})
    token = flaky.push_request(request)
    try:
        answer = flaky()
    finally:
        flaky.pop_request(token)

    assert request.retried is answer


class FailWhaleError(Exception):
    pass


@pytest.mark.parametrize(
    ("options", "retries", "delay"),
    [
        ({"retry_backoff": True, "retry_jitter": False}, 0, 1),
        ({"retry_backoff": True, "retry_jitter": False}, 3, 8),
        ({"retry_backoff": 3, "retry_jitter": False}, 2, 12),
        ({"retry_backoff": True, "retry_jitter": False, "retry_backoff_max": 5}, 9, 5),
        ({"retry_backoff": 3, "retry_jitter": False, "retry_kwargs": {"countdown": 99}}, 0, 3),
        ({"retry_kwargs": {"countdown": 99}}, 0, 99),
        ({}, 0, 180),
        ({"default_retry_delay": 7}, 0, 7),
    ],
)
def test_autoretry_delays(app: App, options: dict[str, Any], retries: int, delay: float) -> None:
    @app.task(autoretry_for=(FailWhaleError,), max_retries=10, **options)  # type: ignore[untyped-decorator]
    def refresh_timeline() -> None:
        raise FailWhaleError("over capacity")

    assert run_again(app, refresh_timeline, retries=retries).when == delay


def test_jitter_is_between_nothing_and_the_delay(app: App) -> None:
    @app.task(autoretry_for=[FailWhaleError], retry_backoff=True, max_retries=None)
    def refresh_timeline() -> None:
        raise FailWhaleError("over capacity")

    delays = {run_again(app, refresh_timeline, retries=3).when for _ in range(200)}

    assert delays <= set(range(9))
    assert len(delays) > 4


def test_autoretry_gives_up_by_retry_kwargs_and_leaves_others_alone(app: App) -> None:
    @app.task(autoretry_for=(FailWhaleError,), retry_kwargs={"max_retries": 5})
    def refresh_timeline(error: Exception) -> None:
        raise error

    request = Request.made_from(
        TaskMessage(id="t1", task=refresh_timeline.name, retries=5), delivery_info={"queue": "q"}
    )
    token = refresh_timeline.push_request(request)
    try:
        with pytest.raises(FailWhaleError):
            refresh_timeline(FailWhaleError())
        with pytest.raises(KeyError):
            refresh_timeline(KeyError())
    finally:
        refresh_timeline.pop_request(token)

    assert request.retried is None


# --- in place ------------------------------------------------------------------------------------------------


def test_apply_runs_here_with_a_request_and_sends_nothing(app: App) -> None:
    @app.task(bind=True)
    def look(self: Task[..., Any], x: int) -> tuple[bool, bool, int]:
        return self.request.is_eager, self.request.called_directly, x

    result = look.apply((3,))

    assert result.get() == (True, False, 3)
    assert result.state == "SUCCESS"
    assert app.connection.pending == 0


def test_always_eager_makes_delay_run_here(app: App) -> None:
    app.conf.task_always_eager = True

    @app.task
    def divide(x: int, y: int) -> float:
        return x / y

    assert divide.delay(4, 2).get() == 2
    failed = divide.delay(1, 0)
    assert failed.failed()
    with pytest.raises(ZeroDivisionError):
        failed.get()
    app.conf.task_eager_propagates = True
    with pytest.raises(ZeroDivisionError):
        divide.delay(1, 0)


def test_always_eager_gives_a_task_what_a_message_would(app: App) -> None:
    """Else a test passes with arguments that no worker would ever see."""
    app.conf.task_always_eager = True
    seen: list[Any] = []

    @app.task
    def takes(value: Any, **named: Any) -> None:
        seen.append((value, named))

    mutable = [1]
    takes.delay((1, 2), when=mutable)
    assert seen == [([1, 2], {"when": [1]})]
    assert seen[0][1]["when"] is not mutable
    with pytest.raises(EncodeError):
        takes.delay(object())
    takes.apply_async(({1},), serializer="pickle")
    assert seen[-1] == ({1}, {})


def test_in_place_a_serializer_is_used_if_it_is_named(app: App) -> None:
    @app.task
    def same(value: Any) -> Any:
        return value

    kept = object()
    assert same.apply((kept,)).get() is kept
    assert same.apply(((1, 2),), serializer="json").get() == [1, 2]
    with pytest.raises(EncodeError):
        same.apply((kept,), serializer="json")


def test_in_place_retries_run_at_once(app: App) -> None:
    tries: list[int] = []

    @app.task(bind=True, max_retries=3)
    def flaky(self: Task[..., Any]) -> str:
        tries.append(self.request.retries)
        if len(tries) < 3:
            raise self.retry(exc=KeyError("k"))
        return "at last"

    assert flaky.apply().get() == "at last"
    assert tries == [0, 1, 2]


def test_in_place_callbacks_and_chains_run_too(app: App) -> None:
    seen: list[int] = []

    @app.task
    def add(x: int, y: int) -> int:
        seen.append(x + y)
        return x + y

    add.apply((1, 1), link=add.s(10))

    assert seen == [2, 12]


def test_handlers_and_signals_come_in_a_worker_s_order(app: App) -> None:
    order: list[str] = []

    class Noting(Task[..., Any]):
        def before_start(self, *args: Any) -> None:
            order.append("before_start")

        def on_success(self, *args: Any) -> None:
            order.append("on_success")

        def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
            order.append(f"on_failure {exc!r}")

        def after_return(self, status: str, *args: Any) -> None:
            order.append(f"after_return {status}")

    def prerun(**_: Any) -> None:
        order.append("task_prerun")

    @app.task(base=Noting)
    def divide(x: int, y: int) -> float:
        order.append("body")
        return x / y

    signals.task_prerun.connect(prerun)
    divide.apply((1, 1))
    divide.apply((1, 0))
    signals.task_prerun.disconnect(prerun)

    assert order == [
        "task_prerun", "before_start", "body", "on_success", "after_return SUCCESS",
        "task_prerun", "before_start", "body", "on_failure ZeroDivisionError('division by zero')",
        "after_return FAILURE",
    ]  # fmt: skip


def test_the_current_task_is_known_while_it_runs(app: App) -> None:
    @app.task(name="proj.who")
    def who() -> str | None:
        task = current_app().current_task
        return None if task is None else task.name

    assert who.apply().get() == "proj.who"
    assert app.current_task is None
