"""Limits on a real broker and real processes: rates over time, time limits, memory, and children that do not end.

AMQPTASKS_TEST_FAULTS=full runs the mixed thousand; `-s` shows the figures.
"""

import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks import App
from amqptasks.errors import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLost
from amqptasks.testing import running_worker
from integration.support import WorkerProcess, wait_until
from integration.support.notes import APP, Limits

FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
MIXED = 1_000 if FULL else 168
SECONDS = 30 if FULL else 6

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def limits(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path, worker: Callable[..., WorkerProcess]
) -> Limits:
    return Limits(node, fresh_vhost, tmp_path, worker)


# --- rates -----------------------------------------------------------------------------------------------


def test_two_tasks_at_ten_a_second_each_are_within_five_percent(limits: Limits) -> None:
    """Over a quarter of the time, whichever: what a machine that stands still takes is not the rate. Others of the same
    queue are not held up."""
    count = 10 * SECONDS
    worker = limits.worker("-c", "2", "--prefetch-multiplier", str(count + 10))
    with limits.client() as client:
        client.send_many(
            *(("ten", number) for number in range(count + 1)),
            *(("another_ten", number) for number in range(count + 1)),
            ("free", 0),
        )
        (free,) = wait_until(lambda: limits.notes("S", "free"), 10, worker.log)
        wait_until(
            lambda: len(limits.notes("S", "ten")) + len(limits.notes("S", "another_ten")) == 2 * count + 2,
            SECONDS * 2,
        )
    before = sum(note.at < free.at for note in limits.notes("S", "ten"))
    quarter = count // 4
    for name in ("ten", "another_ten"):
        starts = [note.at for note in limits.notes("S", name)]
        quarters = zip(starts, starts[quarter:], strict=False)
        rates = [quarter / (later - earlier) for earlier, later in quarters]
        closest = min(later - earlier for earlier, later in pairwise(starts))
        took = starts[-1] - starts[0]
        print(
            f"\n{name}: {min(rates):.3f} to {max(rates):.3f}/s, {count / took:.3f}/s over {took:.1f} s, "
            f"closest {closest * 1000:.0f} ms"
        )
        # Wherever it stands still it is slower there, and a little quicker after it: in between lies the rate.
        assert min(rates) < 10.5
        assert max(rates) > 9.5
        assert count / took < 11
    assert before < count, "the other task waited for these"
    assert worker.stop() == 0


def test_a_rate_is_changed_at_run_time(fresh_vhost: str, node: PrivateNode) -> None:
    app = App("proj", broker=node.url(fresh_vhost), worker_prefetch_multiplier=100)
    starts: list[int] = []

    @app.task(name="paced", rate_limit="1/h")
    def paced(number: int) -> None:
        starts.append(number)

    with running_worker(app) as worker:
        for number in range(30):
            paced.delay(number)
        wait_until(lambda: starts, 5)

        worker.rate_limit("paced", "100/s")

        wait_until(lambda: len(starts) == 30, 10, lambda: str(starts))
        worker.wait_until_idle()
    app.close()


def test_what_waits_for_its_rate_goes_back_at_the_end_and_holds_nothing(limits: Limits) -> None:
    worker = limits.worker("-c", "1", "--prefetch-multiplier", "20")
    with limits.client() as client:
        client.send_many(*(("hourly", number) for number in range(10)), ("plain", 1))
        wait_until(lambda: limits.notes("F", "plain"), 10, worker.log)
        assert len(limits.notes("S", "hourly")) == 1

        assert worker.stop() == 0

        second = limits.worker("-c", "1", "--", "worker_disable_rate_limits=true")
        wait_until(lambda: len(limits.notes("S", "hourly")) == 10, 10, second.log)
    assert set(Counter(note.number for note in limits.notes("S", "hourly")).values()) == {1}


# --- time limits -----------------------------------------------------------------------------------------


