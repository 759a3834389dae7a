"""The tasks of the example: what a request is too short for."""

import time

from amqptasks import App

app = App("shop")


@app.task
def price(article: str, amount: int) -> int:
    time.sleep(0.01)  # a slow calculation
    return len(article) * amount


@app.task
def total(prices: list[int]) -> int:
    return sum(prices)
