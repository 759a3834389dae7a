"""Revoked before it starts, on the ladder, in a worker's hands, while it runs, with all workers down: it never runs."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App
from integration.apps import control_tasks
from integration.support import WorkerProcess, wait_until
from integration.support.clients import lines, on_broker, state_of
from integration.support.processes import ROOT

APP = "integration.apps.control_tasks"
NODE = "w1@here"
Start = Callable[..., WorkerProcess]


@pytest.fixture
def app(fresh_url: str) -> Iterator[App]:
    yield from on_broker(control_tasks.app, fresh_url)


def test_what_was_revoked_with_all_workers_down_never_runs(
    app: App, fresh_url: str, worker: Start, effects: Path
) -> None:
    before = control_tasks.note.delay(str(effects), "before")
    app.control.revoke([before.id])
    after = control_tasks.note.delay(str(effects), "after")

    worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url)

    wait_until(after.ready, 20)
    wait_until(before.ready, 20)
    assert before.state == "REVOKED"
    assert lines(effects) == ["after"]


def test_what_waits_on_the_ladder_is_revoked_when_it_is_due_also_after_a_restart(
    app: App, fresh_url: str, worker: Start, effects: Path
) -> None:
    first = worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url)
    late = revoked_on_the_ladder(app, effects)
    first.stop()

    worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url)

    wait_until(late.ready, 30)
    assert late.state == "REVOKED"
    assert lines(effects) == []


def revoked_on_the_ladder(app: App, effects: Path) -> Any:
    """A call that was revoked before it was due: one more, if the machine was too slow for that."""
    for number in range(5):
        sent = time.monotonic()
        late = control_tasks.note.apply_async((str(effects), "late"), countdown=3)
        late.revoke(wait=True)
        if late.id in (revoked_by(app, NODE) or ()) and time.monotonic() - sent < 3:
            return late
        wait_until(late.ready, 30)
        effects.unlink(missing_ok=True)
    raise AssertionError(f"revoking took 3 s, {number + 1} times")


def test_what_waits_behind_a_running_task_is_revoked(
    app: App, fresh_url: str, worker: Start, effects: Path, tmp_path: Path
) -> None:
    worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url)
    running = control_tasks.held.delay(str(tmp_path / "go"))
    waiting = [control_tasks.note.delay(str(effects), f"w{number}") for number in range(3)]
    wait_until(lambda: state_of(app, NODE, running.id) == "active", 20)

    app.control.revoke([result.id for result in waiting], reply=True, destination=[NODE], timeout=30.0)
    (tmp_path / "go").touch()

    wait_until(lambda: all(result.ready() for result in waiting), 20)
    assert [result.state for result in waiting] == ["REVOKED"] * 3
    assert running.get(timeout=20) == "let go"
    assert lines(effects) == []


def test_terminate_kills_the_task_that_it_names_and_no_other(
    app: App, fresh_url: str, worker: Start, tmp_path: Path
) -> None:
    worker(APP, "-c", "2", "-n", NODE, broker_url=fresh_url)
    named, other = (control_tasks.held.delay(str(tmp_path / name)) for name in ("named", "other"))
    wait_until(lambda: state_of(app, NODE, named.id) == state_of(app, NODE, other.id) == "active", 20)

    named.revoke(terminate=True, signal="SIGKILL")

    wait_until(named.ready, 20)
    assert named.state == "REVOKED"
    assert state_of(app, NODE, other.id) == "active"
    (tmp_path / "other").touch()
    assert other.get(timeout=20) == "let go"


def test_what_bears_a_revoked_stamp_never_runs(
    app: App, fresh_url: str, worker: Start, effects: Path
) -> None:
    stamped = control_tasks.note.s(str(effects), "stamped")
    stamped.stamp(customer="17")
    app.control.revoke_by_stamped_headers({"customer": ["17", "18"]})
    result, free = stamped.apply_async(), control_tasks.note.delay(str(effects), "free")

    worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url)

    wait_until(lambda: result.ready() and free.ready(), 20)
    assert result.state == "REVOKED"
    assert lines(effects) == ["free"]


def test_a_revoked_stamp_reaches_what_waits_and_what_runs(
    app: App, fresh_url: str, worker: Start, effects: Path, tmp_path: Path
) -> None:
    worker(APP, "-c", "2", "-n", NODE, broker_url=fresh_url)
    stamped, other = control_tasks.held.s(str(tmp_path / "stamped")), tmp_path / "other"
    stamped.stamp(customer="17")
    named, free = stamped.apply_async(), control_tasks.held.delay(str(other))
    wait_until(lambda: state_of(app, NODE, named.id) == state_of(app, NODE, free.id) == "active", 20)
    waits = control_tasks.note.s(str(effects), "waits")
    waits.stamp(customer="18")
    waiting = waits.apply_async()

    to = ("-t", "30", "-d", NODE)
    ran = command_line(fresh_url, "revoke_by_stamped_headers", "customer=17", "customer=18", *to)
    assert "flagged as revoked" in ran.stdout
    assert state_of(app, NODE, named.id) == "active", "it was not to be terminated"
    app.control.revoke_by_stamped_headers({"customer": "17"}, terminate=True, signal="KILL")

    wait_until(lambda: named.ready() and waiting.ready(), 20)
    assert [named.state, waiting.state] == ["REVOKED", "REVOKED"]
    assert state_of(app, NODE, free.id) == "active"
    other.touch()
    assert free.get(timeout=20) == "let go"
    assert lines(effects) == []


def command_line(url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "amqptasks", "-b", url, "control", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_the_command_line_revokes_with_all_workers_down_never_runs(
    app: App, fresh_url: str, worker: Start, effects: Path
) -> None:
    result = control_tasks.note.delay(str(effects), "revoked")
    ran = command_line(fresh_url, "revoke", result.id, "-t", "0.1")
    assert ran.returncode == 69
    assert "workers that start later know it" in ran.stderr

    worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url)

    wait_until(result.ready, 20)
    assert result.state == "REVOKED"
    assert lines(effects) == []


def test_where_streams_are_not_to_be_had_a_starting_worker_asks_the_others(
    app: App, node: Any, fresh_vhost: str, worker: Start, effects: Path
) -> None:
    """A user who may do everything but touch the stream; what is revoked outlives each single worker."""
    url = without_stream(node, fresh_vhost)
    app.conf.update(broker_url=url)
    first = worker(APP, "-c", "1", "-n", "w1@here", broker_url=url)
    assert "other workers are asked" in first.log()
    app.control.revoke(["revoked-id"])
    app.control.revoke_by_stamped_headers({"customer": ["17"]})
    wait_until(lambda: revoked_by(app, "w1@here") == ["revoked-id"], 20)

    def told(name: str) -> None:
        """Start a worker that the others have told. They have a second for it; if one had other things to do, again."""
        for _ in range(5):
            started = worker(APP, "-c", "1", "-n", name, broker_url=url)
            if (known := revoked_by(app, name)) == ["revoked-id"]:
                return
            started.stop()
        assert known == ["revoked-id"]

    told("w2@here")
    assert first.stop() == 0
    told("w3@here")

    stamped = control_tasks.note.s(str(effects), "stamped")
    stamped.stamp(customer="17")
    calls = [
        *(control_tasks.note.apply_async((str(effects), "revoked"), task_id="revoked-id") for _ in range(4)),
        *(stamped.clone().apply_async() for _ in range(4)),
        control_tasks.note.delay(str(effects), "free"),
    ]
    wait_until(lambda: all(result.ready() for result in calls), 20)
    assert lines(effects) == ["free"]


def revoked_by(app: App, name: str) -> Any:
    return (app.control.inspect([name], timeout=30.0).revoked() or {}).get(name)


def without_stream(node: Any, vhost: str) -> str:
    """The URL of a user who may do everything on the vhost but declare, write or read the stream."""
    everything_else = r"^(?!amqptasks\\.revokes$).*"
    node.eval(
        'case rabbit_auth_backend_internal:exists(<<"streamless">>) of true -> ok; false -> '
        'ok = rabbit_auth_backend_internal:add_user(<<"streamless">>, <<"secret">>, <<"amqptasks">>) end, '
        f'rabbit_auth_backend_internal:set_permissions(<<"streamless">>, <<"{vhost}">>, '
        f'<<"{everything_else}">>, <<"{everything_else}">>, <<"{everything_else}">>, <<"amqptasks">>)'
    )
    return str(node.url(vhost)).replace("guest:guest", "streamless:secret")


def test_what_is_kept_is_bounded_in_number_and_in_time(
    app: App, fresh_url: str, worker: Start, effects: Path
) -> None:
    """The stream is as its first user declared it; a worker that is told otherwise says so, and keeps to it itself."""
    bounds = ("--", "worker_revokes_limit=64", "worker_revokes_retention=3")
    app.control.revoke(["first"])
    first = worker(APP, "-c", "1", "-n", NODE, *bounds, broker_url=fresh_url)
    assert "x-max-age" in first.log(), first.log()
    many = [f"id-{number}" for number in range(500)]

    def known() -> list[str]:
        app.control.revoke(many)  # once more, if it has forgotten them before it was asked
        found = revoked_by(app, NODE) or []
        return found if "id-499" in found else []

    assert len(wait_until(known, 20, "it knows the youngest", interval=0.5)) <= 64

    wait_until(lambda: revoked_by(app, NODE) == [], 20, "it has forgotten what is too old")
    first.stop()
    worker(APP, "-c", "1", "-n", NODE, *bounds, broker_url=fresh_url)
    assert revoked_by(app, NODE) == [], "nor does the next one take it from the stream"
    result = control_tasks.note.apply_async((str(effects), "late"), task_id="id-499")
    assert result.get(timeout=20) is None
    assert lines(effects) == ["late"]


def test_of_a_random_mix_nothing_that_was_revoked_runs_and_all_else_does(
    app: App, fresh_url: str, worker: Start, effects: Path, tmp_path: Path
) -> None:
    """Before any worker starts, on the ladder, behind running calls, while running, while one worker is killed."""
    mix = Mix(app, effects, seed=1 + os.getpid())
    print(f"seed {mix.seed}")
    mix.send(40)
    mix.revoke(15, workers=0)
    first = worker(APP, "-c", "2", "-n", "w1@here", broker_url=fresh_url)
    second = worker(APP, "-c", "2", "-n", "w2@here", broker_url=fresh_url)

    blockers = [control_tasks.held.delay(str(tmp_path / f"go-{number}")) for number in range(4)]
    wait_until(lambda: mix.active(2) >= {blocker.id for blocker in blockers}, 20, "four that run")
    mix.send(40)
    mix.revoke(20, workers=2)
    ended, kept = blockers[:2], blockers[2:]
    app.control.revoke([blocker.id for blocker in ended], terminate=True)
    wait_until(lambda: all(blocker.ready() for blocker in ended), 20)
    for number in (2, 3):
        (tmp_path / f"go-{number}").touch()
    assert [blocker.get(timeout=20) for blocker in kept] == ["let go", "let go"]

    mix.send(20)
    second.kill()
    mix.revoke(10, workers=1)
    first.stop()
    mix.send(20)
    mix.revoke(10, workers=0)
    worker(APP, "-c", "2", "-n", "w3@here", broker_url=fresh_url)

    wait_until(mix.is_over, 60, mix.open)
    mix.check()
    assert [blocker.state for blocker in ended] == ["REVOKED", "REVOKED"]


class Mix:
    """Calls at once, soon or by the ladder; those that were revoked before they can have begun must never run."""

    def __init__(self, app: App, effects: Path, seed: int) -> None:
        self.seed = seed
        self._app, self._effects = app, effects
        self._random = random.Random(seed)
        self._results: dict[str, Any] = {}
        self._revoked: set[str] = set()
        self._unsure: set[str] = set()

    def send(self, count: int) -> None:
        for _ in range(count):
            text = f"n{len(self._results)}"
            delay = self._random.choice([None, None, 0.3, 2.5, 4.0])
            options = {} if delay is None else {"countdown": delay}
            self._results[text] = control_tasks.note.apply_async((str(self._effects), text), **options)

    def revoke(self, count: int, workers: int) -> None:
        """What has not begun when all workers know it is revoked; what may run at that very moment may do either."""
        chosen = self._random.sample(sorted(set(self._results) - self._revoked - self._unsure), count)
        ids = [self._results[text].id for text in chosen]
        before = set(lines(self._effects))
        self._app.control.revoke(ids)
        begun: set[str] = set()
        if workers:
            wait_until(self._all_know(ids, workers), 20, "every worker knows")
            active = self.active(workers)  # asked first: what is over by now has left its line
            begun = {text for text in chosen if self._results[text].id in active}
        after = set(lines(self._effects)) | begun
        self._unsure |= set(chosen) & (before | after)
        self._revoked |= set(chosen) - before - after

    def _all_know(self, ids: list[str], workers: int) -> Callable[[], bool]:
        def known() -> bool:
            told = self._app.control.inspect(timeout=20.0, limit=workers).revoked() or {}
            return len(told) == workers and all(set(ids) <= set(each) for each in told.values())

        return known

    def active(self, workers: int) -> set[str]:
        told = self._app.control.inspect(timeout=20.0, limit=workers).active() or {}
        return {call["id"] for calls in told.values() for call in calls}

    def is_over(self) -> bool:
        return all(result.ready() for result in self._results.values())

    def open(self) -> str:
        return " ".join(text for text, result in self._results.items() if not result.ready())

    def check(self) -> None:
        ran = set(lines(self._effects))
        assert ran & self._revoked == set()
        assert ran >= set(self._results) - self._revoked - self._unsure
        assert {self._results[text].state for text in self._revoked} == {"REVOKED"}
        assert len(self._revoked) >= 20, "the mix revoked something in time"


def test_what_a_foreign_client_revokes_is_kept_for_later_workers(
    app: App, fresh_url: str, worker: Start, effects: Path
) -> None:
    """It knows no stream: the worker writes it down."""
    first = worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url)
    app.control.broadcast("revoke", {"task_id": ["foreign"]}, reply=True, timeout=30.0, limit=1)
    wait_until(lambda: app.connection.perform(kept) >= 1, 20)
    first.stop()

    worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url)

    assert revoked_by(app, NODE) == ["foreign"]


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
