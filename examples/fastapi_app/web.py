"""A web application that calls tasks and awaits their results, on one event loop, without blocking it.

amqptasks -A tasks worker
uvicorn web:web

curl -X POST 'localhost:8000/prices/tea?amount=3'             starts a task: {"id": "..."}
curl 'localhost:8000/totals?articles=tea&articles=honey'      waits for a whole canvas
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query
from tasks import app, price, total

from amqptasks import AsyncResult, chord
from amqptasks.errors import BrokerBlocked, BrokerUnavailable, PublishTimeout, ResultLost, TimeoutError

started: dict[str, AsyncResult[int]] = {}
"""What this process has started. A real shop would keep ids in its database, with a result backend that stores."""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """The connection opens with the first call; here it is closed in good order."""
    async with app:
        yield


web = FastAPI(lifespan=lifespan)


@web.post("/prices/{article}", status_code=202)
async def start(article: str, amount: int = 1) -> dict[str, str]:
    """Answer as soon as the broker has the task in a queue."""
    try:
        result = await price.aapply_async((article, amount), timeout=5)
    except (BrokerUnavailable, BrokerBlocked, PublishTimeout) as error:
        raise HTTPException(503, str(error)) from error
    started[result.id] = result
    return {"id": result.id}


@web.get("/prices/{id}")
async def wait(id: str, seconds: float = 5) -> dict[str, int]:
    """Answer with the result; 504 if it has not come within `seconds`."""
    if id not in started:
        raise HTTPException(404, "this process has started no such task")
    try:
        return {"price": await started[id].aget(timeout=seconds)}
    except (TimeoutError, ResultLost) as error:
        raise HTTPException(504, str(error)) from error


@web.get("/totals")
async def totals(articles: Annotated[list[str], Query()]) -> dict[str, int]:
    """Price every article side by side and add up: one canvas, published at once."""
    result = await chord([price.s(article, 1) for article in articles], total.s()).aapply_async()
    return {"total": await result.aget(timeout=30)}
