"""What Prometheus reads: names, labels, sums, and what cannot grow without bound."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from amqptasks import App, protocol, states
from amqptasks.amqp import Address, Delivery, Parcel, Properties
from amqptasks.errors import ImproperlyConfigured, Nacked
from amqptasks.protocol import TaskMessage
from amqptasks.testing import running_worker
from amqptasks.transport import codec
from amqptasks.worker import measures as counting
from amqptasks.worker.flight import UNKNOWN_TASK, Flight
from amqptasks.worker.measures import Histogram, Measures, exception_of, waiting_since
from amqptasks.worker.measuring import MeasuredCounters, MeasuredPublisher
from amqptasks.worker.metrics import GAUGES, TOTALS, render
from amqptasks.worker.outcome import Outcome, TaskOptions, Verdict, WorkerQueue
from amqptasks.worker.snapshot import LaneView, View
from tests.worker.test_dispatch import Stage, result, scenario

EXPORTERS = {
    "task_received", "task_started", "task_succeeded", "task_failed", "task_rejected", "task_revoked", "task_retried",
    "worker_up", "worker_tasks_active", "task_runtime", "queue_length", "active_consumer_count",
    "active_worker_count", "active_process_count",
}  # fmt: skip
"""celery-exporter 0.13's families, without `task_sent`, which clients know."""


class FakeLane:
    queue = WorkerQueue("short")


def flight(task: str = "p.add", key: int = 1, header: bytes = b"\0\0") -> Flight:
    delivery = Delivery("short", 1, 1, False, "", "short", header, b"")
    return Flight(key, delivery, FakeLane(), TaskOptions(task), 0.0)  # type: ignore[arg-type]


@pytest.fixture
def measures() -> Measures:
    async def made() -> Measures:
        return Measures()

    return asyncio.run(made())


def view_of(measures: Measures, **others: Any) -> View:
    return View(
        node="w1@here",
        tallies=measures.tallies,
        lanes=[LaneView("short", False, 8, 3, 1.5), LaneView("amqptasks.internal", True, 8, 0, 0.0)],
        dead=measures.dead,
        confirms=measures.confirms,
        totals=dict.fromkeys(TOTALS, 0),
        gauges={**dict.fromkeys(GAUGES, 0.0), "worker_tasks_active": 2},
        connected={"consuming": True, "publishing": False},
        reconnects={"consuming": 4, "publishing": 0},
        slots=4,
    )


def shown(view: View, prefix: str = "amqptasks_", accept: str = "", lengths: Any = None) -> dict[str, Any]:
    """Family -> {(sample name, labels): value}."""
    kind, page = render(view, lengths or {"short": (7, 2)}, prefix, accept)
    parse = openmetrics if "openmetrics" in kind else plain
    return {
        family.name: {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples
        }
        for family in parse(page.decode())
    }


def run(measures: Measures, outcome: Outcome, *, seconds: float = 0.0, task: str = "p.add") -> None:
    call = flight(task)
    call.started = True
    measures.finished(call, outcome, 100.0, 100.0 + seconds)


# --- names and labels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["amqptasks_", "celery_", ""])
def test_the_names_are_celery_exporters_behind_any_prefix(measures, prefix) -> None:
    families = shown(view_of(measures), prefix)

    assert {prefix + name for name in EXPORTERS} <= set(families)
    assert all(name.startswith(prefix) for name in families)


def test_the_labels_are_celery_exporters(measures) -> None:
    run(measures, Outcome(state=states.FAILURE, event=b'"exception":"KeyError(1)"}'))
    families = shown(view_of(measures))
    labels = {
        family: {frozenset(name for name, _ in labels) - {"le"} for _, labels in samples}
        for family, samples in families.items()
    }

    call = frozenset({"name", "hostname", "queue_name"})
    for family in ("task_received", "task_started", "task_succeeded", "task_retried", "task_runtime"):
        assert labels[f"amqptasks_{family}"] == {call}
    assert labels["amqptasks_task_failed"] == {call | {"exception"}}
    assert labels["amqptasks_worker_up"] == {frozenset({"hostname"})}
    assert labels["amqptasks_queue_length"] == {frozenset({"queue_name"})}


