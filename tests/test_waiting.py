"""Waiting for a result: who waits sleeps until the state arrives, and does not look for it meanwhile."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App, AsyncResult
from amqptasks.backends.base import Meta

QUIET = 0.6
"""Seconds without news: who looks every 50 ms would wake up 12 times."""
BEGUN = 0.2
"""Seconds after which the wait has begun; where it has not, its beginning is counted."""


def answer(app: App, result: AsyncResult[Any], value: Any) -> None:
    """Bring the value as a worker would, from this thread."""
    meta = Meta(
        task_id=result.id,
        status="SUCCESS",
        result=value,
        reply_to=app.backend.reply_to(),
        correlation_id=result.id,
    )
    app.backend.store(meta, lambda envelope: app.connection.publish([envelope]))


def add(app: App) -> Any:
    return app.task(name="proj.add")(lambda x, y: x + y)


def switches(thread: int) -> int:
    """How often this thread of ours has gone to sleep so far."""
    for line in Path(f"/proc/self/task/{thread}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "voluntary_ctxt_switches":
            return int(value)
    raise AssertionError("the system does not say")


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="this system does not count a thread's switches"
)
@pytest.mark.parametrize("timeout", [None, 600.0])
def test_a_wait_without_news_sleeps_through(app: App, timeout: float | None) -> None:
    result = add(app).delay(2, 2)
    waiting, slept = threading.get_native_id(), list[int]()

    def look() -> None:
        """From another thread, while nobody holds the interpreter: who waits for that goes to sleep, too."""
        before = switches(waiting)
        time.sleep(QUIET)
        slept.append(switches(waiting) - before)
        answer(app, result, 4)

    timer = threading.Timer(BEGUN, look)
    timer.start()
    value = result.get(timeout=timeout)
    timer.join()

    assert value == 4
    assert slept[0] < 10, f"woken {slept[0]} times in {QUIET} s in which nothing came"


def test_who_waits_is_woken_when_the_value_comes(app: App) -> None:
    task, sent, took = add(app), [], []

    def send(result: AsyncResult[Any]) -> None:
        sent.append(time.monotonic())
        answer(app, result, 1)

    for _ in range(21):
        result = task.delay(1, 0)
        timer = threading.Timer(0.01, send, [result])
        timer.start()
        result.get(timeout=60)
        took.append(time.monotonic() - sent[-1])
        timer.join()

    # Who looks five times a second begins with each wait and comes 190 ms late each time; a noisy machine delays some.
    assert min(took) < 0.08, "the quickest of 21 waits, in seconds from sending to waking"
