"""What the parent knows once the app was loaded anew: what the files changed, and what `control` had changed before."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from amqptasks.worker.outcome import Manifest, TaskOptions
from amqptasks.worker.reloading import know


class Rates:
    def __init__(self) -> None:
        self.changed: dict[str, float] = {}

    def change(self, name: str, rate: float) -> None:
        self.changed[name] = rate


def manifest(*tasks: TaskOptions, hooks: frozenset[str] = frozenset()) -> Manifest:
    return Manifest("app", {}, (), {task.name: task for task in tasks}, hooks=hooks)


def station(*tasks: TaskOptions) -> Any:
    known = manifest(*tasks)
    dispatch = SimpleNamespace(tasks=known.tasks, rates=Rates(), received_hook=False)
    return SimpleNamespace(manifest=known, dispatch=dispatch)


A, B = TaskOptions("a", time_limit=5.0), TaskOptions("b", rate_limit=2.0)


def test_new_changed_and_vanished_tasks_are_known() -> None:
    at = station(A, B)
    fresh = manifest(
        replace(A, time_limit=7.0), TaskOptions("c", rate_limit=9.0), hooks=frozenset({"task_received"})
    )

    know(at, fresh)

    assert at.manifest is fresh
    assert at.dispatch.tasks == fresh.tasks
    assert at.dispatch.rates.changed == {"c": 9.0}
    assert at.dispatch.received_hook


def test_what_control_changed_of_a_task_stays_unless_its_declaration_changed_too() -> None:
    at = station(A, B)
    at.dispatch.tasks = {"a": replace(A, time_limit=1.0), "b": replace(B, time_limit=1.0)}

    know(at, manifest(A, replace(B, acks_late=True)))

    assert at.dispatch.tasks == {"a": replace(A, time_limit=1.0), "b": replace(B, acks_late=True)}
    assert at.dispatch.rates.changed == {}
