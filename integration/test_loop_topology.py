"""Declaring, counting, purging, deleting and getting on a real broker."""

import asyncio

import pytest

from amqptasks.amqp import Binding, Exchange, Queue, QueueInfo
from amqptasks.errors import (
    AccessRefused,
    ChannelClosed,
    ImproperlyConfigured,
    NotFound,
    ResourceLocked,
    TopologyMismatch,
)
from integration.support.links import fates, linked, parcel, until

TASKS = Queue("tasks", arguments={"x-queue-type": "quorum", "x-delivery-limit": 20})


def test_exchanges_queues_and_bindings_of_all_kinds(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            infos = await link.declare(
                Exchange("first", "topic"),
                Exchange("second", "headers", internal=True, arguments={"alternate-exchange": "first"}),
                Binding("first", "second", "a.#", kind="exchange"),
                TASKS,
                Queue("other", arguments={"x-queue-type": "classic", "x-max-priority": 4}),
                Binding("second", "tasks", arguments={"x-match": "all", "kind": "short"}),
            )
            await fates(link, [parcel("first", "a.b", headers={"kind": "short"})])

            assert infos == [QueueInfo("tasks", 0, 0), QueueInfo("other", 0, 0)]
            assert await link.purge("tasks") == 1

    asyncio.run(scenario())


def test_declaring_many_is_one_round_trip(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            queues = [Queue(f"q{number}", arguments={"x-queue-type": "classic"}) for number in range(54)]
            assert len(await link.declare(*queues)) == 54
            assert len(await link.declare(*queues, passive=True)) == 54

    asyncio.run(scenario())


def test_a_server_named_queue_tells_its_name(fresh_url: str) -> None:
    async def scenario() -> str:
        async with linked(fresh_url) as link:
            [info] = await link.declare(Queue("", durable=False, exclusive=True, auto_delete=True))
            return info.name

    assert asyncio.run(scenario()).startswith("amq.gen-")


def test_another_argument_is_named_with_both_values(fresh_url: str) -> None:
    async def scenario() -> str:
        async with linked(fresh_url) as link:
            await link.declare(TASKS)
            other = Queue("tasks", arguments={"x-queue-type": "quorum", "x-delivery-limit": 5})
            with pytest.raises(TopologyMismatch) as caught:
                await link.declare(other)
            await link.declare(TASKS)  # the link lives on
            return str(caught.value)

    text = asyncio.run(scenario())

    assert "queue 'tasks'" in text
    assert "exists with x-delivery-limit = 20, and 5 was asked for" in text


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (
            Queue("tasks", arguments={"x-queue-type": "classic"}),
            TASKS,
            "x-queue-type = classic, and quorum",
        ),
        (Queue("tasks"), Queue("tasks", durable=False), "durable = true, and false"),
        (
            Queue("tasks"),
            Queue("tasks", arguments={"x-dead-letter-exchange": "dead"}),
            "x-dead-letter-exchange = none, and 'dead'",
        ),
        (Exchange("tasks"), Exchange("tasks", "topic"), "type = direct, and topic"),
    ],
)
def test_mismatches(fresh_url: str, before: Queue | Exchange, after: Queue | Exchange, named: str) -> None:
    async def scenario() -> str:
        async with linked(fresh_url) as link:
            await link.declare(before)
            with pytest.raises(TopologyMismatch) as caught:
                await link.declare(after)
            return str(caught.value)

    assert named in asyncio.run(scenario())


def test_passively_only_what_exists_is_found(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await link.declare(TASKS)
            await fates(link, [parcel("", "tasks")])
            assert await link.declare(Queue("tasks"), passive=True) == [QueueInfo("tasks", 1, 0)]
            with pytest.raises(NotFound, match="no queue 'absent'"):
                await link.declare(Queue("absent"), passive=True)
            with pytest.raises(NotFound, match="no exchange 'absent'"):
                await link.declare(Exchange("absent"), passive=True)

    asyncio.run(scenario())


def test_the_first_error_of_several_entities_is_raised(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            with pytest.raises(NotFound, match="no exchange 'absent'"):
                await link.declare(TASKS, Binding("absent", "tasks", "k"), Queue("never"))
            assert len(await link.declare(Queue("tasks"), passive=True)) == 1
            with pytest.raises(NotFound):
                await link.declare(Queue("never"), passive=True)

    asyncio.run(scenario())


def test_names_that_belong_to_the_broker(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            with pytest.raises(AccessRefused, match=r"amq\.mine"):
                await link.declare(Queue("amq.mine"))

    asyncio.run(scenario())


def test_a_queue_that_is_anothers_alone(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as owner, linked(fresh_url) as other:
            await owner.declare(Queue("mine", durable=False, exclusive=True))
            with pytest.raises(ResourceLocked, match="'mine'"):
                await other.declare(Queue("mine", durable=False, exclusive=True))

    asyncio.run(scenario())


def test_what_amqp_cannot_say_is_refused_before_it_is_written(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            with pytest.raises(ImproperlyConfigured, match="255 bytes"):
                await link.declare(Queue("ä" * 200))
            with pytest.raises(ImproperlyConfigured, match="arguments are"):
                await link.declare(Queue("tasks", arguments={"x-odd": object()}))
            await link.declare(TASKS)
            assert not link.lost.done()

    asyncio.run(scenario())


def test_deleting(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await link.declare(Queue("tasks", arguments={"x-queue-type": "classic"}))
            await fates(link, [parcel("", "tasks")] * 3)
            with pytest.raises(ChannelClosed, match="not empty"):
                await link.delete_queue("tasks", if_empty=True)
            consumer = await link.consume("tasks", lambda _: None, lambda _: None, prefetch=1)
            with pytest.raises(ChannelClosed, match="in use"):
                await link.delete_queue("tasks", if_unused=True)
            await consumer.close()
            assert await link.delete_queue("tasks") == 3
            assert await link.delete_queue("tasks") == 0

    asyncio.run(scenario())


def test_getting_takes_the_message(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await link.declare(TASKS)
            assert await link.get("tasks") is None
            await fates(link, [parcel("", "tasks", b"x" * 300_000), parcel("", "tasks", b"")])
            first, second = await link.get("tasks"), await link.get("tasks")

            assert first is not None
            assert first.body == b"x" * 300_000
            assert second is not None
            assert second.body == b""
            assert await link.get("tasks") is None
            with pytest.raises(NotFound):
                await link.get("absent")

    asyncio.run(scenario())


def test_many_requests_at_once(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url, timeout=20) as link:
            await link.declare(TASKS)
            answers = await asyncio.gather(*[link.purge("tasks") for _ in range(100)])
            assert answers == [0] * 100
            await until(lambda: not link._stream.channels, "the channels to be closed")

    asyncio.run(scenario())
