"""Commands of an app's own: some that work, one that raises, one that hangs, one that kills its process."""

import os
import time
from typing import Any

from amqptasks import App, signals
from amqptasks.worker.control import inspect_command

app = App("owncommands")
PATIENT = 60.0
"""Seconds for a command: the first one waits for the start of its process."""


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.control_command(args=[("n", int), ("loud", bool)], signature="[N=1 [LOUD]]", time_limit=PATIENT)
def increase(state: Any, n: int = 1, loud: bool = False) -> dict[str, Any]:
    """Say where and with what it was called.

    This is not shown.
    """
    return {"ok": [n, loud, state.hostname, os.getpid()]}


@inspect_command(name="where", alias="whereabouts", variadic="words", time_limit=PATIENT)
def _where(state: Any, words: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"app": state.app.main, "words": list(words)}


@inspect_command(default_timeout=8.0, time_limit=PATIENT)
async def asked_back(state: Any) -> Any:
    """Ask the very worker that runs it."""
    stats = state.app.control.inspect([state.hostname], timeout=PATIENT / 2).stats()
    return {"pid": stats[state.hostname]["pid"]}


@app.control_command(time_limit=PATIENT)
def broken(state: Any) -> None:
    raise ValueError("not like this")


@app.control_command(args=[("n", int)], time_limit=1.5)
def hang(state: Any, n: int) -> None:
    """Take too long."""
    while True:
        time.sleep(n)


@app.control_command(time_limit=PATIENT)
def deadly(state: Any) -> None:
    """End its process."""
    os._exit(3)


@app.inspect_command(time_limit=PATIENT)
def large(state: Any, text: str = "") -> dict[str, Any]:
    """Answer with more than a datagram holds."""
    return {"size": len(text), "text": text or "x" * 300_000}


if path := os.environ.get("OWN_COMMANDS_NOTE"):

    @signals.task_received.connect
    def note(request: Any = None, **_: Any) -> None:
        with open(path, "a") as file:
            file.write(f"{request.id}\n")
