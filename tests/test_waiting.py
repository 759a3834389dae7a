"""Waiting for a result: who waits sleeps until the state arrives, and does not look for it meanwhile."""

from __future__ import annotations

import resource
import threading
import time
from typing import Any

import pytest

from amqptasks import App, AsyncResult
from amqptasks.backends.base import Meta

QUIET = 0.6
"""Seconds without news: who looks every 50 ms would wake up 12 times."""


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


@pytest.mark.skipif(
    not hasattr(resource, "RUSAGE_THREAD"), reason="this system does not count a thread's switches"
)
@pytest.mark.parametrize("timeout", [None, 10.0])
def test_a_wait_without_news_sleeps_through(app: App, timeout: float | None) -> None:
    result = add(app).delay(2, 2)
    timer = threading.Timer(QUIET, answer, [app, result, 4])

    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    timer.start()
    value = result.get(timeout=timeout)
    slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
    timer.join()

    assert value == 4
    assert slept < 10, f"woken {slept} times in {QUIET} s in which nothing came"


def test_who_waits_is_woken_when_the_value_comes(app: App) -> None:
    task, sent, took = add(app), [], []

    def send(result: AsyncResult[Any]) -> None:
        sent.append(time.monotonic())
        answer(app, result, 1)

    for _ in range(21):
        result = task.delay(1, 0)
        timer = threading.Timer(0.01, send, [result])
        timer.start()
        result.get(timeout=10)
        took.append(time.monotonic() - sent[-1])
        timer.join()

    # Who looks five times a second comes 100 ms late at the median; a noisy machine delays a few, not half of them.
    assert sorted(took)[10] < 0.08, "the median of 21 waits, in seconds from sending to waking"
