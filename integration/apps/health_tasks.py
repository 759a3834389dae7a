"""Tasks that succeed, fail, wait and are refused, for a worker that is asked how it is."""

import logging
import os
import time
from pathlib import Path

from amqptasks import App
from amqptasks.errors import Reject

app = App("health")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task
def held(path: str) -> str:
    """Runs until there is such a file."""
    until = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < until:
        time.sleep(0.01)
    return "let go"


@app.task
def boom() -> None:
    raise ZeroDivisionError("as asked")


@app.task(acks_late=True)
def reject() -> None:
    raise Reject("not mine", requeue=False)


@app.task
def die() -> None:
    os._exit(7)


@app.task
def say(words: str) -> None:
    logging.getLogger("proj").warning(words)
