"""What events add up to: states, their order, and bounds."""

import time
from typing import Any

import pytest

from amqptasks.event_state import State, Task, Worker
from amqptasks.snapshots import Polaroid


def told(state: State, kind: str, uuid: str = "a", at: float = 1.0, **fields: Any) -> None:
    state.event({"type": kind, "uuid": uuid, "timestamp": at, "hostname": "w@h", **fields})


def test_a_task_goes_through_its_states() -> None:
    state = State()

    told(state, "task-received", name="add", args="(1,)", at=1.0)
    told(state, "task-started", at=2.0)
    told(state, "task-succeeded", result="1", runtime=0.5, at=3.0)

    task = state.tasks["a"]
    assert (task.name, task.state, task.result, task.ready) == ("add", "SUCCESS", "1", True)
    assert (task.received, task.started, task.succeeded, task.failed) == (1.0, 2.0, 3.0, None)
    assert task.worker is state.workers["w@h"]


def test_what_is_heard_late_undoes_nothing() -> None:
    state = State()

    told(state, "task-started", at=2.0)
    told(state, "task-sent", at=1.0, queue="q")
    told(state, "task-succeeded", at=3.0)
    told(state, "task-received", at=1.5, name="add")

    assert (state.tasks["a"].state, state.tasks["a"].name, state.tasks["a"].queue) == ("SUCCESS", "add", "q")


def test_that_a_call_was_sent_may_be_told_when_it_has_ended() -> None:
    state = State()

    told(state, "task-failed", at=1.0)
    told(state, "task-sent", at=1.1, queue="q")

    assert (state.tasks["a"].state, state.tasks["a"].queue) == ("FAILURE", "q")


def test_a_retry_is_received_again() -> None:
    state = State()

    told(state, "task-retried", at=1.0)
    told(state, "task-received", at=2.0)

    assert state.tasks["a"].state == "RECEIVED"


def test_memory_is_bounded() -> None:
    state = State(max_workers_in_memory=2, max_tasks_in_memory=3)

    for number in range(10):
        told(state, "task-received", uuid=str(number))
        state.event({"type": "worker-heartbeat", "hostname": f"w{number}@h"})

    assert list(state.tasks) == ["7", "8", "9"]
    assert list(state.workers) == ["w8@h", "w9@h"]
    assert (state.task_count, state.event_count) == (10, 20)


def test_a_worker_is_alive_for_two_heartbeats() -> None:
    state = State()

    state.event({"type": "worker-online", "hostname": "w@h", "freq": 200.0, "active": 1})
    assert [worker.hostname for worker in state.alive_workers()] == ["w@h"]
    state.workers["w@h"].heartbeats = [time.time() - 401]
    assert state.alive_workers() == []

    state.event({"type": "worker-heartbeat", "hostname": "w@h", "freq": 200.0})
    state.event({"type": "worker-offline", "hostname": "w@h"})
    assert state.alive_workers() == []


def test_tasks_are_listed_by_time_by_name_and_by_worker() -> None:
    state = State()
    for number, (name, host) in enumerate([("add", "one@h"), ("mul", "two@h"), ("add", "two@h")]):
        told(state, "task-received", uuid=str(number), at=float(number), name=name, hostname=host)

    def ids(tasks: Any) -> list[str]:
        return [uuid for uuid, _ in tasks]

    assert ids(state.tasks_by_time()) == ids(state.tasks_by_timestamp()) == ["2", "1", "0"]
    assert ids(state.tasks_by_time(limit=1)) == ["2"]
    assert ids(state.tasks_by_time(reverse=False)) == ids(state.itertasks()) == ["0", "1", "2"]
    assert ids(state.tasks_by_type("add")) == ["2", "0"]
    assert ids(state.tasks_by_worker("two@h", limit=1)) == ["2"]
    assert state.task_types() == ["add", "mul"]


