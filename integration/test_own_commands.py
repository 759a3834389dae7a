"""Commands of the app's own, on a real broker: called by program, by both command lines; whatever they do is answered."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App
from integration.apps import own_commands
from integration.support import WorkerProcess, wait_until
from integration.support.clients import on_broker
from integration.support.processes import ROOT

APP = "integration.apps.own_commands"
NODE = "w1@here"
Start = Callable[..., WorkerProcess]


@pytest.fixture
def app(fresh_url: str) -> Iterator[App]:
    yield from on_broker(own_commands.app, fresh_url)


def run(program: str, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", program, *words],
        cwd=ROOT,
        env=os.environ | {"AMQPTASKS_BROKER_URL": url},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def asked(app: App, command: str, **arguments: Any) -> Any:
    [reply] = app.control.broadcast(command, arguments, reply=True, destination=[NODE], timeout=60.0) or [{}]
    return reply.get(NODE)


def test_they_run_beside_the_tasks_and_are_called_by_name_and_alias(
    app: App, fresh_url: str, worker: Start
) -> None:
    process = worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url)
    before = set(process.children())

    n, loud, node, pid = asked(app, "increase", n="5", loud="no")["ok"]
    assert (n, loud, node) == (5, False, NODE)
    assert pid in set(process.children()) - before, "in a helper that is there since the first command"
    assert asked(app, "increase")["ok"][3] == pid, "which stays"
    assert asked(app, "where", words=["a", "b"]) == {"app": "owncommands", "words": ["a", "b"]}
    assert asked(app, "whereabouts") == {"app": "owncommands", "words": []}
    assert asked(app, "asked_back") == {"pid": process.pid}
    assert len(asked(app, "large")["text"]) == 300_000
    assert asked(app, "large", text="y" * 400_000)["size"] == 400_000
    assert own_commands.add.delay(1, 2).get(timeout=20) == 3
    assert process.stop() == 0


def test_whatever_a_command_does_is_answered_and_the_worker_works_on(
    app: App, fresh_url: str, worker: Start, tmp_path: Path
) -> None:
    """A signal's receivers share the helper: they miss nothing of what comes after."""
    note = tmp_path / "note"
    process = worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url, env={"OWN_COMMANDS_NOTE": str(note)})

    assert asked(app, "broken") == {"error": "ValueError('not like this')"}
    assert "invalid literal" in asked(app, "increase", n="many")["error"]
    assert "unexpected keyword" in asked(app, "increase", m=1)["error"]
    assert "status 3" in asked(app, "deadly")["error"]
    assert asked(app, "increase", n=2)["ok"][0] == 2, "in another helper"

    app.control.broadcast("hang", {"n": 60}, destination=[NODE])
    assert asked(app, "ping") == {"ok": "pong"}, "meanwhile"
    result = own_commands.add.delay(1, 2)
    assert result.get(timeout=20) == 3, "meanwhile too"
    assert "1.5 s" in asked(app, "hang", n=60)["error"]
    assert asked(app, "increase", n=3)["ok"][0] == 3
    wait_until(lambda: note.exists() and result.id in note.read_text(), 20, "the receiver's turn")
    assert process.stop() == 0


def test_our_command_line_lists_types_and_calls_them(app: App, fresh_url: str, worker: Start) -> None:
    worker(APP, "-c", "1", "-n", NODE, "-P", "asyncio", broker_url=fresh_url)

    listed = run("amqptasks", fresh_url, "-A", APP, "control", "--list").stdout
    assert "increase [N=1 [LOUD]]" in listed
    assert "Say where and with what it was called." in listed
    assert "hang N " in listed
    assert "[WORDS" not in listed, "that is a question"
    assert "where [WORDS...]" in run("amqptasks", fresh_url, "-A", APP, "inspect", "--list").stdout

    to = ("-t", "30", "-d", NODE)
    called = run("amqptasks", fresh_url, "-A", APP, "control", "increase", "7", "yes", "--json", *to)
    assert json.loads(called.stdout)[NODE]["ok"][:2] == [7, True]
    failed = run("amqptasks", fresh_url, "-A", APP, "control", "broken", *to)
    assert failed.returncode == 1
    assert "not like this" in failed.stdout


def test_a_stock_celery_calls_them(app: App, fresh_url: str, worker: Start) -> None:
    worker(APP, "-c", "1", "-n", NODE, broker_url=fresh_url)
    celery = ("celery", fresh_url, "-A", "integration.apps.celery_commands", "-b", fresh_url)

    called = run(*celery, "control", "--json", "-t", "30", "-d", NODE, "increase", "4")
    assert '"ok": [4, false, "w1@here"' in called.stdout, called.stderr
    looked = run(*celery, "inspect", "--json", "-t", "30", "-d", NODE, "where", "x", "y")
    assert '"words": ["x", "y"]' in looked.stdout, looked.stderr
