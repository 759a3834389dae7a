"""`--autoscale` under a changing load, on quorum queues: it grows, it shrinks, nothing is lost, nothing is killed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App
from integration.apps import scaling_tasks
from integration.support import WorkerProcess, wait_until
from integration.support.clients import on_broker

APP = "integration.apps.scaling_tasks"
NODE = "w1@here"
Start = Callable[..., WorkerProcess]


@pytest.fixture
def app(fresh_url: str) -> Iterator[App]:
    yield from on_broker(scaling_tasks.app, fresh_url)


class Load:
    """Calls that run until they are let go, and what they have noted."""

    def __init__(self, task: Any, folder: Path) -> None:
        self._task = task
        self._folder = folder
        self.results: list[Any] = []

    def add(self, *names: str) -> None:
        self.results += [self._task.delay(str(self._folder), name) for name in names]

    def let_go(self, *names: str) -> None:
        for name in names:
            (self._folder / f"go-{name}").touch()

    def let_all_go(self) -> None:
        (self._folder / "go").touch()

    def noted(self, what: str) -> list[str]:
        path = self._folder / "effects"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1] for line in lines if line.startswith(what)]

    def running(self) -> set[str]:
        return set(self.noted("S")) - set(self.noted("F"))


def scaler(app: App) -> dict[str, int]:
    stats = app.control.inspect([NODE], timeout=60.0).stats() or {}
    return dict(stats.get(NODE, {}).get("autoscaler", {}))


def size(app: App) -> int:
    return scaler(app).get("current", 0)


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_the_pool_follows_a_burst_and_a_calm_and_what_runs_is_never_killed(
    app: App, fresh_url: str, worker: Start, tmp_path: Path, pool: str
) -> None:
    options = ("--autoscale", "4,1", "-P", pool, "-n", NODE, "--", "worker_autoscale_keepalive=0.5")
    process = worker(APP, *options, broker_url=fresh_url)
    load = Load(scaling_tasks.held if pool == "prefork" else scaling_tasks.aheld, tmp_path)
    wait_until(lambda: scaler(app) == {"max": 4, "min": 1, "current": 1, "qty": 0}, 20, "the least")

    load.add(*(f"a{number}" for number in range(8)))
    wait_until(lambda: len(load.running()) == 4, 20, "four at a time")
    wait_until(lambda: size(app) == 4, 20, "said so")

    long = min(load.running())
    load.let_go(*(f"a{number}" for number in range(8) if f"a{number}" != long))
    wait_until(lambda: len(load.noted("F")) == 7, 20, "all but one ended")
    wait_until(lambda: (said := scaler(app))["current"] == said["qty"] == 1, 30, "all but one slot gone")
    assert load.running() == {long}, "the calm found it running"

    load.add("b0", "b1")
    wait_until(lambda: load.running() == {long, "b0", "b1"}, 20, "grown again beside it")
    load.let_all_go()
    wait_until(lambda: size(app) == 1, 30, "the least again")

    assert sorted(result.get(timeout=60) for result in load.results) == sorted(
        [*(f"a{number}" for number in range(8)), "b0", "b1"]
    )
    assert sorted(load.noted("S")) == sorted(load.noted("F")), "each ran once, to its end"
    assert "ended:" not in process.log()
    assert process.stop() == 0


def test_other_limits_count_at_once_and_what_is_held_follows_them(
    app: App, fresh_url: str, worker: Start, tmp_path: Path
) -> None:
    worker(
        APP, "--autoscale", "2,1", "--prefetch-multiplier", "1", "-n", NODE, broker_url=fresh_url,
    )  # fmt: skip
    load = Load(scaling_tasks.held, tmp_path)
    load.add(*(f"a{number}" for number in range(8)))
    wait_until(lambda: len(load.running()) == 2, 20, "two at a time")

    [answer] = app.control.autoscale(5, 3, destination=[NODE], reply=True, timeout=60.0)
    assert answer == {NODE: {"ok": "autoscale now max=5 min=3"}}
    wait_until(lambda: len(load.running()) == 5, 20, "five at a time")
    refused = app.control.broadcast("pool_grow", {"n": 1}, destination=[NODE], reply=True, timeout=60.0)
    assert "Adjust autoscale range" in refused[0][NODE]["error"]
    wrong = app.control.autoscale(2, 3, destination=[NODE], reply=True, timeout=60.0)
    assert "MAX comes first" in wrong[0][NODE]["error"]

    load.let_all_go()
    wait_until(lambda: all(result.ready() for result in load.results), 30)
    assert sorted(load.noted("F")) == [f"a{number}" for number in range(8)]


def test_a_pool_of_a_fixed_size_says_so(fresh_url: str, worker: Start) -> None:
    process = worker(APP, "--autoscale", "2,1", "-P", "threads", broker_url=fresh_url, ready=None)

    assert process.wait() != 0
    assert "--autoscale is for the pools prefork and asyncio" in process.log()
