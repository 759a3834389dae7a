"""A retry as part of its run's outcome, and what steers the worker instead of failing: on a broker in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from amqptasks import states
from amqptasks.errors import (
    AccessRefused,
    BrokerUnavailable,
    Ignore,
    MaxRetriesExceeded,
    Reject,
    Retry,
    TimeoutError,
    VhostNotFound,
)
from amqptasks.testing import RunningWorker, running_worker
from amqptasks.transport import codec
from amqptasks.worker.executor import Executor
from amqptasks.worker.outcome import Cause, Run, Verdict
from tests.working import eventually


def headers(parcel):
    return codec.decode_header(parcel.header).headers or {}


def executed(app, delivery, cause=Cause.RUN, detail=""):
    return Executor(app, "w1@test").run(Run(1, delivery, cause, detail), lambda _: None)


@pytest.fixture
def fetch(app):
    @app.task(bind=True, name="proj.fetch", acks_late=True)
    def fetch(self):
        raise self.retry(exc=OSError("no route"), countdown=20)

    return fetch


# --- part of the outcome -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("still")
def test_the_next_attempt_comes_first_and_its_message_is_acknowledged_after_it(app, fetch):
    fetch.apply_async(headers={"tenant": "ada"})

    outcome = executed(app, app.connection.get("amqptasks"))
    again, state = outcome.publish

    assert (outcome.verdict, outcome.state) == (Verdict.ACK, states.RETRY)
    assert (again.exchange, again.fate) == ("amqptasks.delay.1", "dead")
    assert (headers(again)["retries"], headers(again)["tenant"]) == (1, "ada")
    assert state.exchange == ""


def test_what_the_broker_wrote_on_a_message_does_not_travel_on(app, fetch):
    fetch.apply_async(headers={"tenant": "ada", "x-death": [{"count": 1}], "x-first-death-queue": "q"})
    delivery = app.connection.get("amqptasks")
    assert "x-death" in headers(delivery)

    outcome = executed(app, delivery)

    kept = headers(outcome.publish[0])
    assert kept["tenant"] == "ada"
    assert not [name for name in kept if "death" in name]


def test_in_an_outage_the_next_attempt_waits_for_the_broker_and_is_no_dead_letter(app, fetch, monkeypatch):
    """A child that cannot declare the ladder now leaves it to whoever receives the message."""
    fetch.delay()
    delivery = app.connection.get("amqptasks")

    def down(*_):
        raise BrokerUnavailable("the broker is restarted")

    monkeypatch.setattr(app, "prepare", down)

    before = datetime.now(UTC)
    outcome = executed(app, delivery)
    after = datetime.now(UTC)

    again = outcome.publish[0]
    assert (outcome.state, again.exchange, again.routing_key) == (states.RETRY, "", delivery.queue)
    due = datetime.fromisoformat(headers(again)["eta"])
    assert before + timedelta(seconds=20) <= due <= after + timedelta(seconds=20)


@pytest.mark.parametrize(
    ("error", "verdict", "published"),
    [
        (BrokerUnavailable("restarted"), Verdict.REQUEUE, []),
        (AccessRefused("forbidden"), Verdict.ACK, ["amqptasks.dead", "to its caller"]),
    ],
    ids=["outage", "for ever"],
)
def test_what_came_early_in_an_outage_goes_back_to_its_queue(
    app, fetch, monkeypatch, error, verdict, published
):
    fetch.delay()
    delivery = app.connection.get("amqptasks")

    def fail(*_):
        raise error

    monkeypatch.setattr(app, "prepare", fail)

    outcome = executed(app, delivery, Cause.EARLY, "30.0")

    assert outcome.verdict is verdict
    assert [each.exchange or "to its caller" for each in outcome.publish] == published


def test_a_retry_that_cannot_be_sent_is_the_caller_s_failure(app, work):
    @app.task(bind=True, name="proj.fetch")
    def fetch(self, what=None):
        raise self.retry((object(),))

    result = fetch.delay()
    work(1)

    with pytest.raises(Exception, match="object"):
        result.get(timeout=60)
    assert result.state == states.FAILURE


def test_a_retry_by_hand_ends_at_max_retries_too(app, work):
    """Celery acknowledges it and runs nothing; here it runs again, but not for ever."""
    runs = []

    @app.task(bind=True, name="proj.by_hand", max_retries=2)
    def by_hand(self):
        runs.append(self.request.retries)
        raise Retry("once more", when=0)

    result = by_hand.delay()
    work(3)

    assert (runs, app.connection.get("amqptasks")) == ([0, 1, 2], None)
    with pytest.raises(MaxRetriesExceeded, match="retried 2 times"):
        result.get(timeout=60)


# --- the rest of the chain -----------------------------------------------------------------------------------


@pytest.fixture
def chained(app):
    """A delivery of the first step of a chain, whose second step has a queue that nobody has declared yet."""

    @app.task(name="proj.first")
    def first():
        return 1

    @app.task(name="proj.second", queue="elsewhere")
    def second(value):
        return value + 1

    app.tasks["proj.first"].apply_async(chain=[app.tasks["proj.second"].s()])
    return app.connection.get("amqptasks")


def failing(monkeypatch, app, error, times):
    """Have that many declarations fail; how often was asked is the answer's length."""
    declare, asked = app.connection.declare, []

    def fail(*entities, **options):
        asked.append(entities)
        if len(asked) <= times:
            raise error
        return declare(*entities, **options)

    monkeypatch.setattr(app.connection, "declare", fail)
    return asked


