"""Tasks for the asyncio pool. What must survive a kill is a line in the file that COROUTINE_EFFECTS names."""

import asyncio
import ctypes
import os
import shlex
import time
from contextvars import ContextVar
from typing import Any

from amqptasks import App, Task
from amqptasks.errors import SoftTimeLimitExceeded
from integration.apps.fault_effects import Effects

app = App("coroutines")
effects = Effects(os.environ.get("COROUTINE_EFFECTS", os.devnull))
whose: ContextVar[str] = ContextVar("whose", default="nobody")


def write(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


def there(path: str) -> bool:
    return os.path.exists(path)


class Noting(Task[..., Any]):
    """Its handlers await, and append a word to the file that the task was given."""

    async def note(self, path: str, word: str) -> None:
        await asyncio.sleep(0)
        write(path, f"{word} {self.request.id}")

    async def before_start(self, task_id, args, kwargs):
        await self.note(args[0], "before_start")

    async def on_success(self, retval, task_id, args, kwargs):
        await self.note(args[0], "on_success")

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        write(args[0], f"on_failure {task_id}")

    async def after_return(self, status, retval, task_id, args, kwargs, einfo):
        await self.note(args[0], "after_return")


@app.task
async def wait(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@app.task(acks_late=True)
async def persist(number: int, seconds: float, go: str = "") -> int:
    """Lasts so many seconds, and until there is the file, if one is named."""
    effects.add("S", number)
    await asyncio.sleep(seconds)
    while go and not there(go):  # noqa: ASYNC110 (no loop is told of a file)
        await asyncio.sleep(0.02)
    effects.add("F", number)
    return number


@app.task(bind=True)
async def who(self, name: str) -> tuple[str, str, str]:
    before = whose.get()
    whose.set(name)
    await asyncio.sleep(0.02)
    return before, whose.get(), self.request.id


@app.task(bind=True)
def who_in_a_thread(self, name: str) -> tuple[str, str, str]:
    before = whose.get()
    whose.set(name)
    time.sleep(0.02)
    return before, whose.get(), self.request.id


@app.task
async def block(begun: str, go: str) -> str:
    """Blocks its loop and every thread of its process until there is the file: the interpreter's lock is kept."""
    script = 'touch "$0"; for _ in $(seq 600); do test -e "$1" && exit; sleep 0.1; done'
    line = f"sh -c {shlex.quote(script)} {shlex.quote(begun)} {shlex.quote(go)}"
    ctypes.PyDLL(None).system(line.encode())
    return "blocked"


@app.task
async def loop() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@app.task(soft_time_limit=0.2)
async def mind() -> str:
    try:
        await asyncio.sleep(60)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0)
        return "tidied"
    return "never"


@app.task(time_limit=0.2)
async def overrun(path: str) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        write(path, "ended")


@app.task
async def pid() -> int:
    return os.getpid()


@app.task(acks_late=True)
async def tidy(path: str) -> None:
    """Waits for a cancellation."""
    write(f"{path}/begun", "")
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        write(f"{path}/tidied", "")


@app.task(base=Noting)
async def noted(path: str, fails: bool) -> None:
    if fails:
        raise ValueError("no")


@app.task(bind=True, max_retries=2)
async def third_time(self) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries


@app.task
async def call_another(seconds: float) -> str:
    """Publishing blocks the loop for a round trip, and works."""
    return wait.delay(seconds).id
