"""What the dashboard is shown and made to do: calls that end in each way, some that wait, and a schedule."""

from typing import Any

from amqptasks import App, Queue, chain, group
from amqptasks.errors import Reject
from amqptasks.schedules import crontab
from integration.apps import holding

app = App(
    "shop",
    task_queues=[Queue("orders"), Queue("later"), Queue("dull")],
    task_default_queue="orders",
    task_send_sent_event=True,
    worker_pool_restarts=True,
    beat_schedule={
        "nightly": {"task": "shop.tick", "schedule": crontab(hour=3, minute=0), "args": ("nightly",)},
        "often": {"task": "shop.tick", "schedule": 3600.0, "args": ("often",)},
    },
)


@app.task(name="shop.bill")
def bill(order: Any, *more: Any) -> dict[str, Any]:
    return {"order": order}


@app.task(name="shop.charge")
def charge(order: int) -> None:
    raise ValueError(f"order {order} <b>declined</b>")


@app.task(name="shop.refuse", acks_late=True)
def refuse(order: Any) -> None:
    raise Reject(f"order {order} is not wanted", requeue=False)


@app.task(name="shop.held")
def held(path: str) -> str:
    """Runs until the file exists."""
    return holding.until_exists(path)


@app.task(name="shop.tick")
def tick(entry: str) -> str:
    return entry


def workflow() -> Any:
    """Start a call that leads to two others; the result of those."""
    return chain(bill.s(1), group(bill.s(2), bill.s(3)))()
