"""Tasks of the random canvases, and of chords that are killed: a body leaves a line for each of its runs."""

import os
import time
from typing import Any

from amqptasks import App
from integration.apps.fault_effects import Effects
from tests.support.canvases import register

app = App("canvas")
register(app)


@app.task(name="tree.note")
def note(request: Any, exc: Any, traceback: Any) -> None:
    """Write whose failure this errback was told of."""
    with open(os.environ["CANVAS_ERRORS"], "ab", buffering=0) as file:
        file.write(f"{request.id}\n".encode())


effects = Effects(os.environ.get("FAULT_EFFECTS", os.devnull))


@app.task(acks_late=True, reject_on_worker_lost=True, ignore_result=True)
def member(number: int, seconds: float) -> int:
    effects.add("S", number)
    time.sleep(seconds)
    effects.add("F", number)
    return number


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True, ignore_result=True)
def body(self: Any, values: list[int], chord: int) -> None:
    """Write which chord, under which id, of which values: one write, so that a kill leaves whole lines only."""
    line = f"{chord} {self.request.id} {len(values)} {sum(values)}\n"
    with open(os.environ["CHORD_BODIES"], "ab", buffering=0) as file:
        file.write(line.encode())
