"""What a retry keeps, what its options change, and when there is none: by the task alone, without a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqptasks import App, Task, protocol
from amqptasks.errors import EncodeError, Ignore, MaxRetriesExceeded, Reject, Retry, TooLarge
from amqptasks.protocol import TaskMessage
from amqptasks.request import Request

Attempt = Callable[..., BaseException]


@pytest.fixture
def attempt() -> Attempt:
    """`attempt(task, retries=2, **fields_of_the_message)`: what that attempt raises."""

    def run(task: Task[..., Any], *, queue: str = "origin", retries: int = 0, **given: Any) -> BaseException:
        message = TaskMessage(id="t1", task=task.name, retries=retries, **given)
        info = {"exchange": "amqptasks", "routing_key": "k", "queue": queue, "priority": message.priority}
        token = task.push_request(Request.made_from(message, delivery_info=info))
        try:
            with pytest.raises(BaseException) as raised:
                task(*message.args, **message.kwargs)
            return raised.value
        finally:
            task.pop_request(token)

    return run


def retrying(app: App, **given: Any) -> Task[..., Any]:
    """A task that does nothing but `self.retry(**given)`."""

    # Every call makes another task, and of two under one name the first would stay.
    app.tasks.pop("proj.again", None)

    @app.task(bind=True, name="proj.again", max_retries=3)
    def again(self: Task[..., Any], *args: Any, **kwargs: Any) -> None:
        self.retry(**given)

    return again


FULL = TaskMessage(
    id="t1",
    task="proj.again",
    args=(1, 2),
    kwargs={"x": 3},
    retries=0,
    expires=datetime(2100, 1, 1, tzinfo=UTC),
    group="g",
    group_index=4,
    root_id="root",
    parent_id="parent",
    origin="gen1@client",
    shadow="seen as",
    timelimit=(30.0, 20.0),
    ignore_result=True,
    replaced_task_nesting=1,
    stamped_headers=["s"],
    stamps={"s": ["v"]},
    callbacks=[{"task": "proj.callback"}],
    errbacks=[{"task": "proj.errback"}],
    chain=[{"task": "proj.next"}],
    chord={"task": "proj.body"},
    headers={"tenant": "ada"},
    correlation_id="c1",
    reply_to="replies",
    priority=3,
    serializer="yaml",
    compression="gzip",
    persistent=False,
)


def test_a_retry_keeps_everything_of_its_message_but_count_and_time(app: App, attempt: Attempt) -> None:
    task = retrying(app, countdown=10)
    given = {field.name: getattr(FULL, field.name) for field in fields(FULL)}
    del given["id"], given["task"], given["retries"]

    raised = attempt(task, **given)

    assert isinstance(raised, Retry)
    again = raised.call.message
    changed = {
        field.name for field in fields(FULL) if getattr(again, field.name) != getattr(FULL, field.name)
    }
    assert changed == {"retries", "eta"}
    assert (again.retries, raised.call.address.exchange, raised.call.queue) == (1, "", "origin")


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"priority": 7}, {"priority": 7}),
        ({"time_limit": 9}, {"timelimit": (9, 20.0)}),
        ({"soft_time_limit": 8}, {"timelimit": (30.0, 8)}),
        ({"serializer": "json", "compression": "bzip2"}, {"serializer": "json", "compression": "bzip2"}),
        ({"delivery_mode": 2}, {"persistent": True}),
        ({"headers": {"tenant": "bob"}}, {"headers": {"tenant": "bob"}}),
        ({"ignore_result": False}, {"ignore_result": False}),
        ({"link": {"task": "proj.other"}}, {"callbacks": [{"task": "proj.other"}]}),
        ({"group_id": "h"}, {"group": "h"}),
        ({"root_id": "r", "stamps": {}}, {"root_id": "r", "stamps": {}}),
    ],
    ids=lambda value: next(iter(value), ""),
)
def test_an_option_of_retry_changes_its_field_and_no_other_and_not_the_queue(
    app: App, attempt: Attempt, options: dict[str, Any], changed: dict[str, Any]
) -> None:
    given = {field.name: getattr(FULL, field.name) for field in fields(FULL)}
    del given["id"], given["task"], given["retries"]

    raised = attempt(retrying(app, countdown=10, **options), **given)

    assert isinstance(raised, Retry)
    again = raised.call.message
    differs = {
        field.name: getattr(again, field.name)
        for field in fields(FULL)
        if field.name not in ("retries", "eta") and getattr(again, field.name) != getattr(FULL, field.name)
    }
    assert differs == changed
    assert raised.call.queue == "origin"


def test_a_retry_cannot_change_its_id(app: App, attempt: Attempt) -> None:
    assert "keeps its id" in str(attempt(retrying(app, task_id="other")))


def test_an_option_that_does_not_exist_is_named(app: App, attempt: Attempt) -> None:
    raised = attempt(retrying(app, countdwn=3))

    assert isinstance(raised, TypeError)
    assert "countdown" in str(raised)


def test_new_arguments_take_the_place_of_those_that_they_would_meet_twice(app: App, attempt: Attempt) -> None:
    """As Celery: what is not given is kept, unless it would be a second value of the same parameter."""

    @app.task(bind=True, name="proj.by_args")
    def by_args(self: Task[..., Any], a: int, b: int = 0, *, c: int = 0) -> None:
        self.retry((10,), countdown=0)

    @app.task(bind=True, name="proj.by_kwargs")
    def by_kwargs(self: Task[..., Any], a: int, b: int = 0, *, c: int = 0) -> None:
        self.retry(kwargs={"a": 20}, countdown=0)

    args = attempt(by_args, kwargs={"a": 1, "b": 2, "c": 3}).call.message  # type: ignore[attr-defined]
    kwargs = attempt(by_kwargs, args=(1, 2), kwargs={"c": 3}).call.message  # type: ignore[attr-defined]

    assert (tuple(args.args), dict(args.kwargs)) == ((10,), {"b": 2, "c": 3})
    assert (tuple(kwargs.args), dict(kwargs.kwargs)) == ((20, 2), {})


def test_arguments_that_cannot_be_sent_are_the_task_s_failure_and_no_lost_message(
    app: App, attempt: Attempt
) -> None:
    app.conf.broker_max_message_size = 1000

    assert isinstance(attempt(retrying(app, args=(object(),))), EncodeError)
    assert isinstance(attempt(retrying(app, args=("x" * 2000,))), TooLarge)


def test_an_eta_is_kept_to_the_microsecond_and_a_countdown_wins_over_it(app: App, attempt: Attempt) -> None:
    eta = datetime(2100, 1, 1, 12, 30, 15, 250, tzinfo=UTC)

    at = attempt(retrying(app, eta=eta))
    both = attempt(retrying(app, eta=eta, countdown=5))
    after = datetime.now(UTC)

    assert isinstance(at, Retry)
    assert isinstance(both, Retry)
    assert (at.when, at.call.message.eta) == (eta, eta)
    assert both.call.message.eta <= after + timedelta(seconds=5)


def test_a_time_without_a_zone_is_the_app_s(app: App, attempt: Attempt) -> None:
    app.conf.timezone = "Asia/Tokyo"
    noon = datetime(2100, 6, 1, 12, 0)

    raised = attempt(retrying(app, eta=noon, expires=noon + timedelta(hours=1)))

    assert isinstance(raised, Retry)
    again = raised.call.message
    assert (again.eta, again.expires) == tuple(datetime(2100, 6, 1, hour, tzinfo=UTC) for hour in (3, 4))


def test_max_retries_of_one_retry_is_that_attempt_s_alone(app: App, attempt: Attempt) -> None:
    assert isinstance(attempt(retrying(app, max_retries=1), retries=1), MaxRetriesExceeded)
    assert isinstance(attempt(retrying(app, max_retries=9), retries=8), Retry)
    assert isinstance(attempt(retrying(app, max_retries=None), retries=3), MaxRetriesExceeded)


def test_without_a_most_there_is_always_another(app: App, attempt: Attempt) -> None:
    task = retrying(app)
    task.max_retries = None

    assert isinstance(attempt(task, retries=10_000), Retry)


def test_max_retries_exceeded_says_with_what(app: App, attempt: Attempt) -> None:
    raised = attempt(retrying(app), retries=3, args=(1,), kwargs={"x": 2})

    assert isinstance(raised, MaxRetriesExceeded)
    assert (raised.task_args, raised.task_kwargs) == ((1,), {"x": 2})
    assert "proj.again[t1]" in str(raised)


# --- by itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raised", [Ignore(), Reject("no"), Retry("by hand"), OSError("not this one")])
def test_what_steers_the_worker_is_never_retried_by_itself(
    app: App, attempt: Attempt, raised: Exception
) -> None:
    @app.task(autoretry_for=(Exception,), dont_autoretry_for=(OSError,))
    def stubborn() -> None:
        raise raised

    assert attempt(stubborn) is raised


def test_a_most_that_the_body_gave_counts_for_the_automatic_retry_too(app: App, attempt: Attempt) -> None:
    """The body gives up by `max_retries=1`; `autoretry_for` must not make of that a second chance."""

    @app.task(bind=True, autoretry_for=(OSError,), max_retries=5)
    def fetch(self: Task[..., Any]) -> None:
        try:
            raise OSError("no route")
        except OSError as error:
            self.retry(exc=error, max_retries=1)

    assert isinstance(attempt(fetch, retries=0), Retry)
    assert isinstance(attempt(fetch, retries=1), OSError)


def test_a_coroutine_is_retried_by_itself_too(app: App, attempt: Attempt) -> None:
    import asyncio

    @app.task(autoretry_for=(OSError,), retry_backoff=3, retry_jitter=False, max_retries=5)
    async def fetch() -> None:
        raise OSError("no route")

    run = fetch.run
    fetch.run = lambda: asyncio.run(run())  # type: ignore[method-assign]

    raised = attempt(fetch, retries=2)

    assert isinstance(raised, Retry)
    assert (raised.when, type(raised.exc), type(raised.__cause__)) == (12, OSError, OSError)


def test_the_next_attempt_goes_over_the_wire_and_back(app: App, attempt: Attempt) -> None:
    raised = attempt(retrying(app, countdown=10), args=(1,), headers={"tenant": "ada"}, priority=3)
    assert isinstance(raised, Retry)

    envelope, ladder = raised.call.encode()
    read = protocol.decode(envelope, accept=frozenset({"application/json"}), limit=10_000)

    assert ladder
    assert envelope.address.exchange.startswith("amqptasks.delay.")
    assert (read.id, read.retries, list(read.args), read.headers) == ("t1", 1, [1], {"tenant": "ada"})
