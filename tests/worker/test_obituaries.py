"""What follows when a child died with a task: by the executor alone, on a broker in memory, without processes."""

from __future__ import annotations

import pytest

from amqptasks import Task, states
from amqptasks.errors import WorkerLost
from amqptasks.transport import codec
from amqptasks.worker.executor import Executor
from amqptasks.worker.outcome import Cause, Run, Verdict


@pytest.fixture
def calls(app):
    """`calls("again")`: a delivery of a call of that task."""

    def noop():
        raise AssertionError("an obituary runs nothing")

    app.task(name="again", acks_late=True, reject_on_worker_lost=True)(noop)
    app.task(name="late", acks_late=True)(noop)
    app.task(name="early")(noop)
    kept = {"retry_on_worker_lost": True, "max_retries": 2, "default_retry_delay": 30, "base": Told}
    app.task(name="retried", acks_late=True, reject_on_worker_lost=True, **kept)(noop)
    app.task(name="early_retried", **kept)(noop)
    Told.heard.clear()
    results = []

    def call(name):
        results.append(app.tasks[name].delay())
        return results[-1], app.connection.get("amqptasks")

    return call


class Told(Task):
    """Notes which of its handlers heard of what."""

    heard = []

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        self.heard.append(("on_retry", type(exc).__name__))

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        self.heard.append(("on_failure", type(exc).__name__))


def obituary(app, delivery):
    """What a child writes of a run whose own child was killed."""
    executor = Executor(app, "w1@test")
    return executor.run(Run(1, delivery, Cause.LOST, "signal 9 (SIGKILL)"), lambda _: None)


def test_reject_on_worker_lost_publishes_the_message_again_with_the_crash_counted(app, calls):
    _, delivery = calls("again")

    outcome = obituary(app, delivery)
    app.connection.publish(list(outcome.publish))
    again = app.connection.get("amqptasks")

    assert (outcome.verdict, again.body) == (Verdict.ACK, delivery.body)
    before, after = (codec.decode_header(each.header) for each in (delivery, again))
    assert after.headers == {**before.headers, "x-amqptasks-crashes": 1}
    assert (after.correlation_id, after.reply_to) == (before.correlation_id, before.reply_to)


def test_at_the_limit_of_crashes_it_is_a_dead_letter_and_its_caller_is_told_once(app, calls):
    app.conf.worker_lost_limit = 3
    result, delivery = calls("again")

    deaths = 0
    while delivery is not None and deaths < 10:
        deaths += 1
        app.connection.publish(list(obituary(app, delivery).publish))
        delivery = app.connection.get("amqptasks")

    assert deaths == 3
    headers = codec.decode_header(app.connection.get("amqptasks.dead").header).headers
    assert (headers["x-amqptasks-reason"], headers["x-amqptasks-crashes"]) == ("crashed", 3)
    with pytest.raises(WorkerLost, match="died 3 times"):
        result.get(timeout=60)


@pytest.mark.parametrize("name", ["late", "early"])
def test_by_default_the_caller_is_told_and_nothing_runs_again(app, calls, name):
    result, delivery = calls(name)

    outcome = obituary(app, delivery)
    app.connection.publish(list(outcome.publish))

    assert (outcome.verdict, outcome.state, len(outcome.publish)) == (Verdict.ACK, states.FAILURE, 1)
    assert app.connection.get("amqptasks") is None
    with pytest.raises(WorkerLost, match="SIGKILL"):
        result.get(timeout=60)


def attempt(app, name, *, retries=0):
    """What a run on `name` that was the `retries`th retry and lost its process leaves: outcome, then the message."""
    result = app.tasks[name].apply_async(retries=retries, headers={"tenant": "ada"})
    outcome = obituary(app, app.connection.get("amqptasks"))
    app.connection.publish(list(outcome.publish))
    return result, outcome


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("name", ["retried", "early_retried"])
def test_retry_on_worker_lost_is_a_retry_and_wins_over_reject_on_worker_lost(app, calls, name):
    result, outcome = attempt(app, name)

    (held, state) = outcome.publish
    again = codec.decode_header(held.header).headers

    assert (outcome.verdict, outcome.state) == (Verdict.ACK, states.RETRY)
    assert held.exchange == "amqptasks.delay.1"
    assert (again["id"], again["retries"], again["tenant"]) == (result.id, 1, "ada")
    assert state.routing_key
    assert result.state == states.RETRY
    assert isinstance(result.result, WorkerLost)
    assert Told.heard == [("on_retry", "WorkerLost")]


@pytest.mark.parametrize("name", ["retried", "early_retried"])
def test_retry_on_worker_lost_ends_at_max_retries(app, calls, name):
    result, outcome = attempt(app, name, retries=2)

    assert (outcome.verdict, outcome.state, len(outcome.publish)) == (Verdict.ACK, states.FAILURE, 1)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        result.get(timeout=60)
    assert Told.heard == [("on_failure", "WorkerLost")]


def test_the_setting_retries_every_task_that_does_not_say_otherwise(app, calls):
    app.conf.task_retry_on_worker_lost = True
    app.task(name="not_this", retry_on_worker_lost=False)(lambda: None)

    assert [attempt(app, name)[1].state for name in ("early", "late", "not_this")] == [
        states.RETRY,
        states.RETRY,
        states.FAILURE,
    ]