def test_both_of_prometheus_formats_can_be_read(measures) -> None:
    run(measures, Outcome(state=states.SUCCESS), seconds=0.3)

    text = shown(view_of(measures))
    other = shown(view_of(measures), accept="application/openmetrics-text; version=1.0.0; charset=utf-8")

    assert set(text) == set(other)


def test_the_workers_own_queue_is_not_shown(measures) -> None:
    assert "amqptasks.internal" not in str(shown(view_of(measures)))


def test_without_the_extra_one_line_says_how_to_get_it(measures, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(ImproperlyConfigured, match=r'pip install "amqptasks\[prometheus\]"'):
        render(view_of(measures), {}, "amqptasks_", "")


def test_every_family_stands_in_the_guide(measures) -> None:
    from tests.support.pages import pages

    guide = pages()["docs/guide/deployment.md"].read_text()
    families = shown(view_of(measures), prefix="")

    assert [name for name in families if f"`{name}`" not in guide and f"`{name}_total`" not in guide] == []


# --- numbers ---------------------------------------------------------------------------------------------


def test_each_end_is_counted_as_what_it_is(measures) -> None:
    for state, count in {states.SUCCESS: 3, states.RETRY: 2, states.REVOKED: 1, states.REJECTED: 4}.items():
        for _ in range(count):
            run(measures, Outcome(state=state))
    run(measures, Outcome(Verdict.REJECT, state=states.REJECTED))
    families = shown(view_of(measures))

    def total(name: str) -> float:
        return sum(families[f"amqptasks_task_{name}"].values())

    assert [total(name) for name in ("received", "started", "succeeded", "retried", "revoked", "rejected")] == [
        11, 11, 3, 2, 1, 5,
    ]  # fmt: skip
    assert total("failed") == 0
    assert families["amqptasks_dead_letters"] == {
        (
            "amqptasks_dead_letters_total",
            (("hostname", "w1@here"), ("queue_name", "short"), ("reason", "rejected")),
        ): 1
    }


def test_a_histogram_sums_up_to_each_bound() -> None:
    measured = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 3.0):
        measured.observe(value)

    assert measured.counts == [2, 1, 1]
    assert measured.total == pytest.approx(3.65)


def test_waits_of_the_same_moment_are_alike_and_all_counted(measures) -> None:
    """To read each message's time would cost more than all the rest."""
    import time

    now = time.time()
    measures._offset = now - 1000.0
    old, young = (header(headers={}, timestamp=int(now - ago)) for ago in (20, 3))

    def end(sent: bytes, at: float) -> None:
        call = flight(header=sent)
        call.started = True
        measures.finished(call, Outcome(state=states.SUCCESS), at, at)

    for sent, at in ((old, 1000.0), (young, 1000.001), (young, 1000.002), (young, 1000.5), (young, 1000.501)):
        end(sent, at)

    tally = measures.shown([])["p.add", "short"]
    assert sum(tally.wait.counts) == 5
    assert (
        66.9 < tally.wait.total < 67 + 5 + 0.1
    )  # of each the part of a second that its message does not tell
    assert measures.shown([])["p.add", "short"].wait.counts == tally.wait.counts


def test_clocks_that_differ_make_no_wait_negative(measures) -> None:
    import time

    call = flight(header=header(headers={}, timestamp=int(time.time() + 60)))
    measures._offset = time.time() - 1000.0
    measures.finished(call, Outcome(state=states.SUCCESS), 1000.0, 1000.0)

    wait = measures.shown([])["p.add", "short"].wait
    assert (sum(wait.counts), wait.total) == (1, 0.0)


def test_runtimes_stand_in_the_exporters_buckets(measures) -> None:
    for seconds in (0.004, 0.2, 60.0):
        run(measures, Outcome(state=states.SUCCESS), seconds=seconds)
    run(measures, Outcome(state=states.RETRY), seconds=5.0)  # only what succeeded is timed, as there

    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in shown(view_of(measures))["amqptasks_task_runtime"].items()
        if name.endswith("_bucket")
    }

    assert list(buckets) == [
        "0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0", "7.5", "10.0",
        "+Inf",
    ]  # fmt: skip
    assert (buckets["0.005"], buckets["0.1"], buckets["0.25"], buckets["10.0"], buckets["+Inf"]) == (
        1,
        1,
        2,
        2,
        3,
    )


