"""Calls and answers at the level of messages: every reply counts, also one that no client waits for."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from amqptasks import protocol
from amqptasks.amqp import Address, Delivery, Queue
from amqptasks.serialization import accept_set
from amqptasks.transport import codec
from amqptasks.transport.loop import LoopLink

from .links import Inbox, fates, linked, until
from .waiting import PATIENCE

REPLIES = "fault-replies"
TASKS = "amqptasks"
PROMPT = 0.2
"""Seconds in which a broker answers that has asked the queue itself."""
UNSETTLED = 1000
"""Messages that are acknowledged together: of a quorum queue a consumer has at most 2,000 at a time, whatever it asks."""


def call(
    task: str,
    *args: Any,
    queue: str = TASKS,
    reply_to: str = REPLIES,
    task_id: str = "",
    headers: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A parcel that calls a task on `queue` by the default exchange."""
    message = protocol.TaskMessage(
        id=task_id or str(uuid.uuid4()),
        task=task,
        args=args,
        reply_to=reply_to,
        headers=headers or {},
        **options,
    )
    return codec.pack(protocol.encode(message, Address("", queue)))


def post(url: str, parcels: Sequence[Any]) -> list[Any]:
    """Publish, and what became of each (None: in a queue)."""

    async def scenario() -> list[Any]:
        async with linked(url) as link:
            await link.declare(Queue(REPLIES, arguments={"x-queue-type": "quorum"}))
            return await fates(link, parcels)

    return asyncio.run(scenario())


def send(url: str, parcels: Sequence[Any]) -> None:
    """Publish; every one is in a queue when this returns."""
    answers = post(url, parcels)
    refused = [answer for answer in answers if answer is not None]
    assert not refused, refused[:3]


def count(url: str, queue: str) -> int:
    """Messages ready in a queue."""

    async def scenario() -> int:
        async with linked(url) as link:
            return await _ready(link, queue)

    return asyncio.run(scenario())


async def _ready(link: LoopLink, queue: str) -> int:
    """Of a queue that does not answer in 250 ms RabbitMQ says that it is empty: who hears so late asks again."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + 20 * PATIENCE
    while True:
        asked = clock()
        (info,) = await link.declare(Queue(queue), passive=True)
        if info.messages or clock() - asked < PROMPT or clock() > deadline:
            return info.messages


def take(url: str, queue: str, number: int | None = None) -> list[Delivery]:
    """Consume `number` messages of a queue, or all that lie in it now; what comes meanwhile stays there."""

    async def scenario() -> list[Delivery]:
        async with linked(url) as link:
            wanted = await _ready(link, queue) if number is None else number
            inbox = Inbox()
            consumer = await link.consume(queue, inbox.deliveries.append, inbox.cancelled.append, prefetch=0)
            for last in sorted({*range(UNSETTLED, wanted, UNSETTLED), wanted} - {0}):
                await until(
                    lambda last=last: len(inbox.deliveries) >= last,
                    f"{last} of {wanted} messages in {queue}",
                    20,
                )
                consumer.ack(inbox.deliveries[last - 1].tag, multiple=True)
            return inbox.deliveries[:wanted]

    return asyncio.run(scenario())


def answers(url: str, number: int | None = None) -> list[dict[str, Any]]:
    """Result messages in the reply queue, decoded: `task_id`, `status`, `result` ..."""
    accept = accept_set(["json"])
    return [
        protocol.decode_result(codec.unpack(delivery), accept=accept, limit=1 << 20)
        for delivery in take(url, REPLIES, number)
    ]


def headers(delivery: Delivery) -> Mapping[str, Any]:
    return codec.unpack(delivery).properties.headers or {}
