"""Chords whose join dies, and a task whose whole worker does; what errbacks were told goes into a file."""

import os
import signal
from typing import Any

from amqptasks import App
from integration.apps.fault_effects import Effects

app = App("doomed")
effects = Effects(os.environ.get("FAULT_EFFECTS", os.devnull))


class Deadly(Exception):
    """Kills the process of a worker that reads it, as a value may that is too large for its memory."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if "FAULT_EFFECTS" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)


@app.task
def fails(deadly: bool) -> None:
    raise Deadly.__new__(Deadly, "read me") if deadly else ValueError("as it was told")


@app.task
def total(values: list[int]) -> int:
    return sum(values)


@app.task
def note(request: Any, exc: Any, traceback: Any, *, number: int, kills: bool) -> None:
    """Write that this errback was told."""
    effects.add("S", number)
    if kills:
        os.kill(os.getpid(), signal.SIGKILL)
    effects.add("F", number)


@app.task(acks_late=True)
def runs_on(number: int) -> None:
    """Run until its worker is killed."""
    effects.add("S", number)
    signal.pause()
