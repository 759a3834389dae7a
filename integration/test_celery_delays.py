"""Retries and times across the two packages: what the caller said holds for every attempt, whoever runs it."""

import time
from datetime import UTC, datetime, timedelta

import celery.exceptions
import pytest

from amqptasks import errors
from integration.apps.interop_steps import CardRefused
from integration.support.peers import Peers, Way, peers, way

__all__ = ["peers", "way"]


def test_what_the_caller_said_holds_for_the_second_attempt_too(way: Way) -> None:
    expires = datetime.now(UTC) + timedelta(minutes=5)
    options = {"priority": 4, "time_limit": 60, "soft_time_limit": 50, "headers": {"tenant": "acme"}}

    result = way.call("told_after", 2, 1, expires=expires, **options)
    told = result.get(timeout=60)

    assert told["retries"] == 2
    assert told["priority"] == 4
    assert told["limits"] == [60, 50]
    assert told["headers"] == "acme"
    assert told["root"] == result.id
    assert datetime.fromisoformat(told["expires"]) == expires


def test_an_attempt_waits_its_countdown(way: Way) -> None:
    called = time.time()

    told = way.call("told_after", 1, 2).get(timeout=60)

    assert 2.0 <= told["began"] - called < 30.0


def test_a_call_that_says_how_often_it_was_retried_is_counted_on(way: Way) -> None:
    assert way.call("told", retries=3).get(timeout=60)["retries"] == 3

    with pytest.raises(CardRefused):
        way.call("flaky", 99, retries=5).get(timeout=60)  # max_retries


def test_an_attempt_that_has_expired_when_it_is_due_is_revoked(way: Way) -> None:
    result = way.call("flaky", 1, 3, expires=datetime.now(UTC) + timedelta(seconds=1.5))

    revoked = celery.exceptions.TaskRevokedError if way.queue == "ours" else errors.TaskRevoked
    with pytest.raises(revoked, match="expired"):
        result.get(timeout=60)


def test_a_call_goes_on_at_the_other_kind_of_worker(way: Way) -> None:
    """`retry(queue=...)` hands a call over under its id; here to the other side, and from there back."""
    other = "theirs" if way.queue == "ours" else "ours"

    assert way.call("handed", other).get(timeout=60) == [{"ours": "amqptasks", "theirs": "celery"}[other], 1]
    assert way.call("handed", other, way.queue).get(timeout=60) == [way.worker, 2]


@pytest.mark.parametrize("countdown", [0.4, 3])
def test_our_delays_are_not_early_at_a_celery_worker_and_hers_not_at_ours(
    peers: Peers, countdown: float
) -> None:
    called = time.time()
    results = [
        peers.ours.send_task("interop.told", queue="theirs", countdown=countdown),
        peers.theirs.send_task("interop.told", queue="ours", countdown=countdown),
    ]

    waited = [result.get(timeout=60)["began"] - called for result in results]

    assert all(countdown <= wait < countdown + 30 for wait in waited), waited
