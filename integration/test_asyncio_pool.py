"""`-P asyncio -c 500`: coroutines on a real worker and broker. `-s` shows the figures."""

import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amqptasks.errors import SoftTimeLimitExceeded, TimeLimitExceeded
from integration.apps import coroutine_tasks as tasks
from integration.apps.fault_effects import Effects
from integration.support import Proxy, WorkerProcess, wait_until

COROUTINES = 500
TASKS = 1_000
PATIENCE = 60.0
FULL = os.environ.get("AMQPTASKS_TEST_FAULTS") == "full"
KILLS = 10 if FULL else 1
PERSISTENT = 5_000 if FULL else 200
BEATS = 6
"""More than what is still on its way when a worker has just begun."""

pytestmark = pytest.mark.timeout(240)

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(worker: Start, fresh_vhost: str, node, tmp_path: Path) -> Iterator[Start]:
    """Start a worker of the asyncio pool, and be its client."""
    url = node.url(fresh_vhost)

    def start(
        *options: str, pool: str = "asyncio", concurrency: int = COROUTINES, broker_url: str = url
    ) -> WorkerProcess:
        return worker(
            "integration.apps.coroutine_tasks",
            *("-P", pool, "-c", str(concurrency), "-n", "aio@here", *options),
            broker_url=broker_url,
            env={"COROUTINE_EFFECTS": str(tmp_path / "effects")},
            ready=r" ready\.",
        )

    tasks.app.conf.broker_url = url
    yield start
    tasks.app.close()


def test_a_thousand_that_wait_do_so_together(start: Start, tmp_path: Path) -> None:
    """None ends before as many wait as may, and those are all that have begun by then."""
    process = start()
    effects, go = Effects(tmp_path / "effects"), tmp_path / "go"

    with tasks.app.batch():
        results = [tasks.persist.delay(number, 0.1, str(go)) for number in range(TASKS)]
    wait_until(lambda: len(effects.counts("S")) >= COROUTINES, PATIENCE, "as many as may")
    assert effects.counts("S").total() == COROUTINES
    began = time.monotonic()
    go.touch()
    values = [result.get(timeout=PATIENCE) for result in results]
    took = time.monotonic() - began
    process.stop()

    print(f"the second half of {TASKS} tasks of 100 ms, {COROUTINES} at a time: {took:.2f} s")
    assert values == list(range(TASKS))
    assert re.search(rf"concurrency: +{COROUTINES} \(asyncio\)", process.log())


def test_a_task_that_blocks_the_loop_does_not_stop_heartbeats(
    start: Start, proxy: Proxy, fresh_vhost: str, tmp_path: Path
) -> None:
    """How often they come is not looked at: a machine that stands still for seconds may miss some."""
    # Those of events are off: nothing but heartbeats of the connections is sent while the task runs.
    start("--without-heartbeat", "--", "broker_heartbeat=2", broker_url=proxy.url(fresh_vhost))
    begun, go = tmp_path / "begun", tmp_path / "go"

    result = tasks.block.delay(str(begun), str(go))
    wait_until(begun.exists, PATIENCE, "the loop is blocked")
    sent: set[int] = set()

    def looks() -> int:
        sent.add(proxy.passed("c2s"))
        return len(sent)

    wait_until(lambda: looks() > BEATS, PATIENCE, "the worker sends again and again meanwhile", 0.3)
    go.touch()

    assert result.get(timeout=PATIENCE) == "blocked"


def test_context_and_request_are_each_runs_own(start: Start) -> None:
    start()

    results = {f"{task.name}-{n}": task.delay(f"{task.name}-{n}") for task in (tasks.who, tasks.who_in_a_thread)
               for n in range(100)}  # fmt: skip
    seen = {name: tuple(result.get(timeout=PATIENCE)) for name, result in results.items()}

    assert seen == {name: ("nobody", name, result.id) for name, result in results.items()}


def test_a_coroutine_catches_its_soft_limit_and_a_hard_one_ends_it_alone(
    start: Start, tmp_path: Path
) -> None:
    start()
    before = tasks.pid.delay().get(timeout=PATIENCE)
    bystander = tasks.wait.delay(1.5)

    assert tasks.mind.delay().get(timeout=PATIENCE) == "tidied"
    with pytest.raises(TimeLimitExceeded):
        tasks.overrun.delay(str(tmp_path / "finally")).get(timeout=PATIENCE)
    with pytest.raises(SoftTimeLimitExceeded):
        tasks.wait.apply_async((30,), soft_time_limit=0.2).get(timeout=PATIENCE)

    assert (tmp_path / "finally").exists()
    assert bystander.get(timeout=PATIENCE) == 1.5
    assert tasks.pid.delay().get(timeout=PATIENCE) == before


