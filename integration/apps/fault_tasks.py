"""Tasks whose effects outlive every process: a line appended to a file when one starts and when it finishes.

The file is named by FAULT_EFFECTS; each line is one write on a descriptor opened with O_APPEND, so that lines of
several processes never mix and a kill leaves whole lines only.
"""

import ctypes
import os
import re
import signal
import threading
import time

from amqptasks import App
from integration.apps.fault_effects import Effects

app = App("fault")
effects = Effects(os.environ["FAULT_EFFECTS"])


def work(number: int, seconds: float) -> int:
    effects.add("S", number)
    time.sleep(seconds)
    effects.add("F", number)
    return number


@app.task
def early(number: int, seconds: float = 0.0) -> int:
    return work(number, seconds)


@app.task(acks_late=True, reject_on_worker_lost=True)
def late(number: int, seconds: float = 0.0) -> int:
    return work(number, seconds)


@app.task(acks_late=True)
def answered(number: int, seconds: float = 0.0) -> int:
    return work(number, seconds)


@app.task(acks_late=True)
def hog_interpreter(number: int, seconds: float) -> None:
    """Hold the interpreter's lock in C for as long as the pattern backtracks; no other thread of the child runs."""
    effects.add("S", number)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        re.match(r"(a+)+b", "a" * 24)
    effects.add("F", number)


@app.task(acks_late=True)
def sleep_in_c(number: int, seconds: float) -> None:
    """Sleep in C without letting go of the interpreter's lock."""
    effects.add("S", number)
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    effects.add("F", number)


@app.task(acks_late=True, reject_on_worker_lost=True)
def kills_its_child_while(number: int, flag: str) -> int:
    """SIGKILL oneself while the file `flag` exists."""
    effects.add("S", number)
    if os.path.exists(flag):
        os.kill(os.getpid(), signal.SIGKILL)
    effects.add("F", number)
    return number


@app.task
def kills_its_child(number: int) -> None:
    effects.add("S", number)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def exits(number: int, status: int) -> None:
    effects.add("S", number)
    os._exit(status)


@app.task
def waits_for(number: int, path: str, seconds: float = 300.0) -> int:
    """Run until the file `path` exists."""
    return _wait(number, path, seconds)


@app.task(acks_late=True, reject_on_worker_lost=True)
def waits_late_for(number: int, path: str, seconds: float = 300.0) -> int:
    return _wait(number, path, seconds)


def _wait(number: int, path: str, seconds: float) -> int:
    effects.add("S", number)
    deadline, tick = time.monotonic() + seconds, threading.Event()
    while not os.path.exists(path) and time.monotonic() < deadline:
        tick.wait(0.01)
    effects.add("F", number)
    return number
