"""When a call is to run: times with and without a zone, seconds, expiry; what a delay needs on the broker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqptasks import App, chain, states
from amqptasks.delay import PREFIX
from amqptasks.entities import LOST
from amqptasks.errors import ImproperlyConfigured, NotFound
from amqptasks.transport.codec import decode_header
from amqptasks.transport.memory import broker
from amqptasks.transport.memory_broker import MemoryBroker
from tests.working import Work


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


@pytest.fixture
def london(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's own zone is London for this test."""
    monkeypatch.setenv("TZ", "Europe/London")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def eta_of(app: App, **options: Any) -> datetime:
    """The eta that a call of these options has on the wire; it must be due already."""
    app.send_task("proj.add", (1, 1), **options)
    delivery = app.connection.get("amqptasks")
    assert delivery is not None
    headers = decode_header(delivery.header).headers
    assert headers is not None
    return datetime.fromisoformat(headers["eta"])


def node(app: App) -> MemoryBroker:
    return broker(str(app.conf.broker_url).removeprefix("memory://"))


def held(app: App) -> dict[str, int]:
    """The rungs of the ladder that hold messages."""
    queues = node(app).queues
    counts = {name: app.connection.inspect(name).messages for name in queues if name.startswith(PREFIX)}
    return {name: number for name, number in counts.items() if number}


# --- times ---------------------------------------------------------------------------------------------------

SUMMER = datetime(2020, 7, 1, 12, 0)


def test_a_time_without_a_zone_is_utc_unless_the_app_has_one(app: App) -> None:
    assert eta_of(app, eta=SUMMER) == SUMMER.replace(tzinfo=UTC)


def test_a_time_without_a_zone_is_of_the_apps_timezone(app: App) -> None:
    app.conf.timezone = "Europe/Berlin"

    assert eta_of(app, eta=SUMMER) == datetime(2020, 7, 1, 10, 0, tzinfo=UTC)
    assert eta_of(app, eta="2020-07-01T12:00:00") == datetime(2020, 7, 1, 10, 0, tzinfo=UTC)
    assert eta_of(app, eta="2020-07-01T12:00:00+00:00") == SUMMER.replace(tzinfo=UTC)


def test_without_utc_it_is_of_the_machines_timezone(app: App, london: None) -> None:
    app.conf.enable_utc = False

    assert eta_of(app, eta=SUMMER) == datetime(2020, 7, 1, 11, 0, tzinfo=UTC)


def test_eta_may_be_seconds(app: App) -> None:
    before = datetime.now(UTC)

    eta = eta_of(app, eta=0.5)

    assert before <= eta - timedelta(seconds=0.5) <= datetime.now(UTC)


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 60, "expires": 30},
        {"eta": datetime(2040, 1, 1, tzinfo=UTC), "expires": datetime(2039, 1, 1, tzinfo=UTC)},
        {"eta": 60, "expires": timedelta(seconds=59)},
    ],
)
def test_what_would_expire_before_it_may_start_is_an_error_at_the_call(
    app: App, add: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"proj.add would expire .* before it may start"):
        add.apply_async((1, 1), **options)
    with pytest.raises(ValueError, match="never run"):
        app.send_task("proj.add", (1, 1), **options)

    assert held(app) == {}


@pytest.mark.usefixtures("still")
def test_a_tasks_own_expires_counts_too(app: App) -> None:
    @app.task(expires=30)
    def brief() -> None: ...

    with pytest.raises(ImproperlyConfigured, match="expire"):
        brief.apply_async(countdown=60)
    brief.apply_async(countdown=20)

    assert held(app) == {"amqptasks.delay.1.2": 1}


@pytest.mark.usefixtures("still")
def test_a_step_of_a_chain_that_came_too_late_does_not_fail_the_one_before(
    app: App, add: Any, work: Work
) -> None:
    """Nobody is there to be told: it is sent, and revoked when it is due."""
    soon = datetime.now(UTC) + timedelta(seconds=5)
    chain(add.s(1, 1), add.s(1).set(countdown=60, expires=soon)).apply_async()

    work(1)

    assert work.outcomes[0].state == states.SUCCESS
    assert held(app) == {"amqptasks.delay.1.6": 1}


def test_what_expires_while_it_waits_for_a_free_slot_is_revoked(app: App, work: Work) -> None:
    ran = []

    @app.task
    def note() -> None:
        ran.append(1)

    result = note.apply_async(expires=0.05)
    delivery = work.take("amqptasks", 60)
    assert delivery is not None
    deadline = time.time() + 0.06
    while time.time() < deadline:
        pass

    outcome = work.run(delivery)

    assert (outcome.state, ran) == (states.REVOKED, [])
    assert result.state == states.REVOKED


# --- what a delay needs --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("still")
def test_after_the_first_a_delayed_publish_declares_nothing(
    app: App, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add.apply_async((1, 1), countdown=30)
    monkeypatch.setattr(app.connection, "declare", lambda *entities, passive=False: pytest.fail("declared"))

    for _ in range(3):
        add.apply_async((1, 1), countdown=30)

    assert held(app) == {"amqptasks.delay.1.3": 4}


def test_years_ahead_a_message_goes_on_the_longest_climb(app: App, add: Any) -> None:
    add.apply_async((1, 1), eta=datetime.now(UTC) + timedelta(days=3 * 365))

    assert held(app) == {"amqptasks.delay.0.9": 1}


def test_a_delayed_call_to_an_exchange_that_is_missing_is_an_error_at_once(app: App) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        app.send_task("proj.add", (1, 1), exchange="nowhere", routing_key="k", countdown=10)

    assert held(app) == {}


@pytest.mark.usefixtures("still")
def test_a_ladder_that_somebody_deleted_is_made_again(app: App, add: Any) -> None:
    add.apply_async((1, 1), countdown=30)
    app.connection.delete_queue("amqptasks.delay.1.3")

    add.apply_async((1, 1), countdown=30)

    assert held(app) == {"amqptasks.delay.1.3": 1}


@pytest.mark.usefixtures("still")
def test_a_batch_makes_it_again_too(app: App, add: Any) -> None:
    add.apply_async((1, 1), countdown=30)
    app.connection.delete_queue("amqptasks.delay.1.3")

    with app.batch():
        add.apply_async((1, 1), countdown=30)

    assert held(app) == {"amqptasks.delay.1.3": 1}


@pytest.mark.usefixtures("still")
def test_a_priority_is_cut_to_what_keeps_a_rung_in_order(app: App, add: Any) -> None:
    add.apply_async((1, 1), countdown=30, priority=9)
    delivery = app.connection.get("amqptasks.delay.1.3")

    assert delivery is not None
    assert decode_header(delivery.header).priority == 4


def test_a_message_whose_queue_was_deleted_is_kept_among_the_lost(app: App, add: Any) -> None:
    add.apply_async((1, 1), countdown=30)
    app.connection.delete_queue("amqptasks")

    node(app).advance(31)

    assert app.connection.inspect(LOST).messages == 1
