"""What Flower is shown: each way that a call may go. `held` runs until the file that it is given exists."""

import time
from typing import Any

from amqptasks import App, Task
from amqptasks.contrib.abortable import AbortableTask
from amqptasks.errors import Ignore, Reject
from integration.apps import holding

app = App("flower")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task
def fail(why: str) -> None:
    raise ValueError(why)


@app.task(bind=True, max_retries=None)
def flaky(self: Task[..., Any], times: int, countdown: float = 0.0) -> int:
    """Succeeds after `times` retries."""
    if self.request.retries < times:
        raise self.retry(exc=OSError("not yet"), countdown=countdown)
    return self.request.retries


@app.task
def refuse() -> None:
    raise Reject("not wanted", requeue=False)


@app.task
def ignored() -> None:
    raise Ignore


@app.task
def held(path: str) -> str:
    return holding.until_exists(path)


@app.task(bind=True, base=AbortableTask)
def patient(self: Any) -> str:
    until = time.monotonic() + 300
    while not self.is_aborted() and time.monotonic() < until:
        time.sleep(0.01)
    return "aborted" if self.is_aborted() else "nobody asked"
