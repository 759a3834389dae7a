"""Tasks that say where they ran, wait for a file, or end their process."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from amqptasks import Task
from amqptasks.errors import Reject
from integration.apps.seed_src.app import app


@app.task
def add(x: Any, y: Any) -> Any:
    return x + y


@app.task(bind=True)
def who(self: Task[..., Any]) -> list[Any]:
    return [self.request.id, self.request.hostname, os.getpid()]


def _wait_for(path: str) -> str:
    """Returns once the test made the file; not for ever, as a test that has failed makes none."""
    end = time.monotonic() + 200
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.02)
    return path


early = app.task(name="src.early")(_wait_for)
late = app.task(name="src.late", acks_late=True)(_wait_for)


def _note(path: str, word: str) -> None:
    with open(path, "a") as file:
        file.write(f"{word}\n")


@app.task(acks_late=True)
def leave(path: str) -> None:
    _note(path, "left")
    sys.exit(3)


@app.task(acks_late=True)
def crash(path: str, number: int = signal.SIGSEGV) -> None:
    _note(path, "crashed")
    os.kill(os.getpid(), number)


@app.task(acks_late=True, reject_on_worker_lost=True)
def crash_once(path: str) -> str:
    _note(path, "ran")
    if len(Path(path).read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "second time"


@app.task(acks_late=True)
def refuse(reason: str) -> None:
    raise Reject(reason, requeue=False)


@app.task(time_limit=1)
def for_ever() -> None:
    while True:
        time.sleep(0.05)
