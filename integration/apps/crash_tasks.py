"""One task for each column of the crash table; each comes to the end that its caller asks for, the first time it runs.

A task knows by a file whether it ran before, so that what is run again finishes.
"""

import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from amqptasks import App, Task
from amqptasks.errors import Ignore, Reject
from integration.apps.fault_effects import Effects

app = App("crash")
effects = Effects(os.environ["FAULT_EFFECTS"])
FOLDER = Path(os.environ["FAULT_EFFECTS"]).parent


def _first_time(number: int) -> bool:
    """Is this the first run of the number? True once."""
    try:
        (FOLDER / f"ran-{number}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _run_out_of_memory() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, before[1]))
    try:
        bytearray(1 << 31)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _fail() -> None:
    raise ValueError("as it was told")


def _reject(requeue: bool = False) -> None:
    raise Reject("as it was told", requeue=requeue)


def _ignore() -> None:
    raise Ignore


def _wait() -> None:
    """Run until the file `go` is there."""
    tick = threading.Event()
    for _ in range(30_000):
        if (FOLDER / "go").exists():
            return
        tick.wait(0.01)


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ENDS = {
    "finish": lambda: None,
    "signal": _killed,
    "exit": lambda: sys.exit(3),
    "_exit": lambda: os._exit(3),
    "memory": _run_out_of_memory,
    "fail": _fail,
    "reject": _reject,
    "requeue": lambda: _reject(requeue=True),
    "ignore": _ignore,
    "wait": _wait,
    "limit": lambda: time.sleep(60),
    "after": lambda: None,
}


class Crashing(Task):
    def run(self, number: int, end: str) -> int:
        effects.add("S", number)
        if end == "always":
            _killed()
        try:
            if _first_time(number) or end == "wait":
                ENDS[end]()
        except Exception:
            effects.add("E", number)
            raise
        effects.add("F", number)
        return number

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """After the task's last effect, before anybody has been told that it ended."""
        if args[1] == "after" and _first_time(args[0] + 1000):
            _killed()


class Early(Crashing):
    name = "crash.early"


class Late(Crashing):
    name = "crash.late"
    acks_late = True


class Rejected(Late):
    name = "crash.rejected"
    reject_on_worker_lost = True


class Retried(Late):
    name = "crash.retried"
    retry_on_worker_lost = True
    default_retry_delay = 1


class Unforgiven(Late):
    name = "crash.unforgiven"
    acks_on_failure_or_timeout = False


for cls in (Early, Late, Rejected, Retried, Unforgiven):
    app.register_task(cls)
