"""Workers whose results go to a store: nothing is lost when the server crashes, and nothing is a silent success."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amqptasks import App, GroupResult, chain, chord, states
from amqptasks.errors import ChordError
from integration.apps import store_tasks
from integration.support import WorkerProcess
from integration.support.stores import KINDS, Store, store_of
from integration.support.waiting import wait_until

APP = "integration.apps.store_tasks"
Start = Callable[..., WorkerProcess]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def server(request: pytest.FixtureRequest) -> Iterator[Store]:
    yield from store_of(request.param)


@pytest.fixture
def store(server: Store) -> Store:
    server.start()  # a test before may have left it dead
    return server


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def app(fresh_vhost: str, node: object, store: Store) -> Iterator[App]:
    app = store_tasks.app
    app.close()
    app.conf.update(
        broker_url=node.url(fresh_vhost),  # type: ignore[attr-defined]
        result_backend=store.url,
        result_polling_interval=0.1,
        result_store_timeout=30,
    )
    yield app
    app.close()


@pytest.fixture
def start(worker: Start, app: App, store: Store, runs: Path) -> Start:
    def start(*options: str) -> WorkerProcess:
        # The store is given up soon, so that the worker's policy decides.
        env = {
            "AMQPTASKS_RESULT_BACKEND": store.url,
            "AMQPTASKS_RESULT_STORE_TIMEOUT": "0.3",
            "RUNS": str(runs),
        }
        return worker(APP, *(options or ("-c", "2")), broker_url=app.conf.broker_url, env=env)

    return start


def ran(runs: Path) -> Counter[int]:
    return Counter(map(int, runs.read_text().split())) if runs.exists() else Counter()


def test_late_acknowledged_results_wait_for_a_crashed_store(
    app: App, store: Store, start: Start, runs: Path, tmp_path: Path
) -> None:
    """Half of the tasks end when the store is gone, however quickly they would."""
    running, gate = start(), tmp_path / "gate"
    gates = ["" if number < 50 else str(gate) for number in range(100)]
    results = [store_tasks.late.delay(number, gates[number]) for number in range(100)]
    arriving = GroupResult("g", results, app=app).iter_native(timeout=90)
    ended = dict([next(arriving)])
    store.kill()
    gate.touch()
    running.wait_log("waits, its message unacknowledged: the result store")
    store.start()

    ended.update(arriving)

    assert sorted(body["result"] for body in ended.values()) == list(range(100))
    # The outcomes waited: no task was run again for them.
    assert ran(runs) == Counter(range(100))


def test_a_worker_killed_while_a_result_waits_leaves_the_task_to_another(
    app: App, store: Store, start: Start, runs: Path
) -> None:
    first = start("-c", "1")
    store_tasks.late.delay(1).get(timeout=60)
    first.wait_log("succeeded")  # the worker knows that it is written, too
    store.kill()
    result = store_tasks.late.delay(2)
    first.wait_log("waits, its message unacknowledged")
    os.killpg(first.pid, 9)
    store.start()
    start("-c", "1")

    assert result.get(timeout=60) == 2
    assert ran(runs) == Counter({1: 1, 2: 2})


def test_the_result_of_an_early_acknowledged_task_is_logged_as_lost(
    app: App, store: Store, start: Start, runs: Path
) -> None:
    running = start("-c", "1")
    store_tasks.early.delay(1).get(timeout=60)
    store.kill()
    lost = store_tasks.early.delay(2)
    running.wait_log(rf"the state SUCCESS of task \[{lost.id}\] is LOST: the result store")
    store.start()

    # The worker goes on, and nobody is told a success that is not recorded.
    assert store_tasks.early.delay(3).get(timeout=60) == 3
    assert lost.state == states.PENDING


def test_a_coroutine_s_result_waits_without_holding_up_the_others(
    app: App, store: Store, start: Start, runs: Path
) -> None:
    running = start("-P", "asyncio", "-c", "8")
    store_tasks.coroutine.delay(1).get(timeout=60)
    store.kill()
    results = [store_tasks.coroutine.delay(number) for number in range(2, 7)]
    running.wait_log("waits, its message unacknowledged")
    wait_until(lambda: set(ran(runs)) == set(range(1, 7)), 20)
    store.start()

    assert [result.get(timeout=60) for result in results] == list(range(2, 7))


def test_what_a_task_called_is_found_by_any_process(app: App, store: Store, start: Start) -> None:
    start()
    root = store_tasks.calling.delay(10)

    found = list(root.collect(timeout=60))

    assert sorted(value for _, value in found) == [10, 11, 12]
    assert sorted(app.AsyncResult(result.id).get(timeout=60) for result, _ in found) == [10, 11, 12]
    assert root.graph[root] == root.children
    assert root.get_leaf() in (11, 12)


def test_a_group_is_restored_in_another_process(app: App, store: Store, start: Start) -> None:
    start()
    group = GroupResult("saved", [store_tasks.late.delay(number) for number in range(5)], app=app)
    group.save()
    app.close()

    restored = GroupResult.restore("saved", app=app)

    assert restored is not None
    assert restored.get(timeout=60) == list(range(5))
    assert (restored.ready(), restored.completed_count()) == (True, 5)
    restored.forget()
    restored.delete()
    assert GroupResult.restore("saved", app=app) is None
    assert app.AsyncResult(group[0].id).state == states.PENDING


def test_progress_is_seen_by_who_asks(app: App, store: Store, start: Start) -> None:
    seen: list[str] = []
    result = store_tasks.progress.delay()
    start("-c", "1")

    value = result.get(timeout=60, on_message=lambda state: seen.append(state["status"]))

    assert value == "done"
    # A database is looked at now and then, and may have passed over it.
    assert seen in (["PROGRESS", "SUCCESS"], ["SUCCESS"])


def test_workflows_leave_their_results_in_the_store(app: App, store: Store, start: Start) -> None:
    start()
    steps = chain(store_tasks.late.s(1), store_tasks.late.s(), store_tasks.early.s())
    header = [store_tasks.late.s(number) for number in range(10)]

    whole = chord(header, store_tasks.total.s()).apply_async()
    broken = chord([*header, store_tasks.fails.s(7)], store_tasks.total.s()).apply_async()
    last = steps.apply_async()

    assert whole.get(timeout=60) == 45
    assert whole.parent.get(timeout=60) == list(range(10))
    with pytest.raises(ChordError, match="7"):
        broken.get(timeout=60)
    assert last.get(timeout=60) == 1
    assert app.AsyncResult(last.parent.id).get(timeout=60) == 1