@pytest.mark.parametrize("pool", ["asyncio", "prefork", "threads"])
def test_handlers_retries_and_calls_in_coroutines_on_every_pool(
    start: Start, tmp_path: Path, pool: str
) -> None:
    start(pool=pool, concurrency=2)
    notes = tmp_path / "notes"

    good, bad = tasks.noted.delay(str(notes), False), tasks.noted.delay(str(notes), True)
    good.get(timeout=PATIENCE)
    with pytest.raises(ValueError, match="no"):
        bad.get(timeout=PATIENCE)
    wait_until(lambda: notes.read_text().count("after_return") == 2, PATIENCE)
    another = tasks.app.AsyncResult(tasks.call_another.delay(0.0).get(timeout=PATIENCE))

    words = [line.split() for line in notes.read_text().splitlines()]
    assert [word for word, id in words if id == good.id] == ["before_start", "on_success", "after_return"]
    assert [word for word, id in words if id == bad.id] == ["before_start", "on_failure", "after_return"]
    if pool != "threads":
        # A child of prefork counts the limit from before the coroutine has its loop.
        limit = 3.0 if pool == "prefork" else 0.2
        assert tasks.mind.apply_async(soft_time_limit=limit).get(timeout=PATIENCE) == "tidied"
    assert tasks.third_time.delay().get(timeout=PATIENCE) == 2
    assert another.id != good.id


def test_all_run_again_when_their_child_is_killed(start: Start, tmp_path: Path) -> None:
    process = start()
    effects = Effects(tmp_path / "effects")
    # So many that run in waves end by themselves; the few wait for the kill, however long it takes to see them run.
    go = tmp_path / "go"
    until = "" if FULL else str(go)
    with tasks.app.batch():
        results = [tasks.persist.delay(number, 1.5, until) for number in range(PERSISTENT)]
    killed: list[int] = []

    def busy() -> int:
        """The pid of a child that has not been killed and runs many."""
        running: Counter[int] = Counter()
        for effect in effects.all():
            running[effect.pid] += {"S": 1, "F": -1}[effect.kind]
        return next((pid for pid, number in running.items() if number >= 150 and pid not in killed), 0)

    for _ in range(KILLS):
        pid = wait_until(busy, PATIENCE)
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
    go.touch()
    values = [result.get(timeout=PATIENCE) for result in results]
    process.stop()

    starts = effects.counts("S")
    print(f"{sum(starts.values())} starts of {len(results)} tasks, {KILLS} kills")
    assert values == list(range(PERSISTENT))
    assert max(effects.counts("F").values()) <= 1 + KILLS
    assert max(starts.values()) <= 1 + KILLS
    assert sum(starts.values()) > PERSISTENT


def test_a_warm_shutdown_lets_coroutines_end(start: Start) -> None:
    process = start()
    results = [tasks.persist.delay(number, 1.0) for number in range(20)]
    effects = Effects(Path(process.log_file).parent / "effects")
    wait_until(lambda: len(effects.counts("S")) == 20, PATIENCE)

    assert process.stop() == 0

    assert [result.get(timeout=PATIENCE) for result in results] == list(range(20))


def test_a_cold_shutdown_cancels_them_and_gives_late_ones_back(start: Start, tmp_path: Path) -> None:
    process = start("--", "worker_proc_alive_timeout=60")
    tasks.tidy.delay(str(tmp_path))
    wait_until((tmp_path / "begun").exists, PATIENCE)

    process.signal(signal.SIGTERM)
    process.wait_log("Warm shutdown")
    process.signal(signal.SIGTERM)
    process.wait()
    process.assert_gone()

    assert (tmp_path / "tidied").exists()
    # The broker may see the end of the worker later than we do.
    wait_until(lambda: tasks.app.connection.get("amqptasks"), PATIENCE, "the task is the broker's again")


def test_the_loop_is_uvloops_where_it_is_installed(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvloop")
    start()
    assert tasks.loop.delay().get(timeout=PATIENCE) == "uvloop"

    (tmp_path / "uvloop.py").write_text("raise ImportError('as on a machine without it')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    start("-n", "plain@here", "-Q", "plain")
    assert tasks.loop.apply_async(queue="plain").get(timeout=PATIENCE) == "asyncio"
