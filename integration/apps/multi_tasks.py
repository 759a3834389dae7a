"""Tasks whose starts and ends are lines in a file, and an entry for an embedded beat."""

import os
import time

from amqptasks import App

app = App("several", beat_schedule={"often": {"task": "note", "schedule": 1, "args": ("B",)}})


@app.task(name="note")
def note(what: str, number: int = 0) -> None:
    written = os.open(os.environ["MULTI_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(written, f"{what} {number}\n".encode())
    os.close(written)


@app.task(name="work", acks_late=True)
def work(number: int, seconds: float) -> None:
    note("S", number)
    time.sleep(seconds)
    note("F", number)


@app.task(name="held", acks_late=True)
def held(number: int, go: str) -> None:
    """Run until there is the file."""
    note("S", number)
    while not os.path.exists(go):
        time.sleep(0.05)
    note("F", number)
