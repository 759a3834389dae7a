"""The app: short tasks read modules, long tasks squeeze packages, each kind on a queue of its own."""

from __future__ import annotations

import os
from typing import Any

import analysis

from amqptasks import App

app = App(
    "stdlib_tasks",
    broker=os.environ.get("AMQPTASKS_BROKER_URL", "amqp://guest@localhost//"),
    task_routes={"stdlib_tasks.read_module": "short", "stdlib_tasks.squeeze": "long"},
)


@app.task
def read_module(name: str) -> dict[str, Any]:
    return analysis.measure_module(name)


@app.task(acks_late=True)
def squeeze(name: str) -> dict[str, Any]:
    return analysis.squeeze_package(name)
