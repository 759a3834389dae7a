"""Confirmed publishing against a real broker: what is confirmed, what is refused, and what neighbours suffer."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from broker import PrivateNode

from amqptasks.amqp import Binding, Exchange, Queue
from amqptasks.errors import (
    AccessRefused,
    BrokerBlocked,
    BrokerUnavailable,
    ChannelClosed,
    ConnectionLost,
    Nacked,
    NotFound,
    TooLarge,
    TransportError,
    Unroutable,
)
from amqptasks.transport.codec import unpack
from amqptasks.transport.loop import LoopLink, connect
from amqptasks.transport.url import parse
from integration.support import Proxy
from integration.support.links import Inbox, fates, linked, parcel, until


async def topology(link: LoopLink, name: str = "tasks", kind: str = "quorum", **arguments: object) -> None:
    """An exchange with one queue, both called `name`, bound by `name`."""
    queue = Queue(name, arguments={"x-queue-type": kind, **arguments})
    await link.declare(Exchange(name), queue, Binding(name, name, name))


async def drain(link: LoopLink, queue: str = "tasks") -> list[str]:
    """The message ids in the queue, in order."""
    found = []
    while (delivery := await link.get(queue)) is not None:
        found.append(unpack(delivery).properties.message_id or "")
    return found


def kept_order(found: list[str], wanted: list[str]) -> bool:
    """Whether, repetitions aside, all that was wanted was found in its order."""
    return list(dict.fromkeys(found)) == wanted


# --- confirmed -------------------------------------------------------------------------------------------


def test_a_batch_is_confirmed_and_in_order(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await topology(link)
            parcels = [parcel("tasks", "tasks") for _ in range(300)]

            assert await fates(link, parcels) == [None] * 300
            assert await drain(link) == [one.message_id for one in parcels]

    asyncio.run(scenario())


@pytest.mark.parametrize("frame_max", [8192, 131_072])
def test_ten_megabytes_both_ways(fresh_url: str, frame_max: int) -> None:
    body = bytes(range(256)) * 40_960

    async def scenario() -> None:
        async with linked(fresh_url, frame_max=frame_max, timeout=20) as link:
            await topology(link)
            inbox = Inbox()
            consumer = await link.consume(
                "tasks", inbox.deliveries.append, inbox.cancelled.append, prefetch=10
            )

            assert (
                await fates(link, [parcel("tasks", "tasks", body), parcel("tasks", "tasks", b"")])
                == [None] * 2
            )
            await inbox.count(2)
            assert inbox.bodies == [body, b""]
            consumer.ack(inbox.deliveries[-1].tag, multiple=True)
            assert link._stream.frame_max == frame_max

    asyncio.run(scenario())


def test_posting_from_a_callback_is_allowed(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await topology(link)
            seen: list[TransportError | None] = []

            def again(error: TransportError | None) -> None:
                seen.append(error)
                if len(seen) < 5:
                    link.post(parcel("tasks", "tasks"), again)

            link.post(parcel("tasks", "tasks"), again)
            await until(lambda: len(seen) == 5)
            assert seen == [None] * 5

    asyncio.run(scenario())


# --- refused, one among many -----------------------------------------------------------------------------


def test_an_unroutable_message_in_the_middle_of_a_batch(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await topology(link)
            parcels = [parcel("tasks", "nowhere" if number in {7, 50} else "tasks") for number in range(100)]
            answers = await fates(link, parcels)

            assert [number for number, error in enumerate(answers) if error] == [7, 50]
            assert isinstance(answers[7], Unroutable)
            assert "exchange 'tasks', routing key 'nowhere'" in str(answers[7])
            assert answers[7].envelopes == (parcels[7],)
            assert len(await drain(link)) == 98

    asyncio.run(scenario())


def test_a_missing_exchange_in_the_middle_of_a_thousand(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await topology(link)
            parcels = [parcel("gone" if number == 500 else "tasks", "tasks") for number in range(1000)]
            answers = await fates(link, parcels)

            assert [number for number, error in enumerate(answers) if error] == [500]
            assert isinstance(answers[500], NotFound)
            assert "no exchange 'gone'" in str(answers[500])
            assert kept_order(
                await drain(link), [one.message_id for one in parcels if one.exchange == "tasks"]
            )

    asyncio.run(scenario())


def test_an_exchange_that_may_not_be_written_to(node: PrivateNode, fresh_vhost: str) -> None:
    node.eval('rabbit_auth_backend_internal:add_user(<<"limited">>, <<"limited">>, <<"t">>)')
    node.eval(
        f'rabbit_auth_backend_internal:set_permissions(<<"limited">>, <<"{fresh_vhost}">>, '
        '<<".*">>, <<"tasks">>, <<".*">>, <<"t">>)'
    )

    async def scenario() -> None:
        async with linked(node.url(fresh_vhost)) as admin:
            await topology(admin)
            await topology(admin, "secret")
        async with linked(node.url(fresh_vhost).replace("guest:guest", "limited:limited")) as link:
            parcels = [parcel("secret" if number == 20 else "tasks", "tasks") for number in range(50)]
            answers = await fates(link, parcels)

            assert [number for number, error in enumerate(answers) if error] == [20]
            assert isinstance(answers[20], AccessRefused)
            assert "'secret'" in str(answers[20])

    try:
        asyncio.run(scenario())
    finally:
        node.eval('rabbit_auth_backend_internal:delete_user(<<"limited">>, <<"t">>)')


def test_an_offender_whom_the_broker_does_not_name(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await topology(link)
            bad = {10, 30}
            parcels = [
                parcel("tasks", "tasks", **({"expiration": "soon"} if number in bad else {}))
                for number in range(60)
            ]
            answers = await fates(link, parcels)

            assert {number for number, error in enumerate(answers) if error} == bad
            assert isinstance(answers[10], ChannelClosed)
            assert "expiration" in str(answers[10])
            innocent = [one.message_id for number, one in enumerate(parcels) if number not in bad]
            assert kept_order(await drain(link), innocent)
            assert await fates(link, [parcel("tasks", "tasks")] * 3) == [None] * 3

    asyncio.run(scenario())


def test_a_full_queue_nacks(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await topology(link, kind="classic", **{"x-max-length": 5, "x-overflow": "reject-publish"})
            answers = await fates(link, [parcel("tasks", "tasks") for _ in range(20)])

            refused = [error for error in answers if error is not None]
            assert len(refused) == 15
            assert all(isinstance(error, Nacked) for error in refused)
            assert "x-max-length" in str(refused[0])

    asyncio.run(scenario())


# --- too large -------------------------------------------------------------------------------------------


def test_what_is_too_large_is_refused_before_it_is_written(fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url, max_message_size=1000) as link:
            await topology(link)
            parcels = [
                parcel("tasks", "tasks"),
                parcel("tasks", "tasks", b"x" * 1001),
                parcel("tasks", "tasks", headers={"big": "x" * 140_000}),
                parcel("tasks", "tasks", headers={"fits": "x" * 130_000}),
            ]
            answers = await fates(link, parcels)

            assert [type(error) for error in answers] == [type(None), TooLarge, TooLarge, type(None)]
            assert "1001 bytes and the broker takes 1000" in str(answers[1])
            assert not link.lost.done()

    asyncio.run(scenario())


def test_a_body_over_the_brokers_own_limit(node: PrivateNode, fresh_url: str) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link:
            await topology(link)
            parcels = [
                parcel("tasks", "tasks", b"x" * (100_001 if number == 5 else 10)) for number in range(20)
            ]
            answers = await fates(link, parcels)

            assert [number for number, error in enumerate(answers) if error] == [5]
            assert isinstance(answers[5], TooLarge)

    node.eval("application:set_env(rabbit,max_message_size,100000)")
    try:
        asyncio.run(scenario())
    finally:
        node.eval("application:set_env(rabbit,max_message_size,134217728)")


# --- lost and blocked ------------------------------------------------------------------------------------


def test_a_loss_answers_all_that_is_pending(proxy: Proxy, fresh_vhost: str) -> None:
    async def scenario() -> None:
        link = await connect(parse(proxy.url(fresh_vhost)), name="test")
        await topology(link)
        proxy.swallow_confirms()
        sent = proxy.passed("c2s")
        waiting = asyncio.create_task(fates(link, [parcel("tasks", "tasks") for _ in range(50)]))  # noqa: RUF006  it is awaited below
        await until(lambda: proxy.passed("c2s") > sent + 1000)
        proxy.rst()
        answers = await waiting

        assert all(isinstance(error, ConnectionLost) for error in answers)
        assert [type(error) for error in await fates(link, [parcel("tasks", "tasks")])] == [ConnectionLost]
        await link.close()

    asyncio.run(scenario())


@pytest.fixture
def alarm(node: PrivateNode) -> Iterator[None]:
    """The memory alarm, set while the test runs."""
    node.eval("vm_memory_monitor:set_vm_memory_high_watermark(0.0)")
    yield
    clear(node)


def clear(node: PrivateNode) -> None:
    node.eval("vm_memory_monitor:set_vm_memory_high_watermark({absolute, 2000000000})")


def test_a_memory_alarm_blocks_and_lets_go(node: PrivateNode, fresh_url: str, alarm: None) -> None:
    async def scenario() -> None:
        async with linked(fresh_url) as link, linked(fresh_url) as other:
            link._timeout = 0.5  # only now: on a busy machine the handshake may take longer
            said: list[str | None] = []
            link.on_blocked = said.append
            await topology(other)
            waiting = asyncio.create_task(fates(link, [parcel("tasks", "tasks") for _ in range(5)]))  # noqa: RUF006  it is awaited below
            await until(lambda: link.blocked)

            assert link.blocked == "low on memory"
            with pytest.raises(BrokerBlocked):
                await link.purge("tasks")
            assert not waiting.done()
            await asyncio.to_thread(clear, node)
            assert await waiting == [None] * 5
            assert link.blocked is None
            assert said == ["low on memory", None]

    asyncio.run(scenario())


def test_a_blocked_link_is_closed_without_an_answer_that_nobody_sends(fresh_url: str, alarm: None) -> None:
    """The broker does not read it until the alarm is over."""

    async def scenario() -> None:
        link = await connect(parse(fresh_url), name="test", timeout=60)
        link.post(parcel("", "nowhere"), lambda error: None)
        await until(lambda: link.blocked)

        await asyncio.wait_for(link.close(), 20)

    asyncio.run(scenario())


def test_a_link_is_ended_that_stays_blocked(fresh_url: str, alarm: None) -> None:
    async def scenario() -> None:
        link = await connect(parse(fresh_url), name="test", blocked_timeout=0.3)
        [answer] = await fates(link, [parcel("", "nowhere")])

        assert isinstance(answer, BrokerBlocked)
        assert isinstance(await link.lost, BrokerBlocked)

    asyncio.run(scenario())


def test_a_request_that_is_not_answered_is_an_error_in_time(proxy: Proxy, fresh_vhost: str) -> None:
    async def scenario() -> float:
        link = await connect(parse(proxy.url(fresh_vhost)), name="test")
        link._timeout = 0.4
        proxy.blackhole("both")
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"no answer to purging 'q' within 0\.4 s"):
            await link.purge("q")
        taken = time.monotonic() - started
        await link.close()
        return taken

    assert asyncio.run(scenario()) < 20
