"""Tasks whose results go to a store; each run leaves a line in the file RUNS."""

import os
import time

from amqptasks import App, Task

app = App("stores")


def ran(number: int) -> None:
    fd = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{number}\n".encode())
    os.close(fd)


@app.task(acks_late=True, reject_on_worker_lost=True)
def late(number: int, gate: str = "") -> int:
    """Ends when there is the file `gate`, if it is given one."""
    ran(number)
    time.sleep(0.02)
    while gate and not os.path.exists(gate):
        time.sleep(0.02)
    return number


@app.task
def early(number: int) -> int:
    ran(number)
    return number


@app.task(acks_late=True)
async def coroutine(number: int) -> int:
    ran(number)
    return number


@app.task(bind=True, acks_late=True)
def calling(self: Task[..., int], number: int) -> int:
    """Calls two tasks, whose results anybody can read."""
    late.delay(number + 1)
    early.delay(number + 2)
    return number


@app.task(bind=True)
def progress(self: Task[..., str]) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1})
    return "done"


@app.task(acks_late=True)
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(acks_late=True)
def fails(number: int) -> int:
    raise ValueError(number)