def test_senders_cannot_make_up_series(measures) -> None:
    for number in range(1000):
        run(measures, Outcome(state=states.FAILURE, event=f'"exception":"E{number}()"}}'.encode()))
    run(measures, Outcome(state=states.REJECTED), task=UNKNOWN_TASK.name)
    families = shown(view_of(measures))

    failed = families["amqptasks_task_failed"]
    assert len([1 for _, labels in failed if dict(labels)["name"] == "p.add"]) == counting.EXCEPTIONS + 2
    assert sum(failed.values()) == 1000
    assert {dict(labels)["name"] for _, labels in families["amqptasks_task_received"]} == {"p.add", "unknown"}


def test_what_is_under_way_is_counted_and_no_counter_ever_falls(measures) -> None:
    """A count that falls is a restart to Prometheus, which adds all of it to the rate."""
    running, waiting = flight(key=1), flight(key=2)
    running.started = True
    run(measures, Outcome(state=states.SUCCESS))

    def seen(*flights: Flight) -> tuple[int, int]:
        tally = measures.shown(flights)["p.add", "short"]
        return tally.received, tally.started

    assert seen(running, waiting) == (3, 2)
    assert seen(running) == (3, 2)  # one has gone back to the broker
    assert seen(running, flight(key=3)) == (4, 2)
    run(measures, Outcome(state=states.SUCCESS))  # the one that ran
    assert seen(flight(key=3)) == (4, 2)
    assert seen() == (4, 2)
    assert measures.shown([])["p.add", "short"].succeeded == 2


@scenario
async def test_whatever_becomes_of_a_message_it_is_counted_once(stage: Stage) -> None:
    measures, dispatch = Measures(), stage.dispatch
    dispatch.counters = MeasuredCounters(measures=measures, dispatch=dispatch)

    def seen(task: str) -> tuple[int, int, int]:
        tally = measures.shown(dispatch.flights.values())[task, "q"]
        return tally.received, tally.started, tally.succeeded

    ended, confirming, killed, running = (stage.deliver("late", name) for name in ("a", "b", "c", "d"))
    for key in (ended, confirming, killed, running):
        stage.start(key)
    stage.finish(ended, Outcome(state=states.SUCCESS))
    stage.finish(confirming, Outcome(publish=(result("dead"),), state=states.SUCCESS))
    assert seen("late") == (4, 4, 2)
    stage.lose(killed, innocent=True)
    assert seen("late") == (4, 4, 2)

    dispatch.void(stage.lane)
    stage.new_lane()
    assert stage.deliver("late", "d", redelivered=True) is None  # it runs: one call, though delivered twice
    stage.publisher.answer()
    assert seen("late") == (4, 4, 2)

    stage.deliver("early", "e")
    assert seen("early") == (1, 0, 0)
    dispatch.void(stage.lane)
    assert seen("early") == (1, 0, 0)
    stage.new_lane()
    stage.deliver("early", "f")
    assert seen("early") == (2, 0, 0)
    assert dispatch.give_back() == 1
    assert seen("early") == (2, 0, 0)

    stage.finish(running, Outcome(state=states.SUCCESS))
    assert seen("late") == (4, 4, 3)
    assert dispatch.counters.finished == 3
    assert not dispatch.flights


# --- what is read off messages and events ----------------------------------------------------------------


def header(**properties: Any) -> bytes:
    return codec.encode_header(Properties(**properties))


def delivered(exchange: str = "", **properties: Any) -> Delivery:
    return Delivery("short", 1, 1, False, exchange, "short", header(**properties), b"")


