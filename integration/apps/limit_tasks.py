"""Tasks that run into limits. Each notes what it does as a line in the file that LIMIT_NOTES names.

A line is one write on a descriptor opened with O_APPEND: `kind name number pid seconds`.
"""

import os
import re
import time
from typing import Any

from amqptasks import App, Task
from amqptasks.errors import SoftTimeLimitExceeded
from amqptasks.signals import worker_process_init
from integration.apps import holding

app = App("limits")

_descriptor = os.open(os.environ["LIMIT_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
_leak: list[bytearray] = []


def note(kind: str, name: str, number: int) -> None:
    os.write(_descriptor, f"{kind} {name} {number} {os.getpid()} {time.time():.6f}\n".encode())


class Noted(Task[..., Any]):
    """Says in which process its handlers run."""

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        note("on_failure", type(exc).__name__, args[0])

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        note("after_return", status, args[0])


@app.task(rate_limit="10/s")
def ten(number: int) -> None:
    note("S", "ten", number)


@app.task(rate_limit=10)
def another_ten(number: int) -> None:
    note("S", "another_ten", number)


@app.task
def free(number: int) -> None:
    note("S", "free", number)


@app.task(acks_late=True)
def plain(number: int, seconds: float = 0.0) -> int:
    note("S", "plain", number)
    time.sleep(seconds)
    note("F", "plain", number)
    return number


@app.task(acks_late=True)
def lasts(number: int, go: str) -> int:
    """Runs until there is the file."""
    note("S", "lasts", number)
    holding.until_exists(go)
    return number


@app.task(acks_late=True, rate_limit="1/h")
def hourly(number: int) -> None:
    note("S", "hourly", number)


@app.task(acks_late=True, base=Noted, time_limit=0.3)
def over_the_limit(number: int) -> None:
    note("S", "over_the_limit", number)
    time.sleep(60)


@app.task(acks_late=True, base=Noted, time_limit=0.3)
def close_to_the_limit(number: int, seconds: float) -> int:
    """Ends about when its limit does: which of the two comes first is chance."""
    note("S", "close_to_the_limit", number)
    time.sleep(seconds)
    note("F", "close_to_the_limit", number)
    return number


@app.task
def sleeps(number: int, seconds: float) -> str:
    note("S", "sleeps", number)
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        note("soft", "sleeps", number)
        return "cleaned up"
    note("F", "sleeps", number)
    return "slept"


@app.task(soft_time_limit=0.5, time_limit=4.0)
def ignores_the_soft_limit(number: int) -> None:
    note("S", "ignores_the_soft_limit", number)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            time.sleep(60)
        except SoftTimeLimitExceeded:
            note("soft", "ignores_the_soft_limit", number)


@app.task
def leaks(number: int, mebibytes: int) -> int:
    _leak.append(bytearray(os.urandom(4096)) * (mebibytes * 256))
    note("S", "leaks", number)
    return os.getpid()


@app.task
def hangs_in_c(number: int, go: str) -> None:
    """Hold the interpreter's lock in C until there is the file: no Python code of this process runs meanwhile."""
    note("S", "hangs_in_c", number)
    while not os.path.exists(go):
        re.match(r"(a+)+b", "a" * 26)
    note("F", "hangs_in_c", number)


@app.task
def waits(number: int, go: str) -> None:
    note("S", "waits", number)
    while not os.path.exists(go):
        time.sleep(0.05)
    note("F", "waits", number)


@app.task
def afterwards(_request: object, *_: object) -> None:
    note("S", "afterwards", 0)


@app.task(base=Noted, bind=True)
def kills_itself(self: Task[..., Any], number: int) -> None:
    note("S", "kills_itself", number)
    os.kill(os.getpid(), 9)


@worker_process_init.connect
def refuse_to_start(**_: object) -> None:
    """Every child ends before it is ready while LIMIT_STILLBORN says so."""
    if os.environ.get("LIMIT_STILLBORN"):
        raise SystemExit("no licence for another process")