def test_the_hard_limit_kills_only_its_task(limits: Limits) -> None:
    """Among many short ones, some that are over, and some that end just when they would be killed."""
    worker = limits.worker("-c", "4", "-l", "ERROR")
    calls: list[tuple[object, ...]] = []
    for number in range(MIXED):
        match number % 12:
            case 3:
                calls.append(("over_the_limit", number))
            case 6 | 9:
                calls.append(("close_to_the_limit", number, 0.297 + (number % 7) * 0.001))
            case _:
                calls.append(("plain", number, 0.002))
    with limits.client() as client:
        results = client.send_many(*calls)
        outcomes = [_outcome(result.get(timeout=150, propagate=False)) for result in results]

    by_task: dict[str, Counter[str]] = {}
    for (name, *_), outcome in zip(calls, outcomes, strict=True):
        by_task.setdefault(str(name), Counter())[outcome] += 1
    print("\n" + "\n".join(f"{name}: {dict(counts)}" for name, counts in by_task.items()))
    assert set(by_task["over_the_limit"]) == {"TimeLimitExceeded"}
    assert set(by_task["plain"]) == {"int"}, worker.log()
    assert set(by_task["close_to_the_limit"]) <= {"int", "TimeLimitExceeded"}
    finished = {note.number for note in limits.notes("F", "plain")}
    assert finished == {call[1] for call in calls if call[0] == "plain"}
    starts = Counter(note.number for note in limits.notes("S") if note.name != "plain")
    assert set(starts.values()) == {1}
    assert worker.stop() == 0


def _outcome(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        (
            (),
            [
                ({}, "slept"),
                ({"time_limit": 0.3}, TimeLimitExceeded),
                ({"soft_time_limit": 0.5}, "cleaned up"),
                ({"soft_time_limit": 0.5, "time_limit": 20}, "cleaned up"),
            ],
        ),
        (("--time-limit", "0.3"), [({}, TimeLimitExceeded), ({"time_limit": 20}, "slept")]),
        (("--soft-time-limit", "0.5"), [({}, "cleaned up"), ({"soft_time_limit": 20}, "slept")]),
        (("--time-limit", "20"), [({"time_limit": 0.3}, TimeLimitExceeded)]),
        (("--soft-time-limit", "0.5", "--time-limit", "20"), [({}, "cleaned up")]),
        (("--", "task_time_limit=0.3"), [({}, TimeLimitExceeded), ({"time_limit": 20}, "slept")]),
        (("--", "task_soft_time_limit=0.5"), [({}, "cleaned up")]),
    ],
)
def test_limits_of_the_worker_and_of_the_call(
    limits: Limits, arguments: tuple[str, ...], calls: list[tuple[dict[str, float], object]]
) -> None:
    limits.worker("-c", "2", *arguments)
    with limits.client() as client:
        # Who is to be stopped would sleep on for long: it is its limit that ends it, however late that comes.
        results = [
            client.send("sleeps", 1, 1.0 if want == "slept" else 60.0, **options) for options, want in calls
        ]
        got = [result.get(timeout=40, propagate=False) for result in results]
    assert [type(one) if isinstance(one, Exception) else one for one in got] == [want for _, want in calls]


def test_a_task_that_catches_its_soft_limit_for_ever_meets_the_hard_one(limits: Limits) -> None:
    limits.worker("-c", "1")
    with limits.client() as client:
        result = client.send("ignores_the_soft_limit", 1).get(timeout=40, propagate=False)
        assert isinstance(result, TimeLimitExceeded), result
        assert not isinstance(result, SoftTimeLimitExceeded)
    assert len(limits.notes("soft")) == 1, "the soft limit is said once"


