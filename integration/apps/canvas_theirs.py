"""The tasks of the random canvases on Celery's side. INTEROP_QUEUES: what `amqptasks queues --celery` printed."""

import os
import runpy
from typing import Any

from celery import Celery
from kombu import Queue

from tests.support.canvases import digest, listing

printed = (
    runpy.run_path(os.environ["INTEROP_QUEUES"])["task_queues"] if "INTEROP_QUEUES" in os.environ else []
)

app = Celery("canvas", broker=os.environ.get("AMQPTASKS_BROKER_URL", "memory://"), backend="rpc://")
app.conf.update(
    task_default_queue="theirs",
    task_queues=[*printed, Queue("theirs")],
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="tree.hash")
def hash_(*args: Any) -> int:
    return digest(args)


@app.task(name="tree.list")
def list_(*args: Any) -> list[Any]:
    return listing(args)


@app.task(name="tree.boom", throws=(ValueError,))
def boom(*args: Any) -> None:
    raise ValueError("boom")
