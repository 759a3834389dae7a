"""The in-process broker: the contract of every link, and what its own tests may provoke."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid

import pytest

from amqptasks.amqp import Binding, Exchange, Queue
from amqptasks.errors import (
    AccessRefused,
    BrokerUnavailable,
    ConnectionLost,
    TopologyMismatch,
    TransportError,
)
from amqptasks.transport import memory
from amqptasks.transport.base import Connect
from amqptasks.transport.memory_broker import MemoryBroker
from amqptasks.transport.memory_routing import headers_match, topic_matches, words

from .contract import CLASSIC, QUORUM, Inbox, LinkContract, count, headers, message, on_loop, send, until


@pytest.fixture
def broker() -> MemoryBroker:
    return memory.broker(f"test-{uuid.uuid4().hex}")


@pytest.fixture
def connect(broker: MemoryBroker) -> Connect:
    return lambda: memory.connect(broker.name)


class TestMemoryLink(LinkContract):
    @pytest.fixture
    def connect(self, broker: MemoryBroker) -> Connect:
        return lambda: memory.connect(broker.name)


# --- faults --------------------------------------------------------------------------------------------------


@on_loop
async def test_dropped_connections_are_lost_and_their_queues_stay(
    connect: Connect, broker: MemoryBroker
) -> None:
    link = await connect()
    await link.declare(Queue("q", arguments=QUORUM))
    await send(link, message("q"))

    broker.drop_connections()
    error = await link.lost

    assert isinstance(error, ConnectionLost)
    assert await count(await connect(), "q") == 1


@on_loop
async def test_refused_connections_raise_what_was_asked_for(connect: Connect, broker: MemoryBroker) -> None:
    broker.refuse_connections(AccessRefused("wrong password"))
    with pytest.raises(AccessRefused):
        await connect()

    broker.refuse_connections()
    with pytest.raises(BrokerUnavailable):
        await connect()

    broker.accept_connections()
    assert not (await connect()).lost.done()


@on_loop
async def test_a_blocked_broker_takes_messages_later_and_tells_who_publishes(
    connect: Connect, broker: MemoryBroker
) -> None:
    publishes, consumes = await connect(), await connect()
    await publishes.declare(Queue("q", arguments=QUORUM))
    told: list[str | None] = []
    publishes.on_blocked = told.append
    fates: list[TransportError | None] = []

    broker.block("low on disk")
    publishes.post(message("q"), fates.append)
    await until(lambda: told == ["low on disk"])
    while_blocked = (list(fates), await count(consumes, "q"), consumes.blocked)
    broker.unblock()
    await until(lambda: fates == [None])

    assert while_blocked == ([], 0, None)
    assert told == ["low on disk", None]
    assert await count(consumes, "q") == 1


@on_loop
async def test_withheld_confirms_leave_a_message_in_doubt(connect: Connect, broker: MemoryBroker) -> None:
    link = await connect()
    await link.declare(Queue("q", arguments=QUORUM))
    fates: list[TransportError | None] = []

    broker.withhold_confirms()
    link.post(message("q"), fates.append)
    broker.drop_connections()
    await until(lambda: fates)

    assert isinstance(fates[0], ConnectionLost)
    assert await count(await connect(), "q") == 1


@on_loop
async def test_time_can_be_let_pass(connect: Connect, broker: MemoryBroker) -> None:
    link = await connect()
    await link.declare(
        Queue("aged", arguments={"x-message-ttl": 3_600_000}),
        Queue("leased", arguments={"x-expires": 3_600_000}),
    )
    await send(link, message("aged"), message("leased"))

    broker.advance(3000)
    before = await count(link, "aged")
    broker.advance(601)

    assert before == 1
    assert await count(link, "aged") == 0
    assert "leased" not in broker.queues


@on_loop
async def test_a_reset_forgets_everything(connect: Connect, broker: MemoryBroker) -> None:
    link = await connect()
    await link.declare(Queue("q"))
    broker.block()

    broker.reset()
    await link.lost

    assert not broker.queues
    assert broker.blocked is None


# --- details of RabbitMQ's that no link contract shows -------------------------------------------------------


@on_loop
async def test_a_message_behind_a_lasting_head_does_not_expire(
    connect: Connect, broker: MemoryBroker
) -> None:
    link = await connect()
    await link.declare(Queue("q"))
    await send(link, message("q", b"lasting"), message("q", b"short", expiration="1000"))

    broker.advance(5)

    assert await count(link, "q") == 2


@on_loop
async def test_dead_letters_that_only_expire_do_not_go_in_circles(
    connect: Connect, broker: MemoryBroker
) -> None:
    link = await connect()
    circle = {"x-message-ttl": 1000, "x-dead-letter-exchange": ""}
    await link.declare(Queue("q", arguments=circle))
    await send(link, message("q"))

    broker.advance(2)

    assert await count(link, "q") == 0


@on_loop
async def test_deaths_are_counted_by_queue_and_reason(connect: Connect, broker: MemoryBroker) -> None:
    link, inbox = await connect(), Inbox()
    await link.declare(Queue("q", arguments={"x-dead-letter-exchange": ""}))
    await send(link, message("q"))
    consumer = await inbox.consume(link, "q")

    for number in range(3):
        await inbox.has(number + 1)
        consumer.reject(inbox.deliveries[-1].tag, requeue=False)
    await inbox.has(4)

    [death] = headers(inbox.deliveries[-1])["x-death"]
    assert (death["count"], death["reason"]) == (3, "rejected")


@on_loop
async def test_a_dead_letter_without_a_way_waits_for_one_at_least_once(connect: Connect) -> None:
    link, inbox, dead = await connect(), Inbox(), Inbox()
    careful = {**QUORUM, "x-dead-letter-exchange": "dlx", "x-dead-letter-strategy": "at-least-once"}
    await link.declare(Queue("q", arguments={**careful, "x-overflow": "reject-publish"}))
    await send(link, message("q", b"kept"))
    consumer = await inbox.consume(link, "q")
    [delivery] = await inbox.has(1)

    consumer.reject(delivery.tag, requeue=False)
    await link.declare(Exchange("dlx", "fanout"), Queue("dead"), Binding("dlx", "dead"))
    await dead.consume(link, "dead")

    await dead.has(1)
    assert dead.bodies == [b"kept"]


@on_loop
async def test_a_quorum_queue_refuses_what_only_classic_ones_have(connect: Connect) -> None:
    link = await connect()

    for queue in (
        Queue("q", arguments={**QUORUM, "x-max-priority": 3}),
        Queue("q", auto_delete=True, arguments=QUORUM),
        Queue("q", arguments={**CLASSIC, "x-delivery-limit": 3}),
    ):
        with pytest.raises(TopologyMismatch):
            await link.declare(queue)


@on_loop
async def test_the_brokers_own_names_are_refused(connect: Connect) -> None:
    link = await connect()

    for entity in (Queue("amq.mine"), Exchange("amq.mine"), Exchange("")):
        with pytest.raises(AccessRefused):
            await link.declare(entity)
    with pytest.raises(TopologyMismatch, match="sideways"):
        await link.declare(Exchange("x", "sideways"))


@on_loop
async def test_a_queue_without_a_name_is_given_one(connect: Connect) -> None:
    link = await connect()

    [info] = await link.declare(Queue("", durable=False, exclusive=True))

    assert info.name.startswith("amq.gen-")


@on_loop
async def test_a_consumer_of_higher_priority_is_served_first(connect: Connect) -> None:
    link, low, high = await connect(), Inbox(), Inbox()
    await link.declare(Queue("q"))
    await low.consume(link, "q", prefetch=5)
    await high.consume(link, "q", prefetch=2, arguments={"x-priority": 9})

    await send(link, *(message("q") for _ in range(3)))
    await until(lambda: len(low.deliveries) + len(high.deliveries) == 3)

    assert (len(low.deliveries), len(high.deliveries)) == (1, 2)


def test_links_of_several_loops_and_threads_meet(broker: MemoryBroker) -> None:
    received: list[bytes] = []
    ready = threading.Event()

    async def receive() -> None:
        link, inbox = await memory.connect(broker.name), Inbox()
        await link.declare(Queue("q"))
        await inbox.consume(link, "q", no_ack=True)
        ready.set()
        await inbox.has(200)
        received.extend(inbox.bodies)

    async def publish() -> None:
        link = await memory.connect(broker.name)
        await send(link, *(message("q", b"%d" % number) for number in range(100)))

    receiver = threading.Thread(target=lambda: asyncio.run(receive()))
    receiver.start()
    assert ready.wait(60)
    publishers = [threading.Thread(target=lambda: asyncio.run(publish())) for _ in range(2)]
    for thread in publishers:
        thread.start()
    for thread in [*publishers, receiver]:
        thread.join(60)

    assert sorted(received) == sorted([b"%d" % number for number in range(100)] * 2)


def test_a_forked_child_starts_with_no_broker(broker: MemoryBroker) -> None:
    held = threading.Event()
    release = threading.Event()

    def hold() -> None:
        with memory._lock:
            held.set()
            release.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    pid = os.fork()
    if not pid:
        os._exit(0 if memory.broker(broker.name) is not broker else 1)
    _, status = os.waitpid(pid, 0)
    release.set()
    holder.join(60)

    assert os.waitstatus_to_exitcode(status) == 0


# --- routing, pure -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a", False),
        ("a.#", "a", True),
        ("#", "", True),
        ("*", "", False),
        ("*.*.1.#", "0.0.1.1.q", True),
        ("#.x.#", "a.b.x", True),
        ("#.x.#", "a.b.y", False),
    ],
)
def test_topic_patterns(pattern: str, key: str, matches: bool) -> None:
    assert topic_matches(words(pattern), words(key)) is matches


def test_headers_patterns() -> None:
    assert headers_match({"x-match": "all"}, {})
    assert headers_match({"a": None}, {"a": 5})
    assert not headers_match({"x-match": "any", "a": 1}, {"b": 1})
    assert headers_match({"x-secret": 1}, {})
    assert not headers_match({"x-match": "all-with-x", "x-secret": 1}, {})
