"""Publishing over outages: order, identity, deadlines, bounds."""

from __future__ import annotations

import asyncio
import functools
import uuid
from collections.abc import Iterator

import pytest

from amqptasks.amqp import Address, Envelope, Parcel, Properties, Queue
from amqptasks.errors import (
    AccessRefused,
    BrokerBlocked,
    BrokerUnavailable,
    ConnectionLost,
    NotFound,
    PublishTimeout,
    TransportError,
    Unroutable,
)
from amqptasks.transport import memory
from amqptasks.transport.base import Link
from amqptasks.transport.codec import decode_header, pack
from amqptasks.transport.keeping import RetryPolicy
from amqptasks.transport.memory_broker import MemoryBroker
from amqptasks.transport.publisher import Publisher

from .contract import Inbox, message, on_loop, until

QUICK = RetryPolicy(max_retries=2, interval_step=0.01, interval_max=0.01)


@pytest.fixture
def broker() -> MemoryBroker:
    return memory.broker(f"test-{uuid.uuid4().hex}")


class Broken:
    """Counts attempts to connect, and fails some."""

    def __init__(self, broker: MemoryBroker, errors: Iterator[Exception] = iter(())) -> None:
        self.attempts = 0
        self._broker = broker
        self._errors = errors

    async def __call__(self) -> Link:
        self.attempts += 1
        error = next(self._errors, None)
        if error is not None:
            raise error
        return await memory.connect(self._broker.name)


async def declared(broker: MemoryBroker, queue: str = "q", **arguments: object) -> Link:
    link = await memory.connect(broker.name)
    await link.declare(Queue(queue, arguments=arguments))
    return link


async def bodies(broker: MemoryBroker, number: int) -> list[bytes]:
    link, inbox = await memory.connect(broker.name), Inbox()
    await inbox.consume(link, "q", no_ack=True)
    await inbox.has(number)
    await link.close()
    return inbox.bodies


# --- over outages --------------------------------------------------------------------------------------------


@on_loop
async def test_the_unconfirmed_is_sent_again_in_order_under_its_id(broker: MemoryBroker) -> None:
    await declared(broker)
    publisher = Publisher(Broken(broker))
    await publisher.start()
    fates: list[TransportError | None] = []
    parcels = [message("q", b"%d" % number) for number in range(20)]

    broker.block()
    for parcel in parcels[:10]:
        publisher.post(parcel, fates.append)
    broker.drop_connections()
    await until(lambda: publisher.link is None)
    for parcel in parcels[10:]:
        publisher.post(parcel, fates.append)
    broker.unblock()
    left = await publisher.drain(60)

    assert (left, fates, publisher.reconnects) == (0, [None] * 20, 1)
    link, inbox = await memory.connect(broker.name), Inbox()
    await inbox.consume(link, "q", no_ack=True)
    await inbox.has(20)
    assert inbox.bodies == [parcel.body for parcel in parcels]
    assert [decode_header(each.header).message_id for each in inbox.deliveries] == [
        p.message_id for p in parcels
    ]
    await publisher.close()


@on_loop
async def test_a_message_in_doubt_is_doubled_rather_than_lost_and_answered_once(broker: MemoryBroker) -> None:
    await declared(broker)
    publisher = Publisher(Broken(broker))
    await publisher.start()
    fates: list[TransportError | None] = []

    broker.withhold_confirms()
    publisher.post(message("q", b"doubt"), fates.append)
    broker.drop_connections()
    broker.release_confirms()
    await until(lambda: fates)
    await publisher.drain(60)

    assert fates == [None]
    assert await bodies(broker, 2) == [b"doubt", b"doubt"]
    await publisher.close()


@on_loop
async def test_a_worker_waits_for_its_broker(broker: MemoryBroker) -> None:
    await declared(broker)
    connect = Broken(broker, iter([BrokerUnavailable("down")] * 3))
    publisher = Publisher(connect)
    fates: list[TransportError | None] = []

    publisher.post(message("q"), fates.append)
    await until(lambda: fates)

    assert fates == [None]
    assert connect.attempts == 4
    await publisher.close()


