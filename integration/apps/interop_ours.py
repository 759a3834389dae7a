"""The amqptasks side: `make` for clients in the test's own process, `app` for the worker."""

import os
from typing import Any

from amqptasks import App
from amqptasks.errors import Reject
from integration.apps.interop_steps import register


def make(broker_url: str, **settings: Any) -> App:
    given = {
        "task_default_queue": "ours",
        "accept_content": ["json", "pickle", "msgpack", "yaml"],
        "task_unknown_retries": 0,  # Celery knows no such wait
    } | settings
    app = App("interop", broker=broker_url, **given)
    register(app, "amqptasks")

    @app.task(name="interop.rejected", acks_late=True)
    def rejected() -> None:
        raise Reject("not mine", requeue=False)

    return app


app = make(os.environ.get("AMQPTASKS_BROKER_URL", "memory://"))
