"""Queues that both kinds of worker consume: `new.*` are declared here, `old.*` are known to Celery alone."""

import os

from amqptasks import Queue
from integration.apps.interop_ours import make

OLD, NEW = ("old.ours_later", "old.ours_first"), ("new.ours_later", "new.ours_first")

app = make(
    os.environ.get("AMQPTASKS_BROKER_URL", "memory://"),
    task_queues=[Queue(name) for name in NEW],
    task_default_queue=NEW[0],
)