@on_loop
async def test_a_worker_is_told_at_its_start_what_no_retry_mends(broker: MemoryBroker) -> None:
    connect = Broken(broker, iter([AccessRefused("wrong password")]))
    publisher = Publisher(connect)

    with pytest.raises(AccessRefused, match="wrong password"):
        await publisher.start()

    assert connect.attempts == 1
    await publisher.close()


@on_loop
async def test_once_connected_a_worker_waits_for_its_password_to_be_put_right(broker: MemoryBroker) -> None:
    await declared(broker)
    connect = Broken(broker)
    publisher = Publisher(connect)
    await publisher.start()
    connect._errors = iter([AccessRefused("rotated"), AccessRefused("rotated")])
    fates: list[TransportError | None] = []

    broker.drop_connections()
    publisher.post(message("q"), fates.append)
    await until(lambda: fates)

    assert fates == [None]
    assert connect.attempts == 4
    await publisher.close()


# --- a client's policy ---------------------------------------------------------------------------------------


@on_loop
async def test_a_client_connects_on_demand_and_not_again_without(broker: MemoryBroker) -> None:
    await declared(broker)
    connect = Broken(broker)
    publisher = Publisher(connect, policy=QUICK)
    before = connect.attempts
    fates: list[TransportError | None] = []

    publisher.post(message("q"), fates.append)
    await until(lambda: fates)
    broker.drop_connections()
    await until(lambda: publisher.link is None)
    idle = connect.attempts
    publisher.post(message("q"), fates.append)
    await until(lambda: len(fates) == 2)

    assert (before, idle, connect.attempts) == (0, 1, 2)
    await publisher.close()


@on_loop
async def test_each_message_of_a_client_has_its_share_of_attempts(broker: MemoryBroker) -> None:
    connect = Broken(broker, iter([BrokerUnavailable(f"down {number}") for number in range(99)]))
    publisher = Publisher(connect, policy=QUICK)
    fates: list[TransportError | None] = []

    publisher.post(message("q"), fates.append)
    await until(lambda: connect.attempts == 2)
    publisher.post(message("q"), fates.append)
    await until(lambda: len(fates) == 2)

    assert [str(fate) for fate in fates] == ["down 2", "down 4"]
    assert all(isinstance(fate, BrokerUnavailable) for fate in fates)
    await publisher.close()


@on_loop
async def test_a_refusal_for_good_fails_a_clients_messages_at_once(broker: MemoryBroker) -> None:
    connect = Broken(broker, iter([AccessRefused("wrong password")]))
    publisher = Publisher(connect, policy=QUICK)
    fates: list[TransportError | None] = []

    for _ in range(3):
        publisher.post(message("q"), fates.append)
    await until(lambda: len(fates) == 3)

    assert [type(fate) for fate in fates] == [AccessRefused] * 3
    assert len({id(fate) for fate in fates}) == 3
    assert connect.attempts == 1
    await publisher.close()


@on_loop
async def test_a_message_posted_by_the_callback_of_a_failed_one_is_not_forgotten(
    broker: MemoryBroker,
) -> None:
    await declared(broker)
    publisher = Publisher(Broken(broker, iter([AccessRefused("once")])), policy=QUICK)
    fates: list[TransportError | None] = []

    publisher.post(message("q"), lambda _: publisher.post(message("q"), fates.append))
    await until(lambda: fates)

    assert fates == [None]
    await publisher.close()


@on_loop
async def test_a_connect_that_breaks_in_our_own_code_fails_messages_instead_of_keeping_them(
    broker: MemoryBroker,
) -> None:
    publisher = Publisher(Broken(broker, iter([ZeroDivisionError("oops")])), policy=QUICK)
    fates: list[TransportError | None] = []

    publisher.post(message("q"), fates.append)
    await until(lambda: fates)

    assert isinstance(fates[0], BrokerUnavailable)
    assert "oops" in str(fates[0])
    await publisher.close()


