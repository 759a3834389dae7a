"""Unknown tasks: sent back by the ladder while a deployment may roll, then dead, and their callers told only then."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from amqptasks import App
from amqptasks.amqp import Address, Delivery, Envelope, Properties
from amqptasks.errors import AccessRefused, NotRegistered
from amqptasks.result import AsyncResult
from amqptasks.testing import running_worker
from amqptasks.transport import codec, memory
from amqptasks.transport.memory_broker import MemoryBroker
from amqptasks.worker.admission import fields_of, identity_of, may_be_there_twice
from tests.working import Work

_numbers = itertools.count()
NAME = "proj.newer"


@pytest.fixture
def app() -> Iterator[App]:
    app = App("proj", broker=f"memory://strangers-{next(_numbers)}")
    yield app
    app.close()


@pytest.fixture
def broker(app: App, monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """The app's broker, whose time passes when the test says so, and not otherwise."""
    found = memory.broker(app.conf.broker_url.removeprefix("memory://"))
    monkeypatch.setattr(found, "now", lambda: found._advanced)
    return found


@pytest.fixture
def work(app: App) -> Work:
    return Work(app)


def waiting(app: App, queue: str = "amqptasks") -> int:
    return app.connection.inspect(queue).messages


def test_it_comes_back_after_5_30_and_120_seconds_and_then_it_is_dead(
    app: App, broker: MemoryBroker, work: Work
) -> None:
    result = app.send_task(NAME, (1,))
    assert work() == 1

    for *rungs, last in ((5,), (30,), (20, 100)):
        assert not result.ready(), "its caller is told when it is dead"
        for seconds in rungs:
            broker.advance(seconds)
        broker.advance(last - 1)
        assert waiting(app) == 0
        broker.advance(1.5)
        assert work() == 1

    (letter,) = app.dead_letters().list()
    assert (letter.reason, letter.id, letter.args) == ("unknown", result.id, "(1,)")
    assert waiting(app) == 0
    with pytest.raises(NotRegistered):
        result.get(timeout=60)


def test_it_runs_on_a_worker_that_knows_it(app: App, broker: MemoryBroker, work: Work) -> None:
    result: AsyncResult[Any] = app.send_task(NAME, (1,))
    work()
    newer = App("proj", broker=app.conf.broker_url, set_as_current=False)
    newer.task(name=NAME)(lambda number: number + 1)

    broker.advance(6)

    with running_worker(newer):
        assert result.get(timeout=60) == 2
    newer.close()
    assert app.dead_letters().list() == []


@pytest.mark.parametrize("most", [0, 1, 5])
def test_it_is_sent_back_as_often_as_the_setting_says(app: App, broker: MemoryBroker, most: int) -> None:
    app.conf.task_unknown_retries = most
    work = Work(app)
    app.send_task(NAME)

    rounds = 0
    while not app.dead_letters().list():
        assert work() == 1
        rounds += 1
        broker.advance(20)  # the rungs of 5, of 30 and of 120 seconds, one after the other
        broker.advance(100)

    assert rounds == most + 1


@pytest.mark.parametrize("count", ["5", -1, 2.5, None])
def test_a_count_that_is_none_counts_as_none(app: App, work: Work, count: Any) -> None:
    app.send_task(NAME, headers={"x-amqptasks-unknown": count})

    work()

    assert app.dead_letters().list() == []


def test_other_reasons_do_not_wait(app: App, work: Work) -> None:
    app.prepare("amqptasks")
    properties = Properties(content_type="application/json", headers={"task": NAME, "id": "one"})
    app.connection.publish([Envelope(Address("", "amqptasks"), b"[[1", properties)])

    work()

    assert [letter.reason for letter in app.dead_letters().list()] == ["undecodable"]


def test_what_cannot_be_sent_back_is_dead_at_once(
    app: App, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.send_task(NAME)

    def refuse(*_: Any) -> None:
        raise AccessRefused("access to exchange 'amqptasks.delay.0' refused (403)")

    monkeypatch.setattr(app, "prepare", refuse)

    work()

    assert [letter.reason for letter in app.dead_letters().list()] == ["unknown"]


# --- doubles ---------------------------------------------------------------------------------------------


def arrived(exchange: str, key: str, **counts: int) -> Any:
    named = {f"x-amqptasks-{name}": count for name, count in counts.items()}
    header = codec.encode_header(Properties(headers={"task": NAME, "id": "one", "retries": 0, **named}))
    delivery = Delivery("amqptasks", 1, 1, True, exchange, key, header, b"")
    return identity_of(delivery, fields_of(delivery))


def test_what_comes_anew_is_no_double() -> None:
    """A redelivery that a worker takes for a message which it has finished would be acknowledged unseen."""
    ladder = ("amqptasks.delay.0", "5.x.amqptasks")
    different = [
        arrived("amqptasks", "amqptasks"),
        arrived("", "amqptasks"),
        arrived("", "amqptasks", crashes=1),
        arrived("", "amqptasks", deaths=1),
        arrived("", "amqptasks", deaths=2),
        arrived(*ladder, unknown=1),
        arrived(*ladder, unknown=1, deaths=1),
        arrived(*ladder, unknown=2),
    ]

    assert len(set(different)) == len(different)
    assert arrived("", "amqptasks", deaths=1) == different[3]


@pytest.mark.parametrize(
    ("exchange", "mark", "twice"),
    [
        ("", "x-amqptasks-replayed", True),
        ("events", "x-amqptasks-replayed", False),  # which may feed two queues of this worker
        ("", "x-amqptasks-deaths", False),
        ("amqptasks.delay.0", "mine", True),
    ],
)
def test_only_ladder_and_replays_bring_copies(exchange: str, mark: str, twice: bool) -> None:
    header = codec.encode_header(Properties(headers={"task": NAME, "id": "one", mark: 1}))

    assert may_be_there_twice(Delivery("q", 1, 1, False, exchange, "q", header, b"")) is twice
