"""A store that is down: a late-acknowledged task's result waits for it, any other is logged as lost."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from amqptasks import App, chain, chord, states
from amqptasks.backends.base import Meta, Publish
from amqptasks.backends.memory import MemoryBackend
from amqptasks.canvas import failing
from amqptasks.errors import (
    ChordError,
    EncodeError,
    NotRegistered,
    SoftTimeLimitExceeded,
    StoreUnavailable,
    TooLarge,
)
from amqptasks.waiting import home
from amqptasks.worker import storing
from amqptasks.worker.executor import Executor
from amqptasks.worker.outcome import Outcome, Run, Verdict
from tests.worker.test_async_tasks import Stage
from tests.working import Work


class Flaky(MemoryBackend):
    """A store of one's own, that is down for its next `down` writes."""

    stores = True

    def __init__(self, conf: Any) -> None:
        super().__init__(f"memory://{uuid.uuid4()}")
        self.down = 0
        self.largest = 1000
        self.attempts: list[str] = []

    def prepare(self, meta: Meta, publish: Publish) -> Callable[[], None]:
        if isinstance(meta.result, str) and len(meta.result) > self.largest:
            raise TooLarge("too large for this store")
        if isinstance(meta.result, set):
            raise EncodeError("a set cannot be written")
        return lambda: self.store(meta, publish)

    def store(self, meta: Meta, publish: Publish) -> None:
        self.attempts.append(meta.status)
        if self.down:
            self.down -= 1
            raise StoreUnavailable("the store is down")
        super().store(meta, publish)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setattr(storing, "PAUSE", 0.001)
    before = home.app
    settings = {"result_backend": f"{__name__}:Flaky", "task_unknown_retries": 0}
    with App("proj", broker=f"memory://{uuid.uuid4()}", **settings) as made:
        yield made
    home.app = before


@pytest.fixture
def store(app: App) -> Flaky:
    assert isinstance(app.backend, Flaky)
    return app.backend


@pytest.fixture(params=["child", "loop"])
def run(request: pytest.FixtureRequest, app: App) -> Iterator[Callable[[], Outcome]]:
    """Run the next message: in a child of its own, or as a coroutine of the asyncio pool."""
    executor = Executor(app, "w1@test")

    def run() -> Outcome:
        delivery = app.connection.get("amqptasks")
        assert delivery is not None
        if request.param == "child":
            return executor.run(Run(1, delivery), lambda _: None)
        return asyncio.run(executor.arun(Run(1, delivery), Stage()))

    yield run
    executor.close()