def test_in_an_outage_a_success_waits_for_the_broker_to_send_the_next_step(app, chained, monkeypatch):
    """It could not be published in the meantime anyway, and the task has done its work."""
    asked = failing(monkeypatch, app, BrokerUnavailable("restarted"), times=2)

    outcome = executed(app, chained)

    assert outcome.state == states.SUCCESS
    assert "proj.second" in [headers(parcel).get("task") for parcel in outcome.publish]
    assert len(asked) > 2


def test_what_waiting_does_not_mend_is_a_failure_at_once(app, chained, monkeypatch):
    asked = failing(monkeypatch, app, VhostNotFound("gone"), times=99)

    assert executed(app, chained).state == states.FAILURE
    assert len(asked) == 1


def test_outside_an_outcome_nobody_waits(app, monkeypatch):
    asked = failing(monkeypatch, app, BrokerUnavailable("restarted"), times=1)

    with pytest.raises(BrokerUnavailable):
        app.send_task("proj.any", queue="elsewhere")

    assert len(asked) == 1


# --- predicates ----------------------------------------------------------------------------------------------


@pytest.fixture
def worker(app) -> Iterator[RunningWorker]:
    @app.task(bind=True, name="proj.ignore")
    def ignore(self, state=None):
        if state:
            self.update_state(state=state, meta={"done": 1})
        raise Ignore

    @app.task(bind=True, name="proj.once_more", acks_late=True)
    def once_more(self):
        if not self.request.delivery_info["redelivered"]:
            raise Reject("not yet", requeue=True)
        return "came again"

    @app.task(name="proj.early_reject")
    def early_reject():
        raise Reject("too late", requeue=True)

    with running_worker(app) as running:
        yield running


@pytest.mark.parametrize("state", [None, "HALFWAY"])
def test_who_waits_for_an_ignored_task_sees_no_end_of_it(app, worker, state):
    result = app.tasks["proj.ignore"].delay(state)
    worker.wait_until_idle()

    with pytest.raises(TimeoutError):
        result.get(timeout=0.1)

    # The worker is done with it, the client's own thread perhaps not.
    eventually(lambda: result.state == (state or states.PENDING))
    assert app.connection.inspect("amqptasks").messages == 0


def test_an_ignored_task_may_have_stored_its_end_itself(app, worker):
    result = app.tasks["proj.ignore"].delay(states.SUCCESS)

    assert result.get(timeout=60) == {"done": 1}


def test_a_late_rejected_task_is_redelivered(app, worker):
    assert app.tasks["proj.once_more"].delay().get(timeout=60) == "came again"


def test_an_early_rejected_task_is_neither_requeued_nor_answered_and_warned_of_once(app, worker, caplog):
    with caplog.at_level(logging.WARNING):
        result = app.tasks["proj.early_reject"].delay()
        worker.wait_until_idle()

    said = [record for record in caplog.records if "raised Reject" in record.message]
    assert (len(said), said[0].levelname, result.state) == (1, "WARNING", states.PENDING)
    assert app.connection.inspect("amqptasks").messages == 0
