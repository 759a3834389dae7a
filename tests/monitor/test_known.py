"""What is known as a whole: rates, what is scaled, what a blind observer tells, and input of any shape."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks.event_state import STATES
from amqptasks.monitor import known as knowing
from amqptasks.monitor.depots import Depots
from amqptasks.monitor.history import History
from amqptasks.monitor.known import Known


class Clock:
    """Stands for `time`, in the module that is looked at."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(knowing, "time", made)
    return made


def fresh() -> Known:
    return Known("amqp://**@rabbit//", 1000, History(60.0, 1.0), Depots({}))


def happen(known: Known, kind: str, count: int) -> None:
    for number in range(count):
        known.event({"type": f"task-{kind}", "uuid": f"{kind}{number}", "timestamp": 1.0})


def beat(known: Known, at: float, processed: int) -> None:
    event = {
        "type": "worker-heartbeat",
        "hostname": "w",
        "timestamp": at,
        "processed": processed,
        "freq": 60,
        "active": 1,
    }
    known.fleet.take(event, now=at)


def test_rates_are_those_of_the_last_turns(clock: Clock) -> None:
    known = fresh()
    known.connected("RabbitMQ 4")
    for _ in range(5):
        happen(known, "succeeded", 10)
        clock.now += 2.0
        known.turn(dropped=False)

    overview = known.overview()

    assert overview.rates["succeeded"] == 5.0
    assert overview.rates["failed"] == 0.0
    assert (overview.events, overview.task_events, overview.connected) == (5.0, True, True)
    clock.now += 10.0
    for _ in range(3):
        known.turn(dropped=False)
    assert known.overview().rates["succeeded"] == 0.0


def test_what_was_thrown_away_is_made_up_for_by_what_workers_count(clock: Clock) -> None:
    known = fresh()
    known.connected("RabbitMQ 4")
    beat(known, 1000.0, 0)
    happen(known, "started", 10)
    happen(known, "succeeded", 8)
    clock.now += 1.0
    beat(known, 1001.0, 100)

    known.turn(dropped=False)
    exact = known.overview().rates
    happen(known, "started", 10)
    known.turn(dropped=True)
    scaled = known.overview()

    assert (exact["started"], exact["succeeded"]) == (100.0, 8.0)
    assert scaled.dropped
    assert scaled.rates["started"] == 100.0
    assert scaled.rates["succeeded"] == pytest.approx(8.0 / 20.0 * 100.0)


def test_a_blind_observer_does_not_let_workers_die(clock: Clock) -> None:
    known = fresh()
    known.connected("RabbitMQ 4")
    beat(known, 1000.0, 5)
    known.turn(dropped=False)
    known.disconnected("the cable")
    clock.now += 10_000.0

    overview = known.overview()

    assert (overview.connected, overview.message, overview.workers_online) == (False, "the cable", 1)
    known.connected("RabbitMQ 4")
    known.turn(dropped=False)
    assert known.overview().workers_online == 0


def test_an_outage_is_no_rate(clock: Clock) -> None:
    known = fresh()
    known.connected("RabbitMQ 4")
    happen(known, "succeeded", 100)
    clock.now += 1.0
    known.turn(dropped=False)
    known.disconnected("the cable")
    clock.now += 100.0
    known.connected("RabbitMQ 4")
    happen(known, "succeeded", 10)
    clock.now += 1.0
    known.turn(dropped=False)

    assert known.overview().rates["succeeded"] == 10.0


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = (
    "hostname", "timestamp", "freq", "active", "processed", "loadavg", "name", "args", "root_id", "parent_id", "retries",
    "runtime", "queue", "traceback", "sw_ident", "pid",
)  # fmt: skip
KINDS = st.sampled_from(
    [*STATES, "worker-online", "worker-heartbeat", "worker-offline", "task-odd", "worker-odd", "odd"]
)
EVENTS = st.dictionaries(st.sampled_from(FIELDS), JSON).flatmap(
    lambda fields: st.tuples(KINDS, st.sampled_from(["a", "b"]) | JSON).map(
        lambda it: fields | {"type": it[0], "uuid": it[1]}
    )
)


@given(
    st.lists(EVENTS | JSON, max_size=20),
    st.lists(st.tuples(st.sampled_from(["stats", "active_queues"]), JSON), max_size=5),
)
def test_no_event_and_no_answer_is_a_surprise(events: list[Any], answers: list[tuple[str, Any]]) -> None:
    known = fresh()
    known.connected("RabbitMQ 4")
    for event in events:
        known.event(event)
    for command, answer in answers:
        known.fleet.told("w", command, answer)
    known.depots.learn(known.fleet.consumed(known.now))
    known.turn(dropped=True)

    known.overview()
    known.workers()
    known.queues(internal=True)
    for row in known.calls.rows({}, "x", None, 10):
        known.calls.detail(row.id)
    for name in ("a", "b"):
        known.calls.detail(name)
        known.calls.graph(name, 10)
