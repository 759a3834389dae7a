"""The measured tasks on amqptasks: what a worker loads."""

import asyncio
import time
from typing import Any

from mode import Mode
from slots import mark, record

from amqptasks import App

mode = Mode.from_environment()
settings: dict[str, Any] = {"task_default_queue": mode.queue}
if mode.queue_type is not None:
    settings["task_default_queue_type"] = mode.queue_type
if mode.late is not None:
    settings["task_acks_late"] = mode.late
app = App("bench", broker=mode.broker, backend="rpc://" if mode.results else None, **settings)


@app.task(name="bench.noop")
def noop() -> None:
    mark()


@app.task(name="bench.plus")
def plus(one: int, other: int) -> int:
    mark()
    return one + other


@app.task(name="bench.total")
def total(values: list[int]) -> int:
    mark()
    return sum(values)


@app.task(name="bench.short")
def short(sent: float) -> None:
    record(time.monotonic() - sent)
    mark()


@app.task(name="bench.long")
def long(seconds: float) -> None:
    time.sleep(seconds)
    mark()


@app.task(name="bench.late")
def late(due: float) -> None:
    """`due` is a time of the monotonic clock."""
    record(time.monotonic() - due)
    mark()


@app.task(name="bench.fails_twice", bind=True, max_retries=2)
def fails_twice(self: Any) -> None:
    mark()
    if self.request.retries < 2:
        raise self.retry(countdown=1)


@app.task(name="bench.waits")
def waits(seconds: float) -> None:
    mark()
    time.sleep(seconds)
    mark()


@app.task(name="bench.waits_async")
async def waits_async(seconds: float) -> None:
    mark()
    await asyncio.sleep(seconds)
    mark()
