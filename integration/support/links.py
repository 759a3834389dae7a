"""Links to a real broker, for asyncio scenarios that a test runs with `asyncio.run`."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from amqptasks.amqp import Delivery, Parcel, Properties, Queue
from amqptasks.errors import TransportError
from amqptasks.transport.codec import encode_header
from amqptasks.transport.loop import LoopLink, connect
from amqptasks.transport.url import parse

from .waiting import PATIENCE

TASKS = Queue("tasks", arguments={"x-queue-type": "quorum"})


@contextlib.asynccontextmanager
async def linked(url: str | Sequence[str], **options: Any) -> AsyncIterator[LoopLink]:
    # The default of four seconds for an answer is less than a broker of a busy machine may take.
    link = await connect(parse(url), **{"name": "amqptasks test", "timeout": 30.0, **options})
    try:
        yield link
    finally:
        await link.close()


def parcel(exchange: str, routing_key: str, body: bytes = b"{}", **properties: Any) -> Parcel:
    """A durable message with an id of its own; `properties` are those of `Properties`."""
    message_id = str(uuid.uuid4())
    header = encode_header(
        Properties(
            **{"content_type": "application/json", "delivery_mode": 2, "message_id": message_id} | properties
        )
    )
    return Parcel(exchange, routing_key, header, body, message_id)


async def fates(
    link: LoopLink, parcels: Sequence[Parcel], timeout: float = 30.0
) -> list[TransportError | None]:
    """Post all in one turn of the loop and wait for what became of each."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[TransportError | None]] = []
    for one in parcels:
        future: asyncio.Future[TransportError | None] = loop.create_future()
        link.post(one, future.set_result)
        waiting.append(future)
    return await asyncio.wait_for(asyncio.gather(*waiting), timeout * PATIENCE)


async def filled(link: LoopLink, count: int, queue: Queue = TASKS) -> None:
    """Declare the queue and put `count` messages into it, numbered in their bodies."""
    await link.declare(queue)
    answers = await fates(link, [parcel("", queue.name, str(number).encode()) for number in range(count)])
    assert answers == [None] * count


async def until(condition: Callable[[], Any], what: str = "", timeout: float = 15.0) -> Any:
    """The first true answer of `condition`, asked at every turn of the loop."""
    timeout *= PATIENCE
    deadline = asyncio.get_running_loop().time() + timeout
    while not (answer := condition()):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or condition}")
        await asyncio.sleep(0.005)
    return answer


class Inbox:
    """What a consumer was given, and why it was cancelled."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.cancelled: list[TransportError] = []

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    async def count(self, number: int, timeout: float = 15.0) -> None:
        await until(lambda: len(self.deliveries) >= number, f"{number} deliveries", timeout)
