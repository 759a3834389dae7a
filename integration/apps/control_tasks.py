"""Tasks for remote control and events. `held` runs until the file that it is given exists."""

import os

from amqptasks import App
from integration.apps import holding

app = App("control")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def fail(why: str) -> None:
    raise ValueError(why)


@app.task(acks_late=True)
def note(path: str, text: str) -> None:
    """One write, so that lines of several processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


@app.task
def held(path: str) -> str:
    return holding.until_exists(path)
