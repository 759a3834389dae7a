"""`control pool_restart`: the app is loaded anew while tasks run; what runs is finished, and nothing is lost."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App
from integration.support import WorkerProcess, wait_until

NODE = "w1@here"
Start = Callable[..., WorkerProcess]

MODULE = """
import os, time
from pathlib import Path
from amqptasks import App

app = App("reloaded")
VERSION = {version}


@app.task(name="version"{options})
def version():
    return VERSION


@app.task(name="held")
def held(path, number):
    with open(path + ".started", "a") as file:
        file.write(f"{{number}}\\n")
    until = time.monotonic() + 300
    while not Path(path).exists() and time.monotonic() < until:
        time.sleep(0.02)
    return [number, VERSION]


@app.inspect_command(time_limit=60)
def which(state):
    return VERSION
"""
NEW = """

@app.task(name="new", rate_limit="1000/s")
def new():
    return "new"


@app.inspect_command(time_limit=60)
def another(state):
    return "another"
"""


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_what_runs_is_finished_and_what_waits_runs_with_the_new_code(
    node: Any, fresh_vhost: str, worker: Start, tmp_path: Path, pool: str
) -> None:
    url, module, go = node.url(fresh_vhost), tmp_path / "reloaded.py", tmp_path / "go"
    module.write_text(MODULE.format(version=1, options=""))
    process = worker(
        "reloaded", "-c", "2", "-P", pool, "-n", NODE, "--", "worker_pool_restarts=yes",
        broker_url=url, cwd=tmp_path, env={"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    with App("client", broker=url, set_as_current=False) as app:
        running = app.send_task("held", (str(go), 7))
        started = Path(f"{go}.started")
        wait_until(lambda: started.exists() and started.read_text().split() == ["7"], 20, "one that runs")
        inspect = app.control.inspect([NODE], timeout=60.0)
        assert inspect.request("which") == {NODE: 1}, "and so the process for commands is there"
        before = process.children()

        module.write_text(MODULE.format(version=2, options=", time_limit=33") + NEW)
        (tmp_path / "besides.py").write_text(
            "from reloaded import app\n\n\n@app.task(name='besides')\ndef besides():\n    return 'besides'\n"
        )
        told = app.control.pool_restart(
            modules=["besides"], reload=True, destination=[NODE], reply=True, timeout=60.0
        )
        assert told == [{NODE: {"ok": "reload started"}}]
        meanwhile = [app.send_task("version") for _ in range(30)]
        assert {result.get(timeout=30) for result in meanwhile} <= {1, 2}, "none is lost"
        wait_until(lambda: app.send_task("version").get(timeout=20) == 2, 20, "the new code")
        assert not running.ready()
        assert set(process.children()) & set(before), "it still runs, in its old child"

        tasks = (inspect.registered("time_limit", "rate_limit") or {})[NODE]
        assert "version [time_limit=33]" in tasks
        assert "new [rate_limit=1000/s]" in tasks
        assert "besides" in tasks
        assert inspect.request("which") == {NODE: 2}
        assert inspect.request("another") == {NODE: "another"}
        assert app.send_task("besides").get(timeout=20) == "besides"
        assert app.send_task("new").get(timeout=20) == "new"
        told = app.control.rate_limit("new", "60/m", destination=[NODE], reply=True, timeout=60.0)
        assert told == [{NODE: {"ok": "new rate limit set successfully"}}]

        go.touch()
        assert running.get(timeout=30) == [7, 1]
        wait_until(lambda: not set(process.children()) & set(before), 20, "the old processes' end")
        assert started.read_text().split() == ["7"], "it started once"

        module.write_text("this is no Python")
        app.control.pool_restart(destination=[NODE])
        process.wait_log("goes on with what it had loaded")
        assert app.send_task("version").get(timeout=20) == 2
    assert process.stop() == 0


def test_a_worker_that_does_not_allow_it_says_so(node: Any, fresh_vhost: str, worker: Start) -> None:
    url = node.url(fresh_vhost)
    worker("integration.apps.control_tasks", "-c", "1", "-n", NODE, broker_url=url)

    with App(str(uuid.uuid4()), broker=url, set_as_current=False) as app:
        [answer] = app.control.pool_restart(destination=[NODE], reply=True, timeout=60.0) or []

    assert "Pool restarts not enabled" in answer[NODE]["error"]
