"""Celery on the same queues: its own, plainly declared, and those that `amqptasks queues --celery` printed."""

import os

from celery import Celery
from kombu import Queue

from integration.apps.interop_sharing_ours import OLD
from integration.apps.interop_theirs import make


def make_sharing(broker_url: str, queues: str | None) -> Celery:
    made = make(broker_url, queues)
    made.conf.task_queues = [*made.conf.task_queues, *(Queue(name) for name in OLD)]
    return made


app = make_sharing(os.environ.get("AMQPTASKS_BROKER_URL", "memory://"), os.environ.get("INTEROP_QUEUES"))
