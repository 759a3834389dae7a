"""One consumer without a broker: what it is given, what it writes, how it ends; what a 4.3 broker would say."""

from __future__ import annotations

import asyncio
from typing import Any

import pika.frame
import pytest
from pika import spec

from amqptasks.amqp import Delivery
from amqptasks.errors import (
    BrokerBlocked,
    BrokerUnavailable,
    ChannelClosed,
    ConnectionLost,
    ImproperlyConfigured,
    NotFound,
    TransportError,
)
from amqptasks.transport.channels import Answer, Channel, within
from amqptasks.transport.consuming import LoopConsumer

from .contract import on_loop, until
from .scripted import Peer, deliver, message_bytes, methods_bytes


async def wait(answers: list[asyncio.Future[Answer]], what: str) -> list[Answer]:
    return await within(5, answers, what)


class Bench:
    """A consumer on channel 1 of a scripted peer."""

    def __init__(self, peer: Peer | None = None) -> None:
        self.peer = peer or Peer().open()
        self.given: list[Delivery] = []
        self.cancelled: list[TransportError] = []
        self.consumer = LoopConsumer(
            self.peer.stream, "q", self.given.append, self.cancelled.append, wait=wait
        )

    @property
    def number(self) -> int:
        return self.consumer.number

    async def started(self, prefetch: int = 10) -> Bench:
        starting = asyncio.create_task(
            self.consumer.start(prefetch, "mine", no_ack=False, exclusive=False, arguments=None)
        )
        await asyncio.sleep(0)
        self.say(spec.Channel.OpenOk(), spec.Basic.QosOk(), spec.Basic.ConsumeOk("mine"))
        await starting
        self.peer.heard()
        return self

    def say(self, *methods: Any) -> None:
        self.peer.say(self.number, *methods)


# --- deliveries ------------------------------------------------------------------------------------------


@on_loop
async def test_starting_is_one_write() -> None:
    bench = Bench()
    starting = asyncio.create_task(
        bench.consumer.start(7, "mine", no_ack=True, exclusive=False, arguments={"x-priority": 1})
    )
    await asyncio.sleep(0)
    opening, qos, consume = [method for _, method in bench.peer.heard()]
    bench.say(spec.Channel.OpenOk(), spec.Basic.QosOk(), spec.Basic.ConsumeOk("mine"))
    await starting

    assert isinstance(opening, spec.Channel.Open)
    assert (qos.prefetch_count, qos.global_qos) == (7, False)
    assert (consume.queue, consume.consumer_tag, consume.no_ack) == ("q", "mine", True)
    assert consume.arguments == {"x-priority": 1}


@on_loop
async def test_frames_of_two_consumers_may_alternate() -> None:
    one = await Bench().started()
    two = await Bench(one.peer).started()
    first = message_bytes(one.number, deliver(1, "e", "k1"), b"\0\1", b"a" * 300, frame_max=100)
    second = message_bytes(two.number, deliver(1, "", "k2", again=True), b"\0\2", b"b")
    half = len(methods_bytes(one.number, deliver(1, "e", "k1"))) + 22
    one.peer.stream.data_received(first[:half] + second + first[half:])

    [a], [b] = one.given, two.given
    assert (a.exchange, a.routing_key, a.header, a.body, a.redelivered) == (
        "e",
        "k1",
        b"\0\1",
        b"a" * 300,
        False,
    )
    assert (b.exchange, b.routing_key, b.header, b.body, b.redelivered) == ("", "k2", b"\0\2", b"b", True)
    assert a.generation != b.generation


