"""Tasks for the asyncio client's tests."""

from amqptasks import App

app = App("awaited", result_persistent=True)


@app.task(name="awaited.add", acks_late=True, reject_on_worker_lost=True)
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="awaited.total")
def total(numbers: list[int]) -> int:
    return sum(numbers)
