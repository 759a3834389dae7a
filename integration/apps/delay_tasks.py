"""Tasks that write down when they ran: number, when they were due, when they started; 24 bytes in one write.

The file is named by DELAY_NOTES.
"""

import os
import struct
import time
from pathlib import Path

from amqptasks import App, Queue

NOTE = struct.Struct("<qdd")

app = App("delay", task_queues=[Queue("first"), Queue("second")], task_default_queue="first")
_descriptor: int | None = None


@app.task(acks_late=True, ignore_result=True)
def note(number: int, due: float) -> None:
    """`due` is in seconds since the epoch."""
    global _descriptor
    now = time.time()
    if _descriptor is None:
        _descriptor = os.open(os.environ["DELAY_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_descriptor, NOTE.pack(number, due, now))


def notes(path: Path) -> list[tuple[int, float, float]]:
    """Everything noted so far, in order."""
    data = path.read_bytes() if path.exists() else b""
    return list(NOTE.iter_unpack(data[: len(data) // NOTE.size * NOTE.size]))
