"""The observer, on a broker in memory: what it hears, asks and does, and how it begins and ends."""

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from amqptasks import App, pidbox
from amqptasks.amqp import Address, Delivery, Envelope, Properties, Queue
from amqptasks.backends.base import Meta
from amqptasks.errors import BrokerUnavailable, ImproperlyConfigured, NotFound
from amqptasks.monitor import observer as observing
from amqptasks.monitor.calls import Sampling
from amqptasks.monitor.observer import Observer
from amqptasks.monitor.snapshot import SERIES, DeadLetterPage
from amqptasks.monitor.watch import SINGLES
from amqptasks.transport import codec
from tests.working import eventually

NODE = "w1@here"


class Impostor:
    """Answers remote control as a worker would."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.settings = app.conf
        self.asked: list[pidbox.Request] = []
        self.answers: dict[str, Any] = {
            "stats": {"pid": 42, "pool": {"implementation": "amqptasks:prefork", "max-concurrency": 4}},
            "active_queues": [{"name": "mail"}],
        }
        exchange, queue, binding = pidbox.mailbox(NODE, app.conf)
        assert isinstance(queue, Queue)
        bound = (exchange, queue, binding)
        self.subscription = app.connection.consume(queue.name, self.take, declare=bound)

    def take(self, delivery: Delivery) -> None:
        request = pidbox.read_command(codec.unpack(delivery))
        self.asked.append(request)
        if request.reply_to is not None and request.is_for(NODE):
            answer = self.answers.get(request.method, {"ok": "done"})
            self.app.connection.submit([pidbox.reply(NODE, answer, request, clock=1)])


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who answers is waited for, however slow the machine is."""
    monkeypatch.setattr("amqptasks.monitor.actions.REPLY", 60.0)


@pytest.fixture
def observer(app: App) -> Iterator[Observer]:
    with Observer(app, interval=0.05) as made:
        eventually(lambda: made.overview().connected)
        yield made


@pytest.fixture
def impostor(app: App) -> Iterator[Impostor]:
    made = Impostor(app)
    yield made
    made.subscription.close()


def send(app: App, *events: dict[str, Any]) -> None:
    dispatcher = app.events.Dispatcher(NODE)
    for event in events:
        fields = dict(event)
        dispatcher.send(fields.pop("type"), **fields)


# --- reads -----------------------------------------------------------------------------------------------


def test_calls_are_heard_of(app: App, observer: Observer) -> None:
    send(
        app,
        {"type": "task-received", "uuid": "a", "name": "shop.mail", "root_id": "a"},
        {"type": "task-started", "uuid": "a"},
        {"type": "task-failed", "uuid": "a", "exception": "ValueError('no')", "traceback": "Traceback ..."},
    )

    row = eventually(lambda: observer.tasks(state="FAILURE"))[0]

    assert (row.id, row.name, row.worker) == ("a", "shop.mail", NODE)
    detail = observer.task("a")
    assert detail is not None and detail.traceback == "Traceback ..."
    graph = observer.graph("a")
    assert graph is not None and [node.id for node in graph.nodes] == ["a"]
    assert observer.task_names() == ("shop.mail",)
    assert observer.overview().states == {"FAILURE": 1}
    eventually(lambda: observer.overview().task_events)


def test_more_events_than_are_taken_at_a_time_come_in_turn(app: App, observer: Observer) -> None:
    observer._known.calls.sampling = Sampling(target=1e9)  # all of them are kept
    for number in range(3 * SINGLES):
        send(app, {"type": "task-received", "uuid": str(number), "name": "t"})

    eventually(lambda: len(observer.tasks(limit=1000)) == 3 * SINGLES)


def test_rates_and_charts_follow(app: App, observer: Observer) -> None:
    numbers = itertools.count()

    def rate() -> float:
        """Of the last three looks: it is gone again while a busy machine does not let us see it."""
        send(app, {"type": "task-succeeded", "uuid": str(next(numbers)), "runtime": 0.5})
        return observer.overview().rates.get("succeeded", 0.0)

    eventually(rate)
    eventually(lambda: any(observer.series("runtime").values.get("p99", ())))

    assert {name: observer.series(name).name for name in SERIES} == {name: name for name in SERIES}
    with pytest.raises(KeyError):
        observer.series("luck")


def test_workers_tell_of_themselves_and_are_asked(app: App, observer: Observer, impostor: Impostor) -> None:
    send(app, {"type": "worker-heartbeat", "freq": 60, "active": 2, "processed": 7})
    eventually(observer.workers)
    with Observer(app, interval=0.05) as second:  # begins by asking
        eventually(lambda: second.overview().connected)
        send(app, {"type": "worker-heartbeat", "freq": 60, "active": 2, "processed": 7})

        row = eventually(lambda: [row for row in second.workers() if row.pool and row.queues and row.active])[
            0
        ]

        assert (row.node, row.alive, row.pool, row.active, row.queues) == (
            NODE,
            True,
            "prefork",
            2,
            ("mail",),
        )
        assert second.overview().workers_online == 1
    assert "heartbeat" in {request.method for request in impostor.asked}


