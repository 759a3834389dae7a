"""Sending: queues declared on the way, the ladder, batches, the publish signals."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from amqptasks import App, Queue, signals
from amqptasks.errors import AccessRefused, BrokerUnavailable, PublishError, TooLarge, Unroutable
from tests.working import Work


def messages(app: App, queue: str) -> int:
    return app.connection.inspect(queue).messages


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


# --- queues --------------------------------------------------------------------------------------------------


def test_a_queue_that_nobody_declared_is_created_with_its_dead_letters(app: App, add: Any) -> None:
    add.apply_async((2, 2), queue="lopri")

    assert messages(app, "lopri") == 1
    assert messages(app, "lopri.dead") == 0


@pytest.mark.usefixtures("still")
def test_with_a_countdown_the_message_waits_on_the_ladder(app: App, add: Any) -> None:
    add.apply_async((2, 2), queue="lopri", countdown=10)

    assert messages(app, "lopri") == 0
    assert messages(app, "amqptasks.delay.1.1") == 1, "ten seconds, though less is left when it is written"


def test_a_delay_below_a_second_is_left_to_the_worker(app: App, add: Any) -> None:
    add.apply_async((2, 2), countdown=0.5)

    assert messages(app, "amqptasks") == 1


def test_without_creating_a_missing_queue_is_unroutable_and_names_the_near_one(app: App, add: Any) -> None:
    app.conf.update(
        task_create_missing_queues=False, task_queues=[Queue("lopri")], task_default_queue="lopri"
    )

    with pytest.raises(Unroutable, match="lopri"):
        add.apply_async((2, 2), queue="loprj")


def test_a_configured_queue_that_is_missing_on_the_broker_is_unroutable_too(app: App, add: Any) -> None:
    app.conf.update(
        task_create_missing_queues=False, task_queues=[Queue("lopri")], task_default_queue="lopri"
    )

    with pytest.raises(Unroutable, match="nothing was sent"):
        add.delay(2, 2)


def test_a_queue_deleted_behind_our_back_is_made_again(app: App, add: Any) -> None:
    add.delay(1, 1)
    app.connection.delete_queue("amqptasks")

    add.delay(2, 2)

    assert messages(app, "amqptasks") == 1


def test_an_exchange_of_one_s_own_without_a_queue_is_unroutable(app: App, add: Any) -> None:
    with pytest.raises(Unroutable):
        add.apply_async((1, 1), exchange="amqptasks", routing_key="nowhere")


def test_a_call_that_failed_is_not_expected(app: App, add: Any) -> None:
    with pytest.raises(Unroutable):
        add.apply_async((1, 1), task_id="gone", exchange="amqptasks", routing_key="nowhere")

    assert app.backend.fetch("gone") is None


def test_routes_by_name_and_by_function(app: App, add: Any) -> None:
    def by_size(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Any:
        return {"queue": "big"} if args and args[0] > 100 else None

    app.conf.task_routes = (by_size, {"proj.*": "small"})
    add.delay(1000, 1)
    add.delay(1, 1)

    assert (messages(app, "big"), messages(app, "small")) == (1, 1)


# --- batches -------------------------------------------------------------------------------------------------


def test_a_batch_publishes_everything_by_its_end(app: App, add: Any, work: Work) -> None:
    with app.batch() as batch:
        results = [add.delay(number, number) for number in range(250)]

    assert batch.published == 250
    assert messages(app, "amqptasks") == 250
    work()
    assert [result.get(timeout=60) for result in results] == [2 * number for number in range(250)]


def test_a_batch_names_the_messages_that_failed_and_sends_the_others(app: App, add: Any) -> None:
    add.delay(0, 0)
    with pytest.raises(PublishError, match=r"1 of 3 messages.*nowhere") as caught, app.batch():
        add.delay(1, 1)
        add.apply_async((1, 1), task_id="lost", exchange="amqptasks", routing_key="nowhere")
        add.delay(2, 2)

    assert [envelope.properties.message_id for envelope in caught.value.envelopes] == ["lost"]
    assert messages(app, "amqptasks") == 3


def test_an_exception_in_a_batch_does_not_unsend(app: App, add: Any) -> None:
    with pytest.raises(KeyError), app.batch():
        add.delay(1, 1)
        raise KeyError("k")

    assert messages(app, "amqptasks") == 1


def test_waiting_inside_a_batch_sends_what_it_holds(app: App, add: Any, work: Work) -> None:
    worker = threading.Thread(target=work, args=(1,))
    with app.batch():
        result = add.delay(2, 2)
        worker.start()
        value = result.get(timeout=60)
    worker.join()

    assert value == 4


def test_a_batch_is_its_thread_s_own(app: App, add: Any) -> None:
    add.delay(0, 0)
    with app.batch() as batch:
        other = threading.Thread(target=add.delay, args=(1, 1))
        other.start()
        other.join()
        assert messages(app, "amqptasks") == 2

    assert batch.published == 0


def test_a_batch_inside_a_batch_belongs_to_it(app: App, add: Any) -> None:
    with app.batch() as outer:
        with app.batch() as inner:
            add.delay(1, 1)

    assert inner is outer
    assert outer.published == 1


# --- signals -------------------------------------------------------------------------------------------------


@pytest.fixture
def heard() -> Iterator[list[dict[str, Any]]]:
    seen: list[dict[str, Any]] = []

    def receiver(**named: Any) -> None:
        seen.append(named)

    signals.after_task_publish.connect(receiver, sender="proj.add")
    yield seen
    signals.after_task_publish.disconnect(receiver, sender="proj.add")


def test_after_task_publish_is_sent_with_the_task_s_name(
    app: App, add: Any, heard: list[dict[str, Any]]
) -> None:
    result = add.delay(2, 2)
    app.send_task("proj.other")

    assert [(each["sender"], each["headers"]["id"]) for each in heard] == [("proj.add", result.id)]
    assert (heard[0]["exchange"], heard[0]["routing_key"]) == ("amqptasks", "amqptasks")


def test_before_task_publish_may_add_headers(app: App, add: Any, heard: list[dict[str, Any]]) -> None:
    def receiver(headers: dict[str, Any], **_: Any) -> None:
        headers["tenant"] = "t1"

    signals.before_task_publish.connect(receiver)
    add.delay(2, 2)
    signals.before_task_publish.disconnect(receiver)

    assert heard[0]["headers"]["tenant"] == "t1"


def test_send_task_uses_the_options_of_a_task_that_is_known_here(app: App) -> None:
    @app.task(name="proj.slow", queue="slow")
    def slow() -> None: ...

    app.send_task("proj.slow")

    assert messages(app, "slow") == 1


def test_a_body_that_is_too_large_is_refused_at_once(app: App, add: Any) -> None:
    app.conf.broker_max_message_size = 1000

    with pytest.raises(TooLarge):
        add.delay("x" * 2000, 1)


# --- retrying ------------------------------------------------------------------------------------------------


def test_a_call_s_own_retry_policy_sends_again_under_one_id(
    app: App, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add.delay(0, 0)
    attempts: list[str] = []
    publish = app.connection.publish

    def failing(envelopes: Any, timeout: float | None = None) -> None:
        attempts.append(envelopes[0].message_id)
        if len(attempts) < 3:
            raise BrokerUnavailable("nobody answers")
        publish(envelopes, timeout)

    monkeypatch.setattr(app.connection, "publish", failing)
    policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0}
    result = add.apply_async((1, 1), retry_policy=policy)

    assert attempts == [result.id] * 3
    assert messages(app, "amqptasks") == 2


def test_it_gives_up_after_its_retries_and_not_at_all_for_what_will_not_mend(
    app: App, add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    add.delay(0, 0)
    attempts: list[Exception] = []

    def failing(envelopes: Any, timeout: float | None = None) -> None:
        attempts.append(error)
        raise error

    monkeypatch.setattr(app.connection, "publish", failing)
    policy = {"max_retries": 2, "interval_start": 0, "interval_step": 0}
    for error, expected in ((BrokerUnavailable("no"), 3), (AccessRefused("no"), 1)):
        attempts.clear()
        with pytest.raises(type(error)):
            add.apply_async((1, 1), retry_policy=policy)
        assert len(attempts) == expected