def test_to_clear_forgets_what_has_ended_and_with_ready_off_everything() -> None:
    """As Celery's does."""
    state = State()
    told(state, "task-succeeded", uuid="over")
    told(state, "task-started", uuid="on")

    state.clear_tasks()
    assert list(state.tasks) == ["on"]
    assert state.event_count == 2

    state.clear(ready=False)
    assert (state.tasks, state.workers, state.event_count, state.task_count) == ({}, {}, 0, 0)


def test_parents_children_and_roots_are_found() -> None:
    state = State()
    told(state, "task-received", uuid="root", root_id="root")
    told(state, "task-received", uuid="child", root_id="root", parent_id="root")

    child = state.tasks["child"]
    assert (child.parent, child.root) == (state.tasks["root"], state.tasks["root"])
    assert state.tasks["root"].children == [child]
    assert child.as_dict()["root"] == "root"
    assert state.tasks["root"].as_dict()["children"] == ["child"]


def test_a_picture_is_taken_while_nothing_is_taken_in() -> None:
    state = State()
    told(state, "task-succeeded")
    seen = []

    answer = state.freeze_while(lambda more: seen.append(len(state.tasks)) or more, "done", clear_after=True)

    assert (answer, seen, state.tasks) == ("done", [1], {})


def test_who_is_told_of_events_and_of_nodes() -> None:
    calls: list[Any] = []
    state = State(
        lambda _, event: calls.append(event["type"]),
        on_node_join=lambda worker: calls.append(("join", worker.hostname)),
        on_node_leave=lambda worker: calls.append(("leave", worker.hostname)),
    )
    state.handlers["order"] = lambda subject, event: calls.append((subject, event["number"]))

    state.event({"type": "worker-heartbeat", "hostname": "w@h"})
    state.event({"type": "worker-heartbeat", "hostname": "w@h"})
    state.event({"type": "worker-offline", "hostname": "w@h"})
    state.event({"type": "order-shipped", "number": 7})

    assert calls == [
        "worker-heartbeat", ("join", "w@h"), "worker-heartbeat", "worker-offline", ("leave", "w@h"),
        "order-shipped", ("shipped", 7),
    ]  # fmt: skip
    assert state.workers == {}


CELERY_ONLY = {
    "State": {"Worker", "Task", "heap_multiplier", "rebuild_taskheap", "task_event", "worker_event"},
    "Worker": {"event", "update", "expire_window", "heartbeat_max"},
    "Task": {"cluster_state", "event", "merge_rules"},
}
"""How Celery's does its work, and what it calls deprecated."""


@pytest.mark.parametrize(
    ("ours", "name"), [(State(), "State"), (Worker("w@h"), "Worker"), (Task("a"), "Task")]
)
def test_they_have_the_names_of_celerys(ours: Any, name: str) -> None:
    from celery.events import state as celerys

    theirs = {
        "State": celerys.State,
        "Worker": lambda: celerys.Worker("w@h"),
        "Task": lambda: celerys.Task("a"),
    }
    names = {each for each in dir(theirs[name]()) if not each.startswith("_")}

    assert names - {each for each in dir(ours) if not each.startswith("_")} == CELERY_ONLY[name]


def test_the_receiver_and_the_camera_have_the_names_of_celerys() -> None:
    from celery.events.receiver import EventReceiver
    from celery.events.snapshot import Polaroid as Theirs

    from amqptasks.events import Receiver

    def names(of: type) -> set[str]:
        return {each for each in dir(of) if not each.startswith("_")}

    inherited = {name for name in names(EventReceiver) if name not in vars(EventReceiver)}
    wire = {"get_consumers", "on_consume_ready", "event_from_message", "connection", "app"}
    assert names(EventReceiver) - inherited - wire <= names(Receiver)
    timers = {
        "timer",
        "shutter_signal",
        "cleanup_signal",
        "install",
        "cancel",
        "cleanup",
        "shutter",
        "capture",
    }
    assert names(Theirs) - timers <= names(Polaroid)
