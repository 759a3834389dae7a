"""The measured tasks on Celery: what a worker loads."""

import time
from typing import Any

from celery import Celery
from mode import Mode
from slots import mark, record

mode = Mode.from_environment()
app = Celery("bench", broker=mode.broker, backend=mode.store or ("rpc://" if mode.results else None))
app.conf.task_default_queue = mode.queue
app.conf.worker_cancel_long_running_tasks_on_connection_loss = False
app.conf.broker_connection_retry_on_startup = True
if mode.queue_type is not None:
    app.conf.task_default_queue_type = mode.queue_type
if mode.late is not None:
    app.conf.task_acks_late = mode.late
if mode.confirmed:
    app.conf.broker_transport_options = {"confirm_publish": True}


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
