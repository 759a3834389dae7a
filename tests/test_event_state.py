"""What events add up to: states, their order, and bounds."""

import time
from typing import Any

from amqptasks.event_state import State


def told(state: State, kind: str, uuid: str = "a", at: float = 1.0, **fields: Any) -> None:
    state.event({"type": kind, "uuid": uuid, "timestamp": at, "hostname": "w@h", **fields})


def test_a_task_goes_through_its_states() -> None:
    state = State()

    told(state, "task-received", name="add", args="(1,)", at=1.0)
    told(state, "task-started", at=2.0)
    told(state, "task-succeeded", result="1", runtime=0.5, at=3.0)

    task = state.tasks["a"]
    assert (task.name, task.state, task.result, task.worker) == ("add", "SUCCESS", "1", "w@h")
    assert task.times == {"RECEIVED": 1.0, "STARTED": 2.0, "SUCCESS": 3.0}


def test_what_is_heard_late_undoes_nothing() -> None:
    state = State()

    told(state, "task-started", at=2.0)
    told(state, "task-sent", at=1.0, queue="q")
    told(state, "task-succeeded", at=3.0)
    told(state, "task-received", at=1.5, name="add")

    assert (state.tasks["a"].state, state.tasks["a"].name, state.tasks["a"].queue) == ("SUCCESS", "add", "q")


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


def test_a_worker_is_alive_for_two_heartbeats() -> None:
    state = State()

    state.event({"type": "worker-online", "hostname": "w@h", "freq": 2.0, "active": 1})
    assert [worker.hostname for worker in state.alive_workers()] == ["w@h"]
    state.workers["w@h"].heartbeat = time.time() - 4.1
    assert state.alive_workers() == []

    state.event({"type": "worker-heartbeat", "hostname": "w@h", "freq": 2.0})
    state.event({"type": "worker-offline", "hostname": "w@h"})
    assert state.alive_workers() == []
