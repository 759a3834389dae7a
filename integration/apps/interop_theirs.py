"""The Celery side: `make` for clients in the test's own process, `app` for the worker.

`INTEROP_QUEUES` names a file with what `amqptasks queues --celery` printed.
"""

import os
import runpy
from typing import Any

from celery import Celery
from celery.exceptions import Reject
from kombu import Queue

from integration.apps.interop_steps import register


def make(broker_url: str, queues: str | None = None, **settings: Any) -> Celery:
    printed = runpy.run_path(queues)["task_queues"] if queues else []
    app = Celery("interop", broker=broker_url, backend="rpc://")
    app.conf.update(
        task_default_queue="theirs",
        task_queues=[*printed, Queue("theirs")],
        accept_content=["json", "pickle", "msgpack", "yaml"],
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )
    app.conf.update(settings)
    # Shared, they would be registered again on every Celery app of the process.
    register(app, "celery", shared=False)

    @app.task(name="interop.rejected", acks_late=True, shared=False)
    def rejected() -> None:
        raise Reject("not mine", requeue=False)

    return app


app = make(os.environ.get("AMQPTASKS_BROKER_URL", "memory://"), os.environ.get("INTEROP_QUEUES"))
