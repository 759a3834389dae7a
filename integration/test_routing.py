"""What routing declares, on a real broker: every kind of queue, its dead letters, its definitions, its Celery twin."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from broker import PrivateNode
from celery import Celery

from amqptasks.amqp import Delivery, Exchange
from amqptasks.config import Config
from amqptasks.entities import LOST, celery_task_queues, export, policies
from amqptasks.routing import Queue, Router
from amqptasks.transport.loop import LoopLink
from integration.support.links import fates, linked, parcel, until

QUEUES = [
    Queue("plain"),
    Queue("video", Exchange("media", "topic"), "video.#"),
    Queue("first", priority=10),
    Queue("sorted", Exchange("sorter", "headers"), "", binding_arguments={"x-match": "all", "kind": "long"}),
    Queue("everyone", Exchange("news", "fanout")),
    Queue("both", bindings=[(Exchange("media", "topic"), "both.#")]),
]


def router(**settings: Any) -> Router:
    return Router(Config({"task_queues": QUEUES, **settings}, environ={}))


@pytest.mark.parametrize("name", [queue.name for queue in QUEUES])
@pytest.mark.parametrize("arguments", ["full", "minimal"])
def test_a_call_reaches_its_queue(fresh_url: str, name: str, arguments: str) -> None:
    made = router(queue_arguments=arguments)
    route = made.route("proj.add", (), {}, {"queue": name})

    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await link.declare(*made.topology(name))
            message = parcel(
                route.address.exchange,
                route.address.routing_key,
                headers=dict(route.options.get("headers", {})),
            )
            assert await fates(link, [message]) == [None]

            found = await link.get(name)

        assert found is not None

    asyncio.run(scenario())


def test_a_rejected_message_lies_in_the_dead_letter_queue(fresh_url: str) -> None:
    made = router()

    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await link.declare(*made.topology("plain"), *made.topology("first"))
            await fates(link, [parcel("amqptasks", "plain"), parcel("amqptasks", "first")])
            for name in ("plain", "first"):
                await rejected(link, name)

            for name in ("plain.dead", "first.dead"):
                await arrived(link, name)

    asyncio.run(scenario())


def test_a_dead_letter_without_a_queue_is_not_lost(fresh_url: str) -> None:
    made = router()

    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await link.declare(*made.topology("plain"))

            assert await fates(link, [parcel("amqptasks.dead", "unknown queue")]) == [None]

            await arrived(link, LOST)

    asyncio.run(scenario())


async def rejected(link: LoopLink, queue: str) -> None:
    taken: list[Delivery] = []
    consumer = await link.consume(queue, taken.append, lambda reason: None, prefetch=1)
    await until(lambda: taken, "the message")
    consumer.reject(taken[0].tag, requeue=False)


async def arrived(link: LoopLink, queue: str) -> None:
    taken: list[Delivery] = []
    await link.consume(queue, taken.append, lambda reason: None, prefetch=1, no_ack=True)
    await until(lambda: taken, f"a message in {queue}")


def test_exported_definitions_are_what_we_declare(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path
) -> None:
    made = router()
    entities = [entity for queue in made.select() for entity in made.topology(queue.name)]
    file = tmp_path / "definitions.json"
    file.write_text(json.dumps(export(entities, vhost=fresh_vhost)))

    node.ctl("import_definitions", str(file))

    async def scenario() -> None:
        async with linked(node.url(fresh_vhost)) as link:
            await link.declare(*entities)  # any difference is a 406

    asyncio.run(scenario())


def test_policies_make_up_for_minimal_arguments(node: PrivateNode, fresh_vhost: str, tmp_path: Path) -> None:
    made = router(queue_arguments="minimal")
    entities = [entity for queue in made.select() for entity in made.topology(queue.name)]
    file = tmp_path / "definitions.json"
    file.write_text(json.dumps(export(entities, policies(made.select(), made.conf), fresh_vhost)))

    node.ctl("import_definitions", str(file))

    async def scenario() -> None:
        async with linked(node.url(fresh_vhost)) as link:
            await fates(link, [parcel("amqptasks", "plain")])
            await rejected(link, "plain")

            await arrived(link, "plain.dead")

    asyncio.run(scenario())


def test_celery_declares_the_same_queues(fresh_url: str) -> None:
    made = router()
    names: dict[str, Any] = {}
    exec(celery_task_queues(made.select()), names)
    theirs = Celery(broker=fresh_url, set_as_current=False, task_queues=names["task_queues"])

    with theirs.connection() as connection:
        for queue in names["task_queues"]:
            queue(connection.default_channel).declare()

    async def scenario() -> None:
        async with linked(fresh_url) as link:
            for queue in made.select():
                await link.declare(*made.topology(queue.name))  # any difference is a 406

    asyncio.run(scenario())
