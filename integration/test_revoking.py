"""Revoked before it starts, on the ladder, in a worker's hands, while it runs, with all workers down: it never runs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App
from integration.apps import control_tasks
from integration.support import WorkerProcess, wait_until

APP = "integration.apps.control_tasks"
NODE = "w1@here"
Start = Callable[..., WorkerProcess]


@pytest.fixture
def url(node: Any, fresh_vhost: str) -> str:
    return str(node.url(fresh_vhost))


@pytest.fixture
def app(url: str) -> Iterator[App]:
    app = control_tasks.app
    app.conf.update(broker_url=url)
    yield app
    app.close()


@pytest.fixture
def effects(tmp_path: Path) -> Path:
    return tmp_path / "effects"


def lines(effects: Path) -> list[str]:
    return effects.read_text().split() if effects.exists() else []


def state_of(app: App, task_id: str) -> str:
    known = app.control.inspect([NODE], timeout=5.0).query_task(task_id) or {}
    found = known.get(NODE, {}).get(task_id)
    return str(found[0]) if found else ""


def test_what_was_revoked_with_all_workers_down_never_runs(
    app: App, url: str, worker: Start, effects: Path
) -> None:
    before = control_tasks.note.delay(str(effects), "before")
    app.control.revoke([before.id])
    after = control_tasks.note.delay(str(effects), "after")

    worker(APP, "-c", "1", "-n", NODE, broker_url=url)

    wait_until(after.ready, 20)
    wait_until(before.ready, 20)
    assert before.state == "REVOKED"
    assert lines(effects) == ["after"]


def test_what_waits_on_the_ladder_is_revoked_when_it_is_due_also_after_a_restart(
    app: App, url: str, worker: Start, effects: Path
) -> None:
    first = worker(APP, "-c", "1", "-n", NODE, broker_url=url)
    late = control_tasks.note.apply_async((str(effects), "late"), countdown=3)
    late.revoke(wait=True)
    first.stop()

    worker(APP, "-c", "1", "-n", NODE, broker_url=url)

    wait_until(late.ready, 30)
    assert late.state == "REVOKED"
    assert lines(effects) == []


def test_what_waits_behind_a_running_task_is_revoked(
    app: App, url: str, worker: Start, effects: Path, tmp_path: Path
) -> None:
    worker(APP, "-c", "1", "-n", NODE, broker_url=url)
    running = control_tasks.held.delay(str(tmp_path / "go"))
    waiting = [control_tasks.note.delay(str(effects), f"w{number}") for number in range(3)]
    wait_until(lambda: state_of(app, running.id) == "active", 20)

    app.control.revoke([result.id for result in waiting], reply=True, destination=[NODE])
    (tmp_path / "go").touch()

    wait_until(lambda: all(result.ready() for result in waiting), 20)
    assert [result.state for result in waiting] == ["REVOKED"] * 3
    assert running.get(timeout=20) == "let go"
    assert lines(effects) == []


def test_terminate_kills_the_task_that_it_names_and_no_other(
    app: App, url: str, worker: Start, tmp_path: Path
) -> None:
    worker(APP, "-c", "2", "-n", NODE, broker_url=url)
    named, other = (control_tasks.held.delay(str(tmp_path / name)) for name in ("named", "other"))
    wait_until(lambda: state_of(app, named.id) == state_of(app, other.id) == "active", 20)

    named.revoke(terminate=True, signal="SIGKILL")

    wait_until(named.ready, 20)
    assert named.state == "REVOKED"
    assert state_of(app, other.id) == "active"
    (tmp_path / "other").touch()
    assert other.get(timeout=20) == "let go"


def test_what_bears_a_revoked_stamp_never_runs(app: App, url: str, worker: Start, effects: Path) -> None:
    stamped = control_tasks.note.s(str(effects), "stamped")
    stamped.stamp(customer="17")
    app.control.revoke_by_stamped_headers({"customer": ["17", "18"]})
    result, free = stamped.apply_async(), control_tasks.note.delay(str(effects), "free")

    worker(APP, "-c", "1", "-n", NODE, broker_url=url)

    wait_until(lambda: result.ready() and free.ready(), 20)
    assert result.state == "REVOKED"
    assert lines(effects) == ["free"]


def test_what_a_foreign_client_revokes_is_kept_for_later_workers(
    app: App, url: str, worker: Start, effects: Path
) -> None:
    """It knows no stream: the worker writes it down."""
    first = worker(APP, "-c", "1", "-n", NODE, broker_url=url)
    app.control.broadcast("revoke", {"task_id": ["foreign"]}, reply=True, timeout=1.0)
    wait_until(lambda: app.connection.perform(kept) >= 1, 20)
    first.stop()

    worker(APP, "-c", "1", "-n", NODE, broker_url=url)

    assert app.control.inspect([NODE]).revoked() == {NODE: ["foreign"]}


async def kept(link: Any) -> int:
    """How many records the stream holds that revoke something."""
    import asyncio

    found: list[Any] = []
    arguments = {"x-stream-offset": "first"}
    consumer = await link.consume(
        "amqptasks.revokes", found.append, lambda reason: None, prefetch=100, arguments=arguments
    )
    await asyncio.sleep(0.3)
    await consumer.close()
    return sum(b'"mark": ""' in delivery.body for delivery in found)