@on_loop
async def test_deliveries_and_acks_pass_pika_s_frames_by(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = await Bench().started()
    said = b"".join(message_bytes(bench.number, deliver(tag), b"\0\0", b"{}") for tag in range(1, 101))
    monkeypatch.setattr(pika.frame, "decode_frame", None)
    monkeypatch.setattr(pika.frame, "Method", None)
    bench.peer.stream.data_received(said)
    bench.consumer.ack(100, multiple=True)

    assert len(bench.given) == 100


@on_loop
async def test_exchange_and_key_are_those_of_each_delivery() -> None:
    bench = await Bench().started()
    for tag, key in enumerate(["a", "a", "b", "ü", "a"], 1):
        bench.peer.say_message(bench.number, deliver(tag, "e", key), b"\0\0", b"")

    assert [(one.tag, one.routing_key) for one in bench.given] == [
        (1, "a"),
        (2, "a"),
        (3, "b"),
        (4, "ü"),
        (5, "a"),
    ]


@on_loop
async def test_what_arrives_after_close_is_dropped() -> None:
    bench = await Bench().started()
    closing = asyncio.create_task(bench.consumer.close())
    await asyncio.sleep(0)
    bench.peer.say_message(bench.number, deliver(1), b"\0\0", b"late")
    bench.consumer.ack(1)
    bench.say(spec.Channel.CloseOk())
    await closing

    assert bench.given == []
    assert bench.peer.names() == ["Channel.Close"]
    assert bench.peer.stream.channels == {}


# --- settling --------------------------------------------------------------------------------------------


@on_loop
async def test_settling_is_what_it_says() -> None:
    bench = await Bench().started()
    bench.consumer.ack(5, multiple=True)
    bench.consumer.reject(6, requeue=False)
    bench.consumer.nack(7)
    ack, reject, nack = [method for _, method in bench.peer.heard()]

    assert (ack.delivery_tag, ack.multiple) == (5, True)
    assert (reject.delivery_tag, reject.requeue) == (6, False)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (7, False, True)


# --- another prefetch ------------------------------------------------------------------------------------


@on_loop
async def test_renew_is_one_write_and_deliveries_go_on_meanwhile() -> None:
    bench = await Bench().started()
    renewing = asyncio.create_task(bench.consumer.renew(100_000))
    await asyncio.sleep(0)
    cancel, qos, consume = [method for _, method in bench.peer.heard()]
    bench.peer.say_message(bench.number, deliver(1, consumer="mine"), b"\0\0", b"of the old one")
    bench.say(spec.Basic.CancelOk("mine"), spec.Basic.QosOk(), spec.Basic.ConsumeOk(consume.consumer_tag))
    bench.peer.say_message(
        bench.number, deliver(2, consumer=consume.consumer_tag), b"\0\0", b"of the new one"
    )
    await renewing

    assert (cancel.consumer_tag, qos.prefetch_count) == ("mine", 65_535)
    assert consume.consumer_tag != "mine"
    assert [one.body for one in bench.given] == [b"of the old one", b"of the new one"]
    assert bench.consumer.prefetch == 65_535


@on_loop
async def test_a_queue_that_vanishes_during_renew_is_told_to_both() -> None:
    bench = await Bench().started()
    renewing = asyncio.create_task(bench.consumer.renew(5))
    await asyncio.sleep(0)
    bench.say(
        spec.Basic.CancelOk("mine"),
        spec.Basic.QosOk(),
        spec.Channel.Close(404, "NOT_FOUND - no queue 'q' in vhost", 0, 0),
    )
    with pytest.raises(NotFound):
        await renewing

    assert [type(reason) for reason in bench.cancelled] == [NotFound]


@on_loop
async def test_a_fence_returns_once_all_has_been_taken_that_was_sent_before() -> None:
    bench = await Bench().started(prefetch=7)
    fencing = asyncio.create_task(bench.consumer.fence())
    await asyncio.sleep(0)
    [qos] = [method for _, method in bench.peer.heard()]
    bench.peer.say_message(bench.number, deliver(1, consumer="mine"), b"\0\0", b"before")
    assert not fencing.done()
    bench.say(spec.Basic.QosOk())
    await fencing

    assert [one.body for one in bench.given] == [b"before"]
    assert qos.prefetch_count == 7, "nothing changes"


# --- ends ------------------------------------------------------------------------------------------------


@on_loop
async def test_the_brokers_cancel_is_told_once_and_closes_the_channel_without_cancel_ok() -> None:
    bench = await Bench().started()
    bench.say(spec.Basic.Cancel("mine", nowait=True), spec.Basic.Cancel("mine", nowait=True))
    bench.consumer.ack(1)
    written = bench.peer.names()
    bench.say(spec.Channel.CloseOk())

    assert len(bench.cancelled) == 1
    assert "consumer_timeout" in str(bench.cancelled[0])
    assert written == ["Channel.Close"]
    assert bench.peer.stream.channels == {}


@on_loop
async def test_a_channel_that_both_sides_close_is_free_after_both_answers() -> None:
    bench = await Bench().started()
    answer = bench.consumer.release()
    bench.say(spec.Channel.Close(406, "PRECONDITION_FAILED - unknown delivery tag 9", 0, 0))
    between = set(bench.peer.stream.channels)
    bench.say(spec.Channel.CloseOk())

    assert answer is not None
    assert between == {bench.number}
    assert bench.peer.stream.channels == {}
    assert bench.peer.names() == ["Channel.Close", "Channel.CloseOk"]


@on_loop
async def test_a_loss_is_no_cancel() -> None:
    bench = await Bench().started()
    bench.consumer.lost(ConnectionLost("gone"))
    await bench.consumer.renew(3)
    await bench.consumer.cancel()
    await bench.consumer.close()
    bench.consumer.ack(1)

    assert bench.cancelled == []
    assert bench.peer.names() == []


@on_loop
async def test_on_cancel_that_raises_is_the_callees_own() -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    bench = await Bench().started()
    bench.consumer._on_cancel = lambda _: 1 / 0  # type: ignore[assignment]
    bench.say(spec.Basic.Cancel("mine", nowait=True))

    assert told == ["on_cancel of 'q' raised"]


# --- requests --------------------------------------------------------------------------------------------


@on_loop
async def test_answers_come_in_order_and_an_error_fails_the_rest() -> None:
    peer = Peer().open()
    channel = Channel(peer.stream)
    first, second, third = channel.request(*[spec.Queue.Purge(queue=name) for name in "abc"])
    peer.say(1, spec.Channel.OpenOk(), spec.Queue.PurgeOk(5))
    peer.say(1, spec.Channel.Close(404, "NOT_FOUND - no queue 'b' in vhost '/'", 50, 30))

    assert first.result()[0].message_count == 5
    assert isinstance(second.exception(), NotFound)
    assert isinstance(third.exception(), NotFound)
    assert isinstance(channel.request(spec.Queue.Purge())[0].exception(), NotFound)


@pytest.mark.parametrize(("blocked", "kind"), [(None, BrokerUnavailable), ("low on memory", BrokerBlocked)])
@on_loop
async def test_no_answer_is_an_error_in_time_and_a_late_one_is_dropped(
    blocked: str | None, kind: type[TransportError]
) -> None:
    peer = Peer().open()
    channel = Channel(peer.stream)
    answers = channel.request(spec.Queue.Purge(queue="q"))
    with pytest.raises(kind, match="purging"):
        await within(0.01, answers, "purging", blocked)
    channel.release()
    peer.say(1, spec.Channel.OpenOk(), spec.Queue.PurgeOk(5), spec.Channel.CloseOk())

    assert peer.stream.channels == {}


@on_loop
async def test_a_message_that_is_got_comes_with_its_content() -> None:
    peer = Peer().open()
    channel = Channel(peer.stream)
    got, empty = channel.request(spec.Basic.Get(queue="q"), spec.Basic.Get(queue="q"))
    peer.say(1, spec.Channel.OpenOk())
    peer.say_message(1, spec.Basic.GetOk(1, False, "e", "k", 0), b"\0\0", b"body")
    peer.say(1, spec.Basic.GetEmpty())
    await until(empty.done)

    method, header, body = got.result()
    assert (method.exchange, header, body) == ("e", b"\0\0", b"body")


@on_loop
async def test_what_cannot_be_said_writes_nothing() -> None:
    peer = Peer().open()
    channel = Channel(peer.stream)
    peer.heard()
    with pytest.raises(ImproperlyConfigured, match="more than 255 bytes"):
        channel.request(spec.Queue.Purge(queue="q"), spec.Queue.Purge(queue="q" * 300))

    assert peer.heard() == []


@on_loop
async def test_a_connection_without_free_channels_says_so() -> None:
    peer = Peer()
    peer.say(0, spec.Connection.Start(0, 9, {}, "PLAIN", "en_US"), spec.Connection.Tune(1, 131_072, 0))
    peer.say(0, spec.Connection.OpenOk())
    Channel(peer.stream)
    with pytest.raises(ChannelClosed, match="all 1 channels"):
        Channel(peer.stream)
