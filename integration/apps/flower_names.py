"""The Celery app that Flower needs to know tasks by name: the queues as `amqptasks queues --celery` prints them."""

import os
import runpy

from celery import Celery

app = Celery("shop")
app.conf.task_default_queue = "amqptasks"
app.conf.task_queues = runpy.run_path(os.environ["FLOWER_QUEUES"])["task_queues"]


def known_by_name(*args: object, **kwargs: object) -> None:
    """Flower sends; our workers have the code."""


for task in ("add", "fail", "held", "patient"):
    app.task(known_by_name, name=f"integration.apps.flower_tasks.{task}")