def test_queues_are_counted_and_one_that_nobody_consumes_stands_out(app: App, observer: Observer) -> None:
    app.conf.update(task_create_missing_queues=True)
    app.connection.declare(Queue("amqptasks"))
    with Observer(app, interval=0.05) as second:
        row = eventually(lambda: [row for row in second.queues() if row.exists])[0]

        assert (row.name, row.ready, row.consumers, row.nobody_consumes) == ("amqptasks", 0, 0, True)
        assert second.overview().unconsumed == ("amqptasks",)


def test_one_queue_that_is_deleted_does_not_hide_the_others(app: App) -> None:
    app.conf.update(task_queues={"mail": {}, "chat": {}})
    app.connection.declare(Queue("mail"), Queue("chat"))
    with Observer(app, interval=0.05) as observer:
        eventually(lambda: all(row.exists for row in observer.queues()))
        app.connection.delete_queue("chat")

        eventually(lambda: [row.exists for row in observer.queues()] == [False, True])

        app.connection.consume("mail", lambda _: None)
        eventually(lambda: [row.consumers for row in observer.queues()] == [None, 1])


def test_what_no_event_told_of_comes_from_where_results_are_stored(
    app: App, observer: Observer, monkeypatch
) -> None:
    assert observer.task("unknown") is None
    meta = Meta(
        task_id="old", status="FAILURE", result=ValueError("no"), extended={"name": "shop.mail", "retries": 2}
    )

    class Stored:
        stores = True

        def fetch(self, task_id: str) -> Meta | None:
            return meta if task_id == "old" else None

    monkeypatch.setattr(type(app), "backend", Stored())

    found = observer.task("old")

    assert found is not None and found.from_result
    assert (found.row.state, found.row.name, found.row.retries) == ("FAILURE", "shop.mail", 2)
    assert found.row.exception == "ValueError('no')"


# --- actions ---------------------------------------------------------------------------------------------


def test_a_worker_is_asked_for_all_it_knows(app: App, observer: Observer, impostor: Impostor) -> None:
    send(app, {"type": "worker-heartbeat", "freq": 60})
    eventually(observer.workers)
    impostor.answers |= {
        "active": [{"id": "a", "name": "shop.mail", "args": "()", "time_start": 5.0, "worker_pid": 9}],
        "reserved": [{"id": "b", "name": "shop.mail"}],
        "scheduled": [{"eta": None, "request": {"id": "c"}}],
        "registered": ["shop.mail"],
        "conf": {"task_acks_late": True},
    }

    detail = observer.worker(NODE, timeout=60.0)

    assert detail is not None
    assert [(call.id, call.started_at, call.pid) for call in detail.active] == [("a", 5.0, 9)]
    assert [call.id for call in (*detail.reserved, *detail.scheduled)] == ["b", "c"]
    assert (detail.registered, detail.conf, detail.stats["pid"]) == (
        ("shop.mail",),
        {"task_acks_late": True},
        42,
    )
    assert observer.worker("nobody@here") is None


def test_a_silent_worker_is_said_to_be_so(app: App, observer: Observer) -> None:
    send(app, {"type": "worker-heartbeat", "freq": 60})
    eventually(observer.workers)

    detail = observer.worker(NODE, timeout=0.05)

    assert detail is not None
    assert "did not answer" in detail.message


def test_actions_reach_the_worker_and_bring_its_answer(
    app: App, observer: Observer, impostor: Impostor
) -> None:
    send(app, {"type": "worker-heartbeat", "freq": 60})
    eventually(observer.workers)
    impostor.answers["pool_shrink"] = {"error": "a pool has at least one"}

    (grown,) = observer.pool_grow(NODE, 2)
    (shrunk,) = observer.pool_shrink(NODE)
    told = [observer.rate_limit("t", "10/s"), observer.autoscale(NODE, 4, 1), observer.add_consumer("q", NODE),
            observer.time_limit("t", 1.0, 2.0), observer.cancel_consumer("q"), observer.enable_events(),
            observer.disable_events(NODE), observer.pool_restart(NODE), observer.revoke("x")]  # fmt: skip
    (ended,) = observer.shutdown(NODE)

    assert (grown.node, grown.ok, grown.text) == (NODE, True, "done")
    assert (shrunk.ok, shrunk.text) == (False, "a pool has at least one")
    assert all(answer.ok for answers in told for answer in answers)
    assert ended.ok
    eventually(lambda: "shutdown" in {request.method for request in impostor.asked})
    arguments = {request.method: dict(request.arguments) for request in impostor.asked}
    assert arguments["pool_grow"] == {"n": 2}
    assert arguments["autoscale"] == {"max": 4, "min": 1}
    assert arguments["rate_limit"] == {"task_name": "t", "rate_limit": "10/s"}


