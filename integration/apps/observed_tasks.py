"""What an observer is shown: calls that end in each way, and one that runs until the file that it is given exists."""

from typing import Any

from amqptasks import App, Queue, Task
from amqptasks.errors import Reject
from integration.apps import holding

app = App(
    "observed",
    task_queues=[Queue("observed"), Queue("forgotten")],
    task_default_queue="observed",
    task_send_sent_event=True,
)


@app.task(name="observed.add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="observed.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(name="observed.fail", bind=True, max_retries=1)
def fail(self: Task[..., Any], why: str) -> None:
    if not self.request.retries:
        raise self.retry(exc=ValueError(why), countdown=0)
    raise ValueError(why)


@app.task(name="observed.refuse", acks_late=True)
def refuse(number: int) -> None:
    raise Reject("not wanted", requeue=False)


@app.task(name="observed.held")
def held(path: str) -> str:
    return holding.until_exists(path)


app.conf.beat_schedule = {"often": {"task": "observed.add", "schedule": 3600.0, "args": (1, 2)}}
