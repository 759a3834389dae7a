"""Tasks that succeed, fail, wait and are refused, for a worker that is asked how it is."""

import logging
import os
import time

from amqptasks import App
from amqptasks.errors import Reject
from integration.apps import holding

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
    return holding.until_exists(path)


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
