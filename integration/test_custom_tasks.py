"""Classes of one's own in a real worker: what they see and where, what they keep, and tasks that can be aborted."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amqptasks import AsyncResult
from amqptasks.contrib.abortable import ABORTED, PREFIX, AbortableAsyncResult
from amqptasks.errors import NotFound, TimeLimitExceeded
from integration.apps import custom_tasks as tasks
from integration.support import WorkerProcess, wait_until

APP = "integration.apps.custom_tasks"
Notes = Callable[[], list[list[str]]]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    def read() -> list[list[str]]:
        path = tmp_path / "notes"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    return read


@pytest.fixture
def start(
    worker: Callable[..., WorkerProcess], broker_url: str, tmp_path: Path
) -> Iterator[Callable[..., WorkerProcess]]:
    tasks.app.conf.broker_url = broker_url

    def run(*options: str, **env: str) -> WorkerProcess:
        return worker(APP, *options, broker_url=broker_url, env={"NOTES": str(tmp_path / "notes"), **env})

    yield run
    tasks.app.close()


def test_a_request_class_sees_each_call_in_the_children_never_in_the_parent(
    start: Callable[..., WorkerProcess], notes: Notes
) -> None:
    ours = start("-c", "1")
    good, bad = tasks.watched.delay("good"), tasks.watched.delay("fail")
    slow = tasks.watched.apply_async(("sleep",), time_limit=3)

    assert good.get(timeout=20) == "good"
    with pytest.raises(ValueError, match="fail"):
        bad.get(timeout=20)
    with pytest.raises(TimeLimitExceeded):
        slow.get(timeout=20)

    def told() -> list[list[str]]:
        return [words for words in notes() if words[1] != "made"]

    def of(call: AsyncResult[str]) -> list[list[str]]:
        return sorted(words[1:2] + words[3:] for words in told() if words[2] == call.id)

    wait_until(lambda: len(told()) == 10, 20, lambda: str(notes()))
    assert of(good) == [["accepted"], ["received"], ["success"]]
    assert of(bad) == [["accepted"], ["failure", "ValueError"], ["received"]]
    assert of(slow) == [
        ["accepted"],
        ["failure", "TimeLimitExceeded"],
        ["received"],
        ["timeout", "False", "3.0"],
    ]
    by = {words[1]: {each[0] for each in told() if each[1] == words[1]} for words in told()}
    assert str(ours.pid) not in set().union(*by.values())
    assert by["accepted"].isdisjoint(by["received"])
    assert by["success"] <= by["accepted"]


def test_an_expensive_attribute_is_made_once_a_child(
    start: Callable[..., WorkerProcess], notes: Notes
) -> None:
    start("-c", "2")
    answers = [call.get(timeout=20) for call in [tasks.rows.delay(0.05) for _ in range(20)]]

    pids = {pid for pid, _ in answers}
    assert {db for _, db in answers} == {f"connection of {pid}" for pid in pids}
    made = [words for words in notes() if words[1:] == ["made"]]
    connected = [words for words in notes() if words[1:] == ["connected"]]
    assert len(made) == 1
    assert sorted(int(words[0]) for words in connected) == sorted(pids)


def test_the_app_s_class_given_by_its_name_is_that_of_its_tasks(start: Callable[..., WorkerProcess]) -> None:
    start("-c", "1")

    assert tasks.marked.delay().get(timeout=20) == "plain"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_abort_reaches_a_task_that_runs(start: Callable[..., WorkerProcess], pool: str) -> None:
    start("-c", "1", "-P", pool)
    call = tasks.loop.delay(60)
    assert isinstance(call, AbortableAsyncResult)
    assert not call.is_aborted()

    call.abort()

    assert call.get(timeout=20) == "aborted"
    assert call.state == "SUCCESS"


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_runs_of_one_process_see_each_its_own_request(
    start: Callable[..., WorkerProcess], notes: Notes, pool: str
) -> None:
    start("-c", "8", "-P", pool)
    calls = [(call, tasks.app.conf.task_default_queue) for call in [tasks.who.delay() for _ in range(40)]]
    slow = [tasks.slow_who.delay() for _ in range(40)]

    for call, queue in calls:
        assert call.get(timeout=20) == [call.id, call.id, queue]
    for call in slow:
        assert call.get(timeout=20) == [call.id] * 3
    for hook in ("received", "accepted", "success"):
        wait_until(
            lambda hook=hook: (
                {words[2] for words in notes() if words[1] == hook} == {call.id for call in slow}
            ),
            20,
            lambda hook=hook: f"{hook} of each: {notes()}",
        )


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_a_coroutine_can_be_aborted(start: Callable[..., WorkerProcess], pool: str) -> None:
    start("-c", "2", "-P", pool)
    call = tasks.slow_loop.delay()
    call.abort()

    assert call.get(timeout=20) == "aborted"


def test_an_abort_may_come_first_twice_and_from_elsewhere(start: Callable[..., WorkerProcess]) -> None:
    call = tasks.loop.delay(60)
    elsewhere = AbortableAsyncResult(call.id, app=tasks.app)
    elsewhere.abort()
    elsewhere.abort(expires=60)
    assert call.state == ABORTED
    start("-c", "1")

    assert call.get(timeout=20) == "aborted"
    assert tasks.loop.delay(0.3).get(timeout=20) == "ran out"


def test_the_broker_forgets_an_abort_after_a_while(broker_url: str) -> None:
    tasks.app.conf.broker_url = broker_url
    call, other = (AbortableAsyncResult[str](name, app=tasks.app) for name in ("a-call", "another"))
    call.abort(expires=2)
    other.abort(expires=600)

    def gone() -> bool:
        time.sleep(2.5)  # each look renews the lease: look seldom
        try:
            tasks.app.connection.inspect(PREFIX + call.id)
        except NotFound:
            return True
        return False

    assert wait_until(gone, 20, "the queue to expire")
    assert other.is_aborted()
    tasks.app.close()


def test_what_a_task_writes_and_prints_carries_its_name_and_id(start: Callable[..., WorkerProcess]) -> None:
    ours = start("-c", "1", "-l", "INFO")
    call = tasks.talk.delay()
    call.get(timeout=20)
    name = tasks.talk.name

    ours.wait_log(rf"WARNING/PoolWorker-\d+\] {name}\[{call.id}\]: by the logger")
    ours.wait_log(r"WARNING/PoolWorker-\d+\] .*by print")
    ours.wait_log(r"WARNING/PoolWorker-\d+\] .*to stderr")
    ours.wait_log(r"WARNING/PoolWorker-\d+\] by another logger")


def test_prints_are_left_alone_if_so_told_and_have_the_level_that_is_set(
    start: Callable[..., WorkerProcess],
) -> None:
    for setting, pattern in (
        ({"AMQPTASKS_WORKER_REDIRECT_STDOUTS": "0"}, r"(?m)^by print$"),
        ({"AMQPTASKS_WORKER_REDIRECT_STDOUTS_LEVEL": "ERROR"}, r"ERROR/PoolWorker-\d+\] .*by print"),
    ):
        ours = start("-c", "1", **setting)
        tasks.talk.delay().get(timeout=20)
        ours.wait_log(pattern)
        ours.end()
