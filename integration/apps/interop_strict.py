"""A worker that reads JSON alone, and little of it: for messages that others wrote."""

import os

from integration.apps.interop_ours import make

app = make(
    os.environ.get("AMQPTASKS_BROKER_URL", "memory://"),
    task_default_queue="strict",
    accept_content=["json"],
    message_inflate_limit=1 << 16,
)
