"""Tasks that are `async def`, run one at a time by a loop of their thread (`run`) and by a running loop (`arun`)."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from amqptasks import App, states
from amqptasks.errors import SoftTimeLimitExceeded
from amqptasks.task import Task
from amqptasks.worker import awaiting
from amqptasks.worker.executor import Executor
from amqptasks.worker.outcome import Cause, Outcome, Run


class Stage:
    """As the asyncio child's, without limits."""

    def __init__(self) -> None:
        self.starts = 0

    def started(self, parcels: object, /) -> None:
        self.starts += 1

    async def watch(self, body: Any) -> Any:
        return await body

    async def thread(self, function: Callable[[], Outcome]) -> Outcome:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(None, context.run, function)


def in_thread(executor: Executor, run: Run) -> Outcome:
    return executor.run(run, lambda _: None)


def in_loop(executor: Executor, run: Run) -> Outcome:
    return asyncio.run(executor.arun(run, Stage()))


@pytest.fixture
def executor(app: App) -> Iterator[Executor]:
    made = Executor(app, "w1@test")
    yield made
    made._loops.close()


@pytest.fixture(params=[in_thread, in_loop])
def execute(request: pytest.FixtureRequest, app: App, executor: Executor) -> Callable[..., Outcome]:
    def execute(cause: Cause = Cause.RUN, detail: str = "") -> Outcome:
        delivery = app.connection.get("amqptasks")
        assert delivery is not None
        return request.param(executor, Run(1, delivery, cause, detail))

    return execute


class Noting(Task[..., Any]):
    """Notes its handlers, which all await something."""

    notes: list[Any]

    async def _note(self, word: str) -> None:
        await asyncio.sleep(0)
        self.notes.append((word, self.request.id))

    async def before_start(self, *args: Any) -> None:
        await self._note("before_start")

    async def on_success(self, *args: Any) -> None:
        await self._note("on_success")

    async def on_failure(self, *args: Any) -> None:
        await self._note("on_failure")

    async def on_retry(self, *args: Any) -> None:
        await self._note("on_retry")

    async def after_return(self, *args: Any) -> None:
        await self._note("after_return")


# --- the request and the context -----------------------------------------------------------------------------


def test_each_run_sees_its_own_request(app, execute):
    seen = []

    @app.task(bind=True)
    async def look(self):
        await asyncio.sleep(0)
        seen.append(self.request.id)

    ids = [look.delay().id for _ in range(3)]
    for _ in ids:
        execute()

    assert seen == ids


def test_what_a_task_sets_in_the_context_ends_with_it(app, execute):
    tenant = contextvars.ContextVar("tenant", default="nobody")
    seen = []

    @app.task
    async def serve(name):
        seen.append(tenant.get())
        tenant.set(name)
        await asyncio.sleep(0)
        seen.append(tenant.get())

    serve.delay("ada")
    serve.delay("bob")
    execute()
    execute()

    assert seen == ["nobody", "ada", "nobody", "bob"]


def test_many_at_once_see_their_own_requests(app, executor):
    seen = {}

    @app.task(bind=True)
    async def look(self, number):
        await asyncio.sleep(0.001 * (10 - number))
        seen[number] = self.request.id

    @app.task(bind=True)
    def look_in_a_thread(self, number):
        seen[number] = self.request.id

    tasks = [look, look_in_a_thread] * 5
    ids = {number: task.delay(number).id for number, task in enumerate(tasks)}

    async def all_at_once():
        runs = [Run(number, app.connection.get("amqptasks")) for number in ids]
        await asyncio.gather(*(executor.arun(run, Stage()) for run in runs))

    asyncio.run(all_at_once())
    assert seen == ids


def test_a_plain_function_does_not_block_the_loop(app, executor):
    going, seen = threading.Event(), []

    @app.task
    def block():
        seen.append(going.wait(60))

    @app.task
    async def go():
        going.set()

    block.delay()
    go.delay()

    async def both():
        runs = [Run(number, app.connection.get("amqptasks")) for number in range(2)]
        await asyncio.gather(*(executor.arun(run, Stage()) for run in runs))

    asyncio.run(both())
    assert seen == [True]


# --- what becomes of it --------------------------------------------------------------------------------------


def test_handlers_may_be_coroutines(app, execute):
    notes = []

    @app.task(base=Noting)
    async def work():
        notes.append("body")

    work.notes = notes
    id = work.delay().id
    outcome = execute()

    assert outcome.state == states.SUCCESS
    assert notes == [("before_start", id), "body", ("on_success", id), ("after_return", id)]


def test_handlers_of_a_plain_function_may_be_coroutines_too(app, execute):
    notes = []

    @app.task(base=Noting)
    def work():
        raise ValueError("no")

    work.notes = notes
    id = work.delay().id
    outcome = execute()

    assert outcome.state == states.FAILURE
    assert notes == [("before_start", id), ("on_failure", id), ("after_return", id)]


