"""Many entries that are due in bursts: each run writes its id, so that every admission is counted."""

import os

from amqptasks import App

ENTRIES = int(os.environ.get("BEAT_ENTRIES", "100"))
EVERY = float(os.environ.get("BEAT_EVERY", "2"))

app = App("beating")


@app.task(bind=True)
def tick(self, entry: str) -> None:
    due = self.request.headers["x-amqptasks-due"].removeprefix("run ")
    line = f"{self.request.id} {entry} {due}\n".encode()
    written = os.open(os.environ["BEAT_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(written, line)
    os.close(written)


@app.on_after_configure.connect
def schedule(sender: App, **_: object) -> None:
    for number in range(ENTRIES):
        sender.add_periodic_task(EVERY, tick.s(f"e{number}"), name=f"e{number}", catch_up="all")