# --- deadlines -----------------------------------------------------------------------------------------------


@on_loop
async def test_a_deadline_names_why_nothing_came(broker: MemoryBroker) -> None:
    await declared(broker)
    fates: list[TransportError | None] = []
    unreachable = Publisher(Broken(broker, iter([BrokerUnavailable("down")] * 999)), give_up_after=0.05)
    reachable = Publisher(Broken(broker), give_up_after=0.05)
    await reachable.start()

    unreachable.post(message("q"), fates.append)
    await until(lambda: len(fates) == 1)
    broker.withhold_confirms()
    reachable.post(message("q"), fates.append)
    await until(lambda: len(fates) == 2)
    broker.block("low on memory")
    reachable.post(message("q"), fates.append)
    await until(lambda: len(fates) == 3)

    assert [type(fate) for fate in fates] == [BrokerUnavailable, PublishTimeout, BrokerBlocked]
    assert "down" in str(fates[0])
    assert "low on memory" in str(fates[2])
    await unreachable.close()
    await reachable.close()


@on_loop
async def test_an_earlier_deadline_is_kept_behind_a_later_one(broker: MemoryBroker) -> None:
    await declared(broker)
    publisher = Publisher(Broken(broker))
    await publisher.start()
    broker.withhold_confirms()
    now = asyncio.get_running_loop().time()
    fates: dict[str, TransportError | None] = {}

    publisher.post(message("q"), functools.partial(fates.__setitem__, "late"), now + 3600)
    publisher.post(message("q"), functools.partial(fates.__setitem__, "soon"), now + 0.05)
    await until(lambda: fates)

    assert list(fates) == ["soon"]
    assert publisher.pending == 1
    await publisher.close()


@on_loop
async def test_what_was_given_up_while_blocked_is_never_sent(broker: MemoryBroker) -> None:
    await declared(broker)
    publisher = Publisher(Broken(broker))
    await publisher.start()
    fates: list[TransportError | None] = []
    broker.block()
    publisher.post(message("q", b"tells that it is blocked"), fates.append)
    await until(lambda: publisher.blocked)

    publisher.post(message("q", b"given up"), fates.append, asyncio.get_running_loop().time() + 0.05)
    await until(lambda: fates)
    broker.unblock()
    publisher.post(message("q", b"after"), fates.append)
    await publisher.drain(60)

    assert [type(fate) for fate in fates] == [BrokerBlocked, type(None), type(None)]
    assert await bodies(broker, 2) == [b"tells that it is blocked", b"after"]
    await publisher.close()


# --- bounds and fates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [{"limit_messages": 8}, {"limit_bytes": 8 * 1000}], ids=["messages", "bytes"]
)
@on_loop
async def test_it_is_saturated_until_a_quarter_is_free(broker: MemoryBroker, limits: dict[str, int]) -> None:
    await declared(broker)
    told: list[tuple[int, bool]] = []
    publisher = Publisher(
        Broken(broker), on_room=lambda: told.append((publisher.pending, publisher.saturated)), **limits
    )
    await publisher.start()
    broker.withhold_confirms()
    seen = []
    for _ in range(8):
        publisher.post(message("q", b"x" * 1000), lambda error: None)
        seen.append(publisher.saturated)
    size = publisher.pending_bytes
    broker.release_confirms()
    await publisher.drain(60)

    assert seen[-1] is True
    assert seen[0] is False
    assert size >= 8000
    assert len(told) == 1
    assert told[0][0] <= 6
    assert told[0][1] is False
    assert publisher.pending_bytes == 0
    await publisher.close()


