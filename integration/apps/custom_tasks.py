"""Tasks with classes of their own: a Request that writes down what it sees, an expensive attribute, abortable loops."""

import asyncio
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from amqptasks import App, Task, get_task_logger
from amqptasks.contrib.abortable import AbortableTask
from amqptasks.worker.request import Request

NOTES = Path(os.environ.get("NOTES", os.devnull))


def note(*words: object) -> None:
    with open(NOTES, "a") as file:
        file.write(" ".join(map(str, (os.getpid(), *words))) + "\n")


class Watched(Request):
    def on_received(self) -> None:
        note("received", self.task_id)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        note("accepted", self.task_id)

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> None:
        note("success", self.task_id)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        note("failure", self.task_id, type(exc_info.exception).__name__)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        note("timeout", self.task_id, soft, timeout)


class DatabaseTask(Task[..., Any]):
    """As in Celery's guide: the connection is made once a process."""

    _db: str | None = None

    def __init__(self) -> None:
        note("made")

    @property
    def db(self) -> str:
        if self._db is None:
            note("connected")
            self._db = f"connection of {os.getpid()}"
        return self._db


app = App("custom", task_cls="integration.apps.custom_tasks.Plain")


class Plain(Task[..., Any]):
    marker = "plain"


logger = get_task_logger(__name__)


@app.task(base=DatabaseTask, bind=True)
def rows(self: DatabaseTask, pause: float = 0.0) -> list[Any]:
    time.sleep(pause)
    return [os.getpid(), self.db]


@app.task(Request=Watched)
def watched(how: str) -> str:
    match how:
        case "fail":
            raise ValueError(how)
        case "sleep":
            time.sleep(30)
    return how


@app.task(bind=True)
def marked(self: Plain) -> str:
    return self.marker


@app.task(bind=True, base=AbortableTask, abort_interval=0.05)
def loop(self: AbortableTask[..., Any], seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if self.is_aborted():
            return "aborted"
    return "ran out"


@app.task(bind=True)
def who(self: Plain) -> list[Any]:
    before = self.request.id
    time.sleep(0.02)
    return [before, self.request.id, self.request.delivery_info["queue"]]


@app.task(bind=True, Request=Watched)
async def slow_who(self: Plain) -> list[Any]:
    before = self.request.id
    await asyncio.sleep(0.02)
    return [before, self.request.id, await asyncio.to_thread(lambda: self.request.id)]


@app.task(bind=True, base=AbortableTask, abort_interval=0.05)
async def slow_loop(self: AbortableTask[..., Any]) -> str:
    while not self.is_aborted():  # noqa: ASYNC110 (the wish is on the broker)
        await asyncio.sleep(0.01)
    return "aborted"


@app.task
def talk() -> None:
    logger.warning("by the logger")
    print("by print")
    print("to stderr", file=sys.stderr)
    logging.getLogger("other").warning("by another logger")
