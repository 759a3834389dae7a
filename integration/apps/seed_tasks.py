"""Tasks that note their runs in a file, and then wait, end their process, or stay for ever."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from amqptasks import App, Queue, Task

app = App(
    "seeds",
    task_queues=[Queue("amqptasks"), Queue("long"), Queue("short")],
    task_routes={"seeds.long_*": {"queue": "long"}, "seeds.short_*": {"queue": "short"}},
    worker_lost_limit=3,
)


def note(path: str, line: object = "ran") -> None:
    with open(path, "ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


def wait_for(path: str, seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while not Path(path).exists() and time.monotonic() < end:
        time.sleep(0.02)


def waits(path: str, gate: str) -> int:
    note(path, os.getpid())
    wait_for(gate)
    return os.getpid()


early = app.task(name="seeds.early")(waits)
late = app.task(name="seeds.late", acks_late=True)(waits)
long_wait = app.task(name="seeds.long_wait")(waits)


@app.task(name="seeds.short_answer", bind=True)
def short_answer(self: Task[..., Any]) -> list[Any]:
    return [self.request.hostname, self.request.delivery_info["queue"]]


@app.task(name="seeds.pid")
def pid() -> int:
    return os.getpid()


@app.task(name="seeds.poison", acks_late=True, reject_on_worker_lost=True)
def poison(path: str) -> None:
    note(path)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(
    name="seeds.recovers", bind=True, acks_late=True, retry_on_worker_lost=True, max_retries=2,
    default_retry_delay=1,
)  # fmt: skip
def recovers(self: Task[..., Any], path: str, crashes: int) -> int:
    note(path, self.request.retries)
    if self.request.retries < crashes:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(self.request.retries)


@app.task(name="seeds.hangs", time_limit=2)
def hangs() -> None:
    time.sleep(60)


class DatabaseTask(Task[..., Any]):
    """Has one connection a process."""

    _db: list[int] | None = None

    @property
    def db(self) -> list[int]:
        if self._db is None:
            self._db = [os.getpid(), time.monotonic_ns()]
        return self._db


@app.task(name="seeds.rows", base=DatabaseTask, bind=True)
def rows(self: DatabaseTask) -> list[int]:
    return self.db