@pytest.mark.parametrize(
    ("policy", "dropped"), [(RetryPolicy(), [type(None), type(None)]), (None, [Unroutable, NotFound])]
)
def test_an_unroutable_message_that_is_to_be_dropped_counts_as_delivered_but_for_a_worker(
    broker: MemoryBroker, policy: RetryPolicy | None, dropped: list[type]
) -> None:
    """Who has no policy counts what was dropped."""

    @on_loop
    async def scenario() -> None:
        publisher = Publisher(Broken(broker), policy=policy)
        fates: list[TransportError | None] = []

        def envelope(exchange: str, fate: str) -> Parcel:
            return pack(Envelope(Address(exchange, "nowhere"), b"", Properties(), fate))  # type: ignore[arg-type]

        for parcel in (
            envelope("", "drop"),
            envelope("gone", "drop"),
            envelope("gone", "event"),
            envelope("", "dead"),
            envelope("gone", "raise"),
        ):
            publisher.post(parcel, fates.append)
        await until(lambda: len(fates) == 5)

        assert [type(fate) for fate in fates] == [*dropped, type(None), Unroutable, NotFound]
        await publisher.close()

    scenario()


# --- the end -------------------------------------------------------------------------------------------------


@on_loop
async def test_close_waits_for_confirms_then_fails_the_rest(broker: MemoryBroker) -> None:
    await declared(broker)
    publisher = Publisher(Broken(broker))
    await publisher.start()
    fates: list[TransportError | None] = []
    broker.withhold_confirms()
    publisher.post(message("q"), fates.append)
    asyncio.get_running_loop().call_later(0.02, broker.release_confirms)

    await publisher.close(60)
    confirmed = list(fates)
    publisher.post(message("q"), fates.append)

    assert confirmed == [None]
    assert isinstance(fates[1], ConnectionLost)
    with pytest.raises(ConnectionLost):
        await publisher.connected()


@on_loop
async def test_close_without_an_answer_is_bounded_and_says_so(broker: MemoryBroker) -> None:
    await declared(broker)
    publisher = Publisher(Broken(broker))
    await publisher.start()
    fates: list[TransportError | None] = []
    broker.withhold_confirms()
    publisher.post(message("q"), fates.append)

    left = await publisher.drain(0.02)
    await publisher.close(0.02)

    assert left == 1
    assert isinstance(fates[0], ConnectionLost)
    assert "may have arrived" in str(fates[0])


@on_loop
async def test_what_somebody_gives_up_anyway_is_waited_for_briefly(broker: MemoryBroker) -> None:
    await declared(broker)
    publisher, fates = Publisher(Broken(broker)), []
    await publisher.start()
    broker.withhold_confirms()
    loop = asyncio.get_running_loop()

    publisher.post(message("q", b"heartbeat"), fates.append, loop.time() + 600)
    async with asyncio.timeout(60):
        assert await publisher.drain(600, brief=0.02) == 1

    publisher.post(message("q", b"result"), fates.append)
    draining = asyncio.create_task(publisher.drain(600, brief=0.02))
    await asyncio.sleep(0.2)
    assert not draining.done(), "this one has no deadline"
    broker.release_confirms()
    assert await asyncio.wait_for(draining, 10) == 0
    assert fates == [None, None]
    await publisher.close()


@on_loop
async def test_close_while_the_broker_is_away_ends_the_attempts(broker: MemoryBroker) -> None:
    connect = Broken(broker, iter([BrokerUnavailable("down")] * 999))
    publisher = Publisher(connect)
    publisher.post(message("q"), lambda error: None)
    await until(lambda: connect.attempts)

    await publisher.close()
    attempts = connect.attempts
    await asyncio.sleep(0)

    assert publisher.pending == 0
    assert connect.attempts == attempts
    assert "closed" in repr(publisher)


def test_the_policys_delays_grow_to_their_most() -> None:
    policy = RetryPolicy(interval_start=0.5, interval_step=0.2, interval_max=0.5)

    delays = policy.delays()

    assert [round(next(delays), 1) for _ in range(5)] == [0.5, 0.7, 0.9, 1.0, 1.0]
