"""A task that fails twice before it succeeds; each attempt leaves a line when it starts and when it ends.

The effects are those of `fault_effects`, with the attempt in the kind: `0 1 2` start, `a b c` end.
"""

import os
import time

from amqptasks import App, Task
from integration.apps.fault_effects import Effects

app = App("retries")
effects = Effects(os.environ["FAULT_EFFECTS"])
FAILURES = 2


class Busy(Exception):
    """What the first attempts fail with."""


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True, max_retries=FAILURES)
def third_time(self: Task[..., int], number: int, seconds: float, countdown: float) -> int:
    """Succeeds as its second retry, which is the last one that it has."""
    attempt = self.request.retries
    effects.add("012"[attempt], number)
    time.sleep(seconds)
    effects.add("abc"[attempt], number)
    if attempt < FAILURES:
        raise self.retry(exc=Busy(number), countdown=countdown)
    return number


@app.task(bind=True, acks_late=True)
def ends_when_told(self: Task[..., int], number: int, gate: str, retried: bool) -> int:
    """Runs until the file `gate` is there; then it returns, or is retried a second later."""
    effects.add("012"[self.request.retries], number)
    end = time.monotonic() + 300
    while not os.path.exists(gate) and time.monotonic() < end:
        time.sleep(0.01)
    effects.add("abc"[self.request.retries], number)
    if retried and not self.request.retries:
        raise self.retry(exc=Busy(number), countdown=1)
    return number