@pytest.mark.parametrize(
    ("delivery", "since"),
    [
        (delivered(), None),
        (delivered(headers={"task": "x"}, message_id="m"), None),
        (delivered(headers={"task": "x"}, message_id="m", timestamp=1_700_000_000), 1_700_000_000.0),
        (delivered(headers={"task": "x"}, timestamp=1_700_000_000, type="t", app_id="a"), 1_700_000_000.0),
        (
            delivered(headers={"timestamp_in_ms": 1_700_000_000_250}, timestamp=1_600_000_000),
            1_700_000_000.25,
        ),
        (delivered(headers={"timestamp_in_ms": "soon"}, timestamp=1_600_000_000), None),
        (replace(delivered(), header=b"\xff"), None),
        (replace(delivered(), header=b"\x00\x40"), None),
        # by the ladder: from when it was due
        (
            delivered(
                "amqptasks.delay.0", headers={"eta": "2023-11-14T23:13:20+00:00"}, timestamp=1_700_000_000
            ),
            1_700_003_600.0,
        ),
        (delivered("amqptasks.delay.0", headers={"eta": None}, timestamp=1_700_000_000), 1_700_000_000.0),
    ],
)
def test_when_a_message_began_to_wait(delivery: Delivery, since: float | None) -> None:
    assert waiting_since(delivery) == since


def test_calls_of_ours_say_when_they_were_sent() -> None:
    import time

    before = int(time.time())
    envelope = protocol.encode(TaskMessage(id="i", task="t"), Address("", "q"))
    parcel = codec.pack(envelope)

    assert before <= waiting_since(replace(delivered(), header=parcel.header)) <= time.time()


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (b"", ""),
        (b'"exception":"KeyError(1)"}', "KeyError"),
        (b'"exception":"Odd"}', "Odd"),
        (b'"exception":"<nonsense>"}', ""),
        (b'"exception":null}', ""),
        (b'"result":"\\"exception\\":\\"Fake\\"","exception":"Real()"', "Real"),
        (b"broken", ""),
    ],
)
def test_the_class_that_a_failure_names(event: bytes, name: str) -> None:
    assert exception_of(event) == name


# --- the publisher ---------------------------------------------------------------------------------------


def test_confirms_are_timed_and_dead_letters_counted_when_they_arrive() -> None:
    async def main() -> Measures:
        measures = Measures()

        async def connect() -> Any:
            await asyncio.sleep(60)

        publisher = MeasuredPublisher(measures, "amqptasks.dead", connect, on_room=lambda: None)
        publisher._clock = lambda: 1000.0
        told: list[Any] = []
        letter = Parcel(
            "amqptasks.dead", "short", header(headers={"x-amqptasks-reason": "unknown"}), b"", "1", "raise"
        )
        other = Parcel("", "short", header(), b"", "2", "raise")
        for parcel in (letter, letter, other, other):
            publisher.post(parcel, told.append)
        first, second, third, fourth = publisher._pending
        publisher._finish(first, Nacked("full"))
        publisher._finish(second, None)
        publisher._finish(third, None)
        publisher._finish(fourth, None)
        assert [type(each) for each in told] == [Nacked, type(None), type(None), type(None)]
        await publisher.close()
        return measures

    measures = asyncio.run(main())

    assert measures.dead == {("short", "unknown"): 1}
    assert sum(measures.confirms.counts) == 1  # two at the same moment: one of them is timed


# --- a worker --------------------------------------------------------------------------------------------


@pytest.fixture
def app() -> Iterator[App]:
    with App("measured", broker="memory://measured") as app:
        app.conf.worker_health_port = 0

        @app.task(name="add")
        def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="boom")
        def boom() -> None:
            raise ZeroDivisionError

        yield app


def test_a_worker_tells_its_measures_of_every_call(app) -> None:
    with running_worker(app) as worker:
        for number in range(20):
            assert app.tasks["add"].delay(number, 1).get(timeout=60) == number + 1
        with pytest.raises(ZeroDivisionError):
            app.tasks["boom"].delay().get(timeout=60)
        worker.wait_until_idle()
        tallies = worker._worker._vitals._measures.shown(())

    added, failed = tallies["add", "amqptasks"], tallies["boom", "amqptasks"]
    assert (added.received, added.started, added.succeeded, added.states) == (20, 20, 20, {})
    assert sum(added.runtime.counts) == sum(added.wait.counts) == 20
    assert added.runtime.total < 1000, "seconds, and no moment"
    assert failed.exceptions == {"ZeroDivisionError": 1}
    assert sum(failed.runtime.counts) == 0