def test_what_follows_from_a_killed_task_is_computed_in_another_child(limits: Limits) -> None:
    """`on_failure` and errbacks never run in the parent, nor in the child that is gone."""
    worker = limits.worker("-c", "2")
    with limits.client() as client:
        for number, task, error in (
            (1, "over_the_limit", TimeLimitExceeded),
            (2, "kills_itself", WorkerLost),
        ):
            errback = client.app.signature(f"{APP}.afterwards")
            # Its limit leaves the time to note that it started.
            result = client.send(task, number, link_error=errback, time_limit=2.0)
            assert isinstance(result.get(timeout=60, propagate=False), error)
    wait_until(lambda: len(limits.notes("S", "afterwards")) == 2, 10, worker.log)
    ran = {note.number: note.pid for note in limits.notes("S") if note.name != "afterwards"}
    handled = {note.number: note.pid for note in limits.notes("on_failure")}
    assert handled.keys() == ran.keys() == {1, 2}
    assert all(handled[number] != ran[number] for number in ran)
    assert worker.pid not in {note.pid for note in limits.notes()}
    assert worker.stop() == 0


def test_the_threads_pool_names_the_tasks_whose_limits_it_cannot_keep(limits: Limits) -> None:
    worker = limits.worker("-c", "2", "-P", "threads")

    (line,) = (line for line in worker.log().splitlines() if "time limits are not kept" in line)

    for name in ("over_the_limit", "close_to_the_limit", "ignores_the_soft_limit"):
        assert f"{APP}.{name}" in line
    assert worker.stop() == 0


# --- stacks ----------------------------------------------------------------------------------------------


def test_usr1_shows_the_stack_of_every_running_task_even_of_one_that_hangs_in_c(
    limits: Limits, tmp_path: Path
) -> None:
    worker, go = limits.worker("-c", "2"), tmp_path / "go"
    with limits.client() as client:
        client.send_many(("hangs_in_c", 1, str(go)), ("waits", 2, str(go)))
        wait_until(lambda: len(limits.notes("S")) == 2, 10, worker.log)

        worker.signal(signal.SIGUSR1)

        wait_until(lambda: "in hangs_in_c" in worker.log() and "in waits" in worker.log(), 10, worker.log)
        shown = re.findall(
            r"^run (\d+), for [\d.]+ s: integration.apps.limit_tasks.(\w+)\[", worker.log(), re.MULTILINE
        )
        assert sorted(name for _, name in shown) == ["hangs_in_c", "waits"]
        for key, name in shown:
            at = worker.log().index(f"runs: {key}\n")
            assert f"in {name}" in worker.log()[at:].split("--- child")[0]
        assert not limits.notes("F"), "they still run"
        go.touch()
        wait_until(lambda: len(limits.notes("F")) == 2, 20, worker.log)
    assert worker.stop() == 0


# --- children --------------------------------------------------------------------------------------------


def test_a_leaking_task_costs_a_child_at_a_time_and_no_run(limits: Limits) -> None:
    worker = limits.worker("-c", "1", "--max-memory-per-child", str(150 * 1024))
    with limits.client() as client:
        pids = [result.get(timeout=30) for result in client.send_many(*(("leaks", n, 40) for n in range(12)))]

    runs = Counter(pids)
    print(f"\nruns a child: {list(runs.values())}")
    assert 3 <= len(runs) <= 12
    assert max(runs.values()) <= 4, "a child above the limit ends after its task"
    assert len(limits.notes("S", "leaks")) == 12
    assert worker.stop() == 0


def test_children_that_cannot_start_end_the_worker_with_their_reason(limits: Limits) -> None:
    env = {"LIMIT_NOTES": str(limits.path), "LIMIT_STILLBORN": "1"}
    worker = limits.worker("-c", "2", env=env, ready=None)

    assert worker.wait() == 70, worker.log()
    assert "children end before they are ready" in worker.log()
    assert "no licence for another process" in worker.log()
    worker.assert_gone()


def test_a_child_ends_after_its_number_of_tasks(limits: Limits) -> None:
    worker = limits.worker("-c", "2", "--max-tasks-per-child", "5")
    with limits.client() as client:
        for result in client.send_many(*(("plain", n) for n in range(40))):
            result.get(timeout=30)

    assert max(Counter(note.pid for note in limits.notes("F", "plain")).values()) <= 5
    assert len(limits.notes("S", "plain")) == 40
    assert worker.stop() == 0
