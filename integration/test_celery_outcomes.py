"""What becomes of a call across the two packages: failures, retries, revocation, callbacks."""

import uuid
from pathlib import Path
from typing import Any

import celery.exceptions
import pytest
from billiard.exceptions import WorkerLostError

from amqptasks import errors
from integration.apps.interop_steps import CardRefused
from integration.support import wait_until
from integration.support.peers import Peers, Way, peers, way

__all__ = ["peers", "way"]


def kind(way: Way, theirs: type[Exception], ours: type[Exception]) -> type[Exception]:
    """The class that this direction's caller knows."""
    return theirs if way.queue == "ours" else ours


def lines(path: Path, count: int) -> list[str]:
    """The effects, once there are so many."""
    return wait_until(lambda: len(got := read(path)) >= count and got, 20, lambda: f"{count}: {read(path)}")


def read(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# --- failures --------------------------------------------------------------------------------------------


def test_a_builtin_exception_is_raised_again_with_its_traceback(way: Way) -> None:
    result = way.call("divide", 1, 0)

    with pytest.raises(ZeroDivisionError) as caught:
        result.get(timeout=60)

    assert caught.value.args == ("division by zero",)
    assert result.state == "FAILURE"
    assert result.failed()
    assert "in divide" in result.traceback


def test_an_exception_of_the_application_keeps_its_class_and_arguments(way: Way) -> None:
    with pytest.raises(CardRefused) as caught:
        way.call("refuse", "4111", 51).get(timeout=60)

    assert (caught.value.card, caught.value.code) == ("4111", 51)


def test_an_exception_that_the_caller_cannot_import_keeps_its_name_and_arguments(way: Way) -> None:
    with pytest.raises(Exception, match="no reason") as caught:
        way.call("hide", "no reason").get(timeout=60)

    assert type(caught.value).__name__.rpartition(".")[2] == "Hidden"
    assert caught.value.args == ("no reason",)


def test_a_task_that_the_worker_has_not_is_a_failure_of_the_call(way: Way) -> None:
    result = way.app.send_task("interop.nowhere", (1,), queue=way.queue)

    with pytest.raises(kind(way, celery.exceptions.NotRegistered, errors.NotRegistered), match="nowhere"):
        result.get(timeout=60)

    assert result.state == "FAILURE"


def test_a_task_that_kills_its_process_is_lost(way: Way) -> None:
    result = way.call("crash")

    with pytest.raises(kind(way, WorkerLostError, errors.WorkerLost)):
        result.get(timeout=60)

    assert way.call("add", 1, 1).get(timeout=60) == 2


def test_a_call_that_expired_is_revoked(way: Way) -> None:
    result = way.call("add", 2, 2, expires=-5)

    with pytest.raises(kind(way, celery.exceptions.TaskRevokedError, errors.TaskRevoked), match="expired"):
        result.get(timeout=60)

    assert result.state == "REVOKED"


@pytest.mark.parametrize(("limit", "error"), [("soft_time_limit", "Soft"), ("time_limit", "")])
def test_a_time_limit_of_the_call_ends_the_task(way: Way, limit: str, error: str) -> None:
    with pytest.raises(Exception) as caught:
        way.call("sleep", 30, **{limit: 1}).get(timeout=60)

    assert type(caught.value).__name__ == f"{error}TimeLimitExceeded"


# --- retries ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("countdown", [0, 1])
def test_a_task_is_retried_until_it_succeeds(way: Way, countdown: float) -> None:
    result = way.call("flaky", 2, countdown)

    assert result.get(timeout=60) == 2


def test_retries_end_with_the_exception_that_caused_them(way: Way) -> None:
    result = way.call("flaky", 99)

    with pytest.raises(CardRefused) as caught:
        result.get(timeout=60)

    assert (caught.value.card, caught.value.code) == ("busy", 5)  # max_retries


def test_celery_sees_the_state_retry_and_its_exception(peers: Peers, tmp_path: Path) -> None:
    gate, seen = tmp_path / "gate", []

    def arrived(body: dict[str, Any]) -> None:
        if body["status"] == "RETRY":
            seen.append(peers.theirs.backend.exception_to_python(body["result"]))
            gate.touch()

    value = peers.theirs.send_task("interop.busy", [str(gate)], queue="ours").get(
        timeout=60, on_message=arrived
    )

    assert value == "free"
    assert isinstance(seen[0], CardRefused)
    assert (seen[0].card, seen[0].code) == ("busy", 5)


def test_we_see_the_state_retry_of_a_celery_worker_and_its_exception(peers: Peers, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    result = peers.ours.send_task("interop.busy", [str(gate)], queue="theirs")
    wait_until(lambda: result.state == "RETRY", 15, lambda: f"RETRY, not {result.state}")
    seen = result.result
    gate.touch()

    assert isinstance(seen, CardRefused)
    assert (seen.card, seen.code) == ("busy", 5)
    assert result.get(timeout=60) == "free"


# --- callbacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["ours", "theirs"])
def test_a_callback_gets_the_value_on_either_worker(way: Way, queue: str, effects: Path) -> None:
    callback = way.signature("note", path=str(effects)).set(queue=queue)

    way.call("add", 20, 22, link=callback)

    assert lines(effects, 1) == ["42"]


def test_every_callback_is_called_once(way: Way, effects: Path) -> None:
    callbacks = [way.signature("note", path=str(effects)) for _ in range(3)]

    way.call("add", 1, 1, link=callbacks)

    assert lines(effects, 3) == ["2", "2", "2"]


@pytest.mark.parametrize("queue", ["ours", "theirs"])
def test_an_errback_is_called_with_the_id_of_the_failed_task(way: Way, queue: str, effects: Path) -> None:
    errback = way.signature("failed", path=str(effects)).set(queue=queue)

    result = way.call("divide", 1, 0, link_error=errback)

    worker = "amqptasks" if queue == "ours" else "celery"
    assert lines(effects, 1) == [f"{worker} {result.id}"]


def test_an_errback_that_takes_the_request_runs_where_the_task_failed(way: Way, effects: Path) -> None:
    errback = way.signature("blamed", path=str(effects))

    result = way.call("refuse", "4111", 51, link_error=errback)

    assert lines(effects, 1) == [f"{way.worker} {result.id} CardRefused('4111', 51)"]


def test_callbacks_come_once_though_the_task_was_retried(way: Way, effects: Path) -> None:
    result = way.call("flaky", 2, link=way.signature("note", path=str(effects)))

    assert result.get(timeout=60) == 2
    assert lines(effects, 1) == ["2"]


# --- chains ----------------------------------------------------------------------------------------------


def chained(way: Way, queues: str) -> Any:
    """A chain of `interop.step`, each on the queue of its letter: o(urs), t(heirs)."""
    names = {"o": "ours", "t": "theirs"}
    first, *rest = [
        way.signature("step", mark=f"{number}-").set(queue=names[letter])
        for number, letter in enumerate(queues)
    ]
    linked = first.clone(args=([],))
    for step in rest:
        linked = linked | step
    return linked


@pytest.mark.parametrize("queues", ["oo", "tt", "oto", "tot", "oottoott"])
def test_a_chain_runs_over_both_kinds_of_worker(way: Way, queues: str) -> None:
    result = chained(way, queues).apply_async()

    sides = {"o": "amqptasks", "t": "celery"}
    assert result.get(timeout=60) == [f"{number}-{sides[letter]}" for number, letter in enumerate(queues)]


def test_the_steps_of_a_chain_have_results_of_their_own(way: Way) -> None:
    result = chained(way, "oto").apply_async()

    result.get(timeout=60)

    assert result.parent.get(timeout=60) == ["0-amqptasks", "1-celery"]
    assert result.parent.parent.get(timeout=60) == ["0-amqptasks"]


@pytest.mark.parametrize("queue", ["ours", "theirs"])
def test_a_chain_ends_where_a_step_fails_and_its_errback_is_called(
    way: Way, queue: str, effects: Path
) -> None:
    errback = way.signature("failed", path=str(effects)).set(queue="ours")
    linked = (
        way.signature("add", 1, -1)
        | way.signature("divide", 1, 0).set(queue=queue, immutable=True)
        | way.signature("note", path=str(effects))
    )

    result = linked.apply_async(link_error=errback)

    with pytest.raises(ZeroDivisionError):
        result.get(timeout=60)
    assert [line.split()[0] for line in lines(effects, 1)] == ["amqptasks"]


def test_a_chain_has_one_root_and_each_step_its_parent(peers: Peers, way: Way) -> None:
    steps = [way.signature("told").set(queue=queue, immutable=True) for queue in ("ours", "theirs", "ours")]
    root = str(uuid.uuid4())
    linked = steps[0].set(task_id=root) | steps[1] | steps[2]

    last = linked.apply_async()
    told = last.get(timeout=60)

    assert told["root"] == root
    assert told["parent"] == last.parent.id
