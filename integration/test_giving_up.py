"""What can never be done is told on the real broker: a join that kills its process, a task that outlives its workers."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks import chord
from amqptasks.errors import ChordError, NotFound, WorkerLost
from integration.apps.doomed_tasks import app, fails, note, runs_on, total
from integration.apps.fault_effects import Effects
from integration.support import WorkerProcess, wait_until
from integration.support.calls import call, count, send
from integration.support.clients import holds_nothing

pytestmark = pytest.mark.timeout(300)

INTERNAL = "amqptasks.internal"
Start = Callable[..., WorkerProcess]


@pytest.fixture
def url(node: PrivateNode, fresh_vhost: str) -> Iterator[str]:
    before = app.conf.broker_url
    app.conf.broker_url = node.url(fresh_vhost)
    with app:
        yield app.conf.broker_url
    app.conf.broker_url = before


@pytest.fixture
def start(url: str, worker: Start, tmp_path: Path) -> Start:
    def starting(*settings: str) -> WorkerProcess:
        return worker(
            "integration.apps.doomed_tasks",
            *("-c", "2", "-n", "w1@here", "--", *settings),
            broker_url=url,
            env={"FAULT_EFFECTS": str(tmp_path / "effects")},
            ready=r" ready\.",
        )

    return starting


def gone(queue: str) -> bool:
    try:
        app.connection.inspect(queue)
    except NotFound:
        return True
    return False


def test_a_chord_whose_join_kills_its_process_fails_and_its_errbacks_run(
    url: str, start: Start, tmp_path: Path
) -> None:
    """A part that nobody survives reading, and an errback that nobody survives running."""
    seen = Effects(tmp_path / "effects")
    process = start()

    def called(number: int, *, deadly: bool) -> object:
        errback = note.s(number=number, kills=not deadly)
        # One member, so one count: each of several that see all parts would try to join, and die.
        return chord([fails.s(deadly)], total.s().set(link_error=errback)).apply_async()

    results = [called(1, deadly=True), called(2, deadly=False)]

    for result, name in zip(results, ("the join", "ValueError|the join"), strict=True):
        with pytest.raises(ChordError, match=name):
            result.get(timeout=60)
        wait_until(lambda result=result: gone(f"amqptasks.chord.{result.parent.id}"), 20, process.log)
    wait_until(lambda: count(url, f"{INTERNAL}.dead") == 3, 10, process.log)
    process.wait_log(r"errback .*note of .* is left out")
    wait_until(lambda: holds_nothing(url, "w1@here"), 10, process.log)
    assert count(url, INTERNAL) == 0
    assert seen.counts("F") == {1: 1}, "an errback that does not kill runs, once"
    assert seen.counts("S")[2] == 10, "one that kills is tried by the join and by who tells, five times each"
    assert len(re.findall(r"errback .*note of .* is left out", process.log())) == 1


def test_a_task_is_told_dead_before_the_broker_buries_it_in_silence(
    url: str, start: Start, tmp_path: Path
) -> None:
    """Its whole worker dies each time, so no child of it can say so; the last worker does not run it again."""
    seen = Effects(tmp_path / "effects")
    setting = "task_queue_delivery_limit=1"
    process = start(setting)
    result = runs_on.delay(1)
    wait_until(lambda: seen.counts("S")[1] == 1, 20, process.log)
    process.kill()

    process = start(setting)

    with pytest.raises(WorkerLost, match="x-delivery-limit 1"):
        result.get(timeout=60)
    wait_until(lambda: count(url, "amqptasks.dead") == 1, 10, process.log)
    assert seen.counts("S") == {1: 1}


def test_a_chord_whose_member_is_ended_from_outside_fails(url: str, start: Start, tmp_path: Path) -> None:
    """Terminated as it runs, revoked before, or expired. In Celery such a chord waits for ever."""
    seen = Effects(tmp_path / "effects")
    late = total.s([1]).set(expires=0.01)
    expired = chord([total.s([1]), late], total.s()).apply_async()
    process = start()
    terminated = chord([total.s([1]), runs_on.s(1)], total.s()).apply_async()
    told = app.control.revoke("revoked-before", reply=True, timeout=60.0, destination=["w1@here"])
    assert told, process.log()
    revoked = chord([total.s([1]), runs_on.s(2).set(task_id="revoked-before")], total.s()).apply_async()
    assert revoked.parent[1].id == "revoked-before"
    wait_until(lambda: seen.counts("S")[1] == 1, 20, process.log)

    terminated.parent[1].revoke(terminate=True, signal="SIGKILL")

    for result, word in ((terminated, "terminated"), (revoked, "revoked"), (expired, "expired")):
        with pytest.raises(ChordError, match=rf"Dependency {result.parent[1].id} raised .*{word}"):
            result.get(timeout=60)
        wait_until(lambda result=result: gone(f"amqptasks.chord.{result.parent.id}"), 20, process.log)
    assert seen.counts("S") == {1: 1}


def test_results_for_a_caller_who_is_gone_are_counted_and_said_once_each(url: str, start: Start) -> None:
    process = start()
    name = total.name
    send(url, [call(name, [number], reply_to="nobody.is.here") for number in range(20)])

    assert total.delay([1, 2]).get(timeout=60) == 3
    wait_until(lambda: process.log().count("dropped a result for nobody.is.here") == 20, 20, process.log)
    [stats] = app.control.inspect(timeout=20, limit=1).stats().values()
    assert stats["counters"]["undeliverable"] == 20
    assert "late_result" not in process.log()
