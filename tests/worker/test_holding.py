"""What waits in the parent: it holds no slot, it is given back like everything else, and nothing waits behind it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from amqptasks import App
from amqptasks.errors import ImproperlyConfigured, NotRegistered
from amqptasks.testing import running_worker
from amqptasks.worker import manifest
from amqptasks.worker.outcome import Cause, Outcome
from amqptasks.worker.overdue import Overdue
from tests.worker.test_dispatch import Stage, scenario


def limited(stage: Stage, task: str = "late", rate: float = 0.001, count: int = 3) -> list[int | None]:
    stage.dispatch.rates.change(task, rate)
    return [stage.deliver(task, str(number)) for number in range(count)]


@scenario
async def test_what_waits_for_its_turn_takes_no_slot_and_holds_nothing_else_up(stage):
    assert [key is not None for key in limited(stage)] == [True, False, False]

    assert stage.deliver("early", "other") is not None
    assert stage.dispatch.in_flight == 4


@scenario
async def test_those_that_wait_go_back_when_the_worker_ends(stage):
    (first, *_) = limited(stage)
    stage.start(first)

    assert stage.dispatch.give_back() == 2
    assert await stage.settled() == [("requeue", 2), ("requeue", 3)]
    assert stage.dispatch.in_flight == 1


@scenario
async def test_those_that_wait_are_forgotten_with_their_channel(stage):
    (first, *_) = limited(stage)
    stage.start(first)
    stage.dispatch.void(stage.lane)
    assert stage.dispatch.in_flight == 1
    stage.new_lane()

    stage.deliver("late", "1", redelivered=True)
    stage.dispatch.rates.change("late", 0)

    assert [run.key for run in stage.pool.submitted][1:] == [4], "the one that came again, once"


@scenario
async def test_those_that_wait_for_too_long_are_overdue(stage):
    (first, *_) = limited(stage)
    stage.start(first)

    overdue = Overdue(stage.dispatch, lambda: None, -1).take()
    assert [run.key for run in overdue] == [2, 3]

    stage.dispatch.wait_on(overdue[0])
    stage.dispatch.finished(overdue[1].key, Outcome())
    assert await stage.settled() == [("ack", 3)]
    assert len(stage.pool.submitted) == 1, "it waits again for its turn"


@scenario
async def test_what_was_to_be_given_back_and_could_not_keeps_its_limits(stage):
    stage.deliver("late", timelimit=(30, 20))
    (run,) = Overdue(stage.dispatch, lambda: None, -1).take()

    stage.dispatch.wait_on(run)

    assert (stage.pool.submitted[-1].hard, stage.pool.submitted[-1].soft) == (30, 20)


@scenario
async def test_a_run_that_expires_while_it_waits_is_not_run(stage):
    limited(stage, count=1)
    moment = datetime.now(UTC) + timedelta(milliseconds=20)
    stage.deliver("late", "2", expires=moment)
    await asyncio.sleep((moment - datetime.now(UTC)).total_seconds() + 0.001)

    stage.dispatch.rates.change("late", 0)

    assert stage.pool.submitted[1].cause is Cause.EXPIRED


@scenario
async def test_what_has_expired_already_needs_no_turn(stage):
    limited(stage)

    stage.deliver("late", "old", expires=datetime.now(UTC) - timedelta(seconds=5))

    assert stage.pool.submitted[-1].cause is Cause.EXPIRED


@scenario
async def test_what_was_not_due_yet_waits_for_its_turn_after_that(stage):
    limited(stage, count=1)
    stage.deliver("late", "soon", eta=datetime.now(UTC) + timedelta(milliseconds=20))

    async with asyncio.timeout(60):
        while not stage.dispatch.rates:
            assert stage.dispatch.holding.due, "it waits for one or the other"
            await asyncio.sleep(0.001)

    assert len(stage.pool.submitted) == 1
    assert stage.dispatch.give_back() == 2


def test_an_unknown_task_has_no_rate() -> None:
    app = App("proj", broker="memory://unknown-rate")
    with running_worker(app) as worker, pytest.raises(NotRegistered, match="no task of this worker"):
        worker.rate_limit("nobody", 10)
    app.close()


def rates(app: App) -> dict[str, float]:
    app.finalize()
    tasks = manifest.build(app, queues=(), exclude=()).tasks
    return {name: task.rate_limit for name, task in tasks.items() if name.startswith("proj.")}


def test_a_task_without_a_rate_has_that_of_the_settings(app: App) -> None:
    app.conf.task_default_rate_limit = "60/m"
    app.task(name="proj.own", rate_limit=5)(lambda: None)
    app.task(name="proj.default")(lambda: None)
    app.task(name="proj.free", rate_limit=0)(lambda: None)

    assert rates(app) == {"proj.own": 5, "proj.default": 1, "proj.free": 0}


def test_rate_limits_can_be_disabled_for_a_worker(app: App) -> None:
    app.conf.worker_disable_rate_limits = True
    app.task(name="proj.own", rate_limit="nonsense")(lambda: None)

    assert rates(app) == {"proj.own": 0}


def test_a_rate_that_is_none_is_named_with_its_task(app: App) -> None:
    app.task(name="proj.own", rate_limit="10/day")(lambda: None)

    with pytest.raises(ImproperlyConfigured, match=r"proj.own: '10/day' is no rate"):
        rates(app)