def test_a_worker_that_was_changed_is_asked_at_once(app: App, observer: Observer, impostor: Impostor) -> None:
    def asked() -> int:
        asked = [(request.method, request.destination) for request in impostor.asked]
        return asked.count(("active_queues", (NODE,)))

    send(app, {"type": "worker-heartbeat", "freq": 60})
    eventually(lambda: asked() == 1)  # it was not known before

    observer.add_consumer("q", NODE)

    eventually(lambda: asked() == 2)


def test_a_worker_that_does_not_answer_an_action_is_an_answer(
    app: App, observer: Observer, monkeypatch
) -> None:
    monkeypatch.setattr("amqptasks.monitor.actions.REPLY", 0.05)

    (answer,) = observer.pool_grow("nobody@here")

    assert (answer.ok, answer.node) == (False, "nobody@here")


def test_dead_letters_of_one_queue_are_not_those_of_another(
    app: App, observer: Observer, monkeypatch
) -> None:
    monkeypatch.setattr("amqptasks.monitor.depots.SOON", 0.2)
    app.connection.declare(Queue("mail.dead"), Queue("amqptasks.lost"))
    app.connection.publish(
        [Envelope(Address("", name), b"x", Properties()) for name in ("mail.dead", "amqptasks.lost")]
    )
    send(app, {"type": "task-sent", "uuid": "a", "queue": "mail"})
    eventually(lambda: observer.overview().dead == 2)

    assert [row.lies_in for row in observer.dead_letters("mail").rows] == ["mail.dead"]
    assert observer.dead_letters("other") == DeadLetterPage()
    assert len(observer.dead_letters().rows) == 2
    with pytest.raises(NotFound, match="other"):
        observer.drop_dead("other")
    assert observer.drop_dead("mail").text == "1 dropped"
    assert [row.lies_in for row in observer.dead_letters().rows] == ["amqptasks.lost"]


def test_a_queue_is_purged(app: App, observer: Observer) -> None:
    app.connection.declare(Queue("mail"))
    app.send_task("t", queue="mail")

    assert observer.purge("mail") == 1


def test_without_a_beat_the_schedule_says_so(app: App, observer: Observer) -> None:
    page = observer.schedules()

    assert page.rows == ()
    assert "amqptasks beat" in page.message
    assert not observer.schedule_pause("nightly").ok


# --- life ------------------------------------------------------------------------------------------------


def test_it_stops_at_once_and_begins_again(app: App) -> None:
    observer, before = Observer(app, interval=600.0), set(threading.enumerate())
    observer.start()
    observer.start()
    eventually(lambda: observer.overview().connected)
    begun = set(threading.enumerate()) - before
    threads = [thread for thread in begun if thread.name == "amqptasks-observer"]

    observer.stop()
    observer.stop()

    assert len(threads) == 1
    threads[0].join(100)  # `stop` does not wait for long; its interval is 600 seconds
    assert not threads[0].is_alive()
    assert not observer.overview().connected
    observer.start()
    eventually(lambda: observer.overview().connected)
    observer.stop()


def test_without_a_broker_it_says_so_and_actions_fail_at_once(app: App) -> None:
    app.conf.update(broker_url="amqp://guest@127.0.0.1:9//")
    with Observer(app, management_url="") as observer:
        message = eventually(lambda: (told := observer.overview().message) != "not connected yet" and told)

        assert "127.0.0.1:9" in message
        assert observer.queues()[0].exists is False
        with pytest.raises(BrokerUnavailable, match="no connection"):
            observer.purge("mail")
        with pytest.raises(BrokerUnavailable):
            observer.pool_grow(NODE)
        assert observer.schedules().message


@pytest.mark.parametrize("options", [{"interval": 0}, {"history": -1}, {"events_limit": 0}])
def test_bounds_are_above_zero(app: App, options: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match="above zero"):
        Observer(app, **options)


def test_a_failure_of_the_watch_is_told_and_it_goes_on(app: App, monkeypatch, caplog) -> None:
    whole, seen, turned = observing.Known.turn, threading.Event(), threading.Event()

    def odd(self: Any, **given: Any) -> None:
        if not seen.is_set():
            raise RuntimeError("odd")
        whole(self, **given)
        turned.set()

    monkeypatch.setattr(observing.Known, "turn", odd)
    with Observer(app, interval=0.02) as observer:
        eventually(lambda: "odd" in observer.overview().message)
        seen.set()
        assert turned.wait(60)
        eventually(lambda: observer.overview().connected)


def test_an_error_of_its_own_is_told_rather_than_hidden(app: App, monkeypatch) -> None:
    async def broken(self: Any) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(observing.Watch, "run", broken)
    with Observer(app) as observer:
        assert "odd" in eventually(
            lambda: (told := observer.overview().message) != "not connected yet" and told
        )