def test_the_handlers_of_a_killed_run_may_be_coroutines(app, execute):
    @app.task(base=Noting)
    async def work():
        pass

    work.notes = []
    id = work.delay().id
    outcome = execute(Cause.LOST, "signal 9")

    assert outcome.state == states.FAILURE
    assert work.notes == [("on_failure", id)]


def test_an_error_in_a_coroutine_handler_changes_nothing(app, execute, caplog):
    class Broken(Task):
        async def on_success(self, *args):
            await asyncio.sleep(0)
            raise ValueError("in the handler")

    @app.task(base=Broken)
    async def work():
        return 1

    work.delay()

    assert execute().state == states.SUCCESS
    assert "the task's outcome is not changed by it" in caplog.text


def test_what_a_run_left_that_could_not_be_written_is_not_the_next_ones(app, execute, executor, monkeypatch):
    @app.task(base=Noting)
    async def work():
        pass

    def broken(*arguments):
        awaiting.leave(work.on_success())
        raise RuntimeError("no broker")

    work.notes = []
    work.delay()
    second = work.delay()
    with monkeypatch.context() as patch:
        patch.setattr(executor._conclude, "succeeded", broken)
        patch.setattr(executor._conclude, "failed", broken)
        execute()
    work.notes.clear()
    execute()

    assert work.notes == [(word, second.id) for word in ("before_start", "on_success", "after_return")]


def test_retry_in_a_coroutine(app, execute):
    @app.task(base=Noting, bind=True)
    async def work(self):
        await asyncio.sleep(0)
        raise self.retry(countdown=10)

    work.notes = []
    id = work.delay().id
    outcome = execute()

    assert outcome.state == states.RETRY
    assert outcome.publish[0].exchange.startswith("amqptasks.delay")
    assert work.notes == [("before_start", id), ("on_retry", id)]


def test_autoretry_of_a_coroutine(app, execute):
    @app.task(autoretry_for=(OSError,))
    async def work():
        await asyncio.sleep(0)
        raise OSError("no route")

    work.delay()

    assert execute().state == states.RETRY


def test_a_coroutine_that_cancels_itself_has_failed(app, execute):
    @app.task
    async def work():
        raise asyncio.CancelledError("enough")

    work.delay()

    assert execute().state == states.FAILURE


def test_in_place_handlers_may_be_coroutines_too(app):
    @app.task(base=Noting)
    async def work():
        return 1

    async def where_a_loop_runs():
        return work.apply()

    work.notes = []
    first, second = work.apply(), asyncio.run(where_a_loop_runs())

    told = ("before_start", "on_success", "after_return")
    assert work.notes == [(word, result.id) for result in (first, second) for word in told]


# --- soft limits where one thread runs one task --------------------------------------------------------------

SOON = 0.05
"""Seconds from where a task asks for its limit until it comes."""


@pytest.fixture
def limited(app: App, executor: Executor) -> Iterator[Callable[..., Outcome]]:
    """Runs the next message under a soft limit of so many seconds, as a child of the prefork pool does.

    They count from where the task calls `soon`, not from its start: a machine may stand still between the two.
    """

    def expire(seconds: float, *_: object) -> None:
        raise SoftTimeLimitExceeded(seconds)

    def start(seconds: float, _: object) -> None:
        signal.signal(signal.SIGALRM, partial(expire, seconds))

    def execute(seconds: float) -> Outcome:
        run = Run(1, app.connection.get("amqptasks"), soft=seconds)  # type: ignore[arg-type]
        try:
            return executor.run(run, partial(start, seconds))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.getsignal(signal.SIGALRM)
    yield execute
    signal.signal(signal.SIGALRM, before)


def soon() -> None:
    signal.setitimer(signal.ITIMER_REAL, SOON)


def test_a_coroutine_can_catch_its_soft_limit(app, limited):
    seen = []

    @app.task
    async def work():
        try:
            soon()
            await asyncio.sleep(200)
        except SoftTimeLimitExceeded as limit:
            seen.append(limit.args)
            await asyncio.sleep(0)
        return "tidied"

    work.delay()

    assert limited(SOON).state == states.SUCCESS
    assert seen == [(SOON,)]


def test_a_soft_limit_that_is_not_caught_leaves_nothing_behind(app, limited):
    seen = []

    @app.task
    async def work(number):
        try:
            if number == 1:
                soon()
                await asyncio.sleep(200)
        finally:
            seen.append(number)

    work.delay(1)
    work.delay(2)

    assert [limited(SOON).state, limited(30).state] == [states.FAILURE, states.SUCCESS]
    assert seen == [1, 2]


def test_a_coroutine_that_blocks_is_interrupted_where_it_is(app, limited):
    @app.task
    async def work():
        with contextlib.suppress(SoftTimeLimitExceeded):
            soon()
            time.sleep(200)  # noqa: ASYNC251
        return "tidied"

    work.delay()

    assert limited(SOON).state == states.SUCCESS