def test_a_late_acknowledged_task_s_result_waits_for_the_store(
    app: App, store: Flaky, run: Callable[[], Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(acks_late=True)
    async def late() -> int:
        store.down = 3
        return 4

    result = late.delay()
    with caplog.at_level(logging.ERROR):
        outcome = run()

    assert outcome.verdict is Verdict.ACK
    assert store.attempts == [states.SUCCESS] * 4
    assert result.get(timeout=60) == 4
    assert "waits, its message unacknowledged: the store is down" in caplog.text


def test_a_soft_limit_that_ends_while_the_store_is_awaited_changes_nothing(
    app: App, store: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task has ended: its alarm, which rings in the pause between two attempts, is not its failure."""
    sleep, rung = time.sleep, list[float]()

    def ringing(seconds: float) -> None:
        if seconds and not rung:
            rung.append(seconds)
            raise SoftTimeLimitExceeded(1.0)
        sleep(seconds)

    monkeypatch.setattr(storing.time, "sleep", ringing)

    @app.task(acks_late=True)
    def late() -> int:
        store.down = 2
        return 4

    result = late.delay()
    delivery = app.connection.get("amqptasks")
    assert delivery is not None
    executor = Executor(app, "w1@test")
    outcome = executor.run(Run(1, delivery), lambda _: None)
    executor.close()

    assert rung
    assert outcome.state == states.SUCCESS
    assert result.get(timeout=60) == 4


def test_the_result_of_any_other_task_is_logged_as_lost_and_its_chain_goes_on(
    app: App, store: Flaky, run: Callable[[], Outcome], caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    async def early() -> int:
        store.down = 1
        return 4

    @app.task
    def after(value: int) -> int:
        return value

    chain(early.s(), after.s()).apply_async()
    with caplog.at_level(logging.ERROR):
        outcome = run()

    assert "the state SUCCESS of task" in caplog.text
    assert "is LOST: the store is down" in caplog.text
    assert outcome.state == states.SUCCESS
    assert len(outcome.publish) == 1


def test_a_state_on_the_way_does_not_keep_a_task_from_running(
    app: App, store: Flaky, run: Callable[[], Outcome]
) -> None:
    @app.task(acks_late=True, track_started=True)
    async def late() -> int:
        return 4

    result = late.delay()
    store.down = 1
    run()

    assert store.attempts == [states.STARTED, states.SUCCESS]
    assert result.get(timeout=60) == 4


@pytest.mark.parametrize(("value", "error"), [("x" * 2000, TooLarge), ({1}, EncodeError)])
def test_what_the_store_never_takes_is_a_failure(
    app: App, store: Flaky, run: Callable[[], Outcome], value: Any, error: type[Exception]
) -> None:
    @app.task(acks_late=True)
    async def large() -> Any:
        return value

    result = large.delay()

    assert run().state == states.FAILURE
    assert isinstance(result.get(timeout=60, propagate=False), error)


def test_started_is_written_before_the_value(app: App, store: Flaky, run: Callable[[], Outcome]) -> None:
    @app.task(track_started=True)
    async def tracked() -> int:
        return 4

    tracked.delay()
    run()

    assert store.attempts == [states.STARTED, states.SUCCESS]


def test_a_store_does_not_hold_up_the_loop(app: App, store: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[float] = []
    sleep = time.sleep

    def until_it_has_turned(seconds: float) -> None:
        """The pause between two attempts: as long as the loop takes for a few turns."""
        deadline = time.monotonic() + 60
        while seconds and len(ticks) <= 5 and time.monotonic() < deadline:
            sleep(0.001)

    monkeypatch.setattr(storing.time, "sleep", until_it_has_turned)

    @app.task(acks_late=True)
    async def late() -> int:
        store.down = 1
        return 4

    late.delay()
    delivery = app.connection.get("amqptasks")
    assert delivery is not None
    executor = Executor(app, "w1@test")

    async def both() -> None:
        running = asyncio.ensure_future(executor.arun(Run(1, delivery), Stage()))
        while not running.done():
            ticks.append(time.monotonic())
            await asyncio.sleep(0.001)

    asyncio.run(both())
    executor.close()

    assert len(ticks) > 5
    assert store.attempts == [states.SUCCESS] * 2


def test_who_called_a_task_that_nobody_knows_is_told_by_the_store(
    app: App, store: Flaky, run: Callable[[], Outcome]
) -> None:
    result = app.send_task("proj.absent")

    assert run().state == states.REJECTED
    assert isinstance(result.get(timeout=60, propagate=False), NotRegistered)


def test_the_rest_of_a_chain_is_told_by_the_store(app: App, store: Flaky, run: Callable[[], Outcome]) -> None:
    @app.task
    async def fails() -> None:
        raise ValueError("x")

    @app.task
    def after(value: int) -> int:
        return value

    last = chain(fails.s(), after.s()).apply_async()
    run()

    assert isinstance(last.get(timeout=60, propagate=False), ValueError)
    assert isinstance(last.parent.get(timeout=60, propagate=False), ValueError)


@pytest.mark.parametrize(("late", "verdict"), [(True, Verdict.REQUEUE), (False, Verdict.ACK)])
def test_a_chain_that_cannot_be_told_of_its_failure_is_run_again_or_a_dead_letter(
    app: App, store: Flaky, run: Callable[[], Outcome], late: bool, verdict: Verdict
) -> None:
    @app.task(acks_late=late)
    async def fails() -> None:
        raise ValueError("x")

    @app.task
    def after(value: int) -> int:
        return value

    # The failure itself is ignored, so the first write is that of the step which is left.
    chain(fails.s().set(ignore_result=True), after.s()).apply_async()
    store.down = 1
    outcome = run()

    assert outcome.verdict is verdict
    assert len(outcome.publish) == (0 if late else 1)


def unwritable(app: App, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A task that fails, and what follows from its failure cannot be written."""

    def broken(*args: Any, **more: Any) -> None:
        raise RuntimeError("errbacks are broken")

    monkeypatch.setattr(failing, "takes_several", broken)

    @app.task(name="proj.noted")
    def noted(request: Any, exc: Any, traceback: Any) -> None: ...

    @app.task(name="proj.unwritable")
    async def fails() -> None:
        raise ValueError("x")

    return fails.s().set(link_error=[noted.s()])


def test_who_waits_is_told_by_the_store_when_what_follows_cannot_be_written(
    app: App, store: Flaky, run: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message is a dead letter then, and nobody else would say so."""

    @app.task
    def after(value: int) -> int:
        return value

    last = chain(unwritable(app, monkeypatch), after.s()).apply_async()

    outcome = run()

    assert [each.exchange for each in outcome.publish] == ["amqptasks.dead"]
    for each in (last.parent, last):
        assert isinstance(each.get(timeout=60, propagate=False), RuntimeError)


def test_a_chord_is_told_of_a_member_whose_outcome_cannot_be_written(
    app: App, store: Flaky, run: Callable[[], Outcome], work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = chord([unwritable(app, monkeypatch)], app.tasks["celery.accumulate"].s(index=0)).apply_async()

    app.connection.publish(list(run().publish))
    monkeypatch.undo()
    work.all()

    with pytest.raises(ChordError, match="errbacks are broken"):
        result.get(timeout=60)


def test_a_loss_is_said_when_not_even_the_failure_can_be_told(
    app: App, store: Flaky, run: Callable[[], Outcome], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    member = unwritable(app, monkeypatch)
    monkeypatch.setattr(storing, "store", lambda *args, **more: {}[0])
    member.apply_async()

    outcome = run()

    assert [each.exchange for each in outcome.publish] == ["amqptasks.dead"]
    assert "who waits for it is not told: KeyError(0)" in caplog.text
