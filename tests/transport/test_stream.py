"""One connection without a broker: bytes in, bytes out, and what we rely on in pika."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import re
from collections.abc import Iterator
from importlib.metadata import version
from logging.handlers import QueueHandler
from queue import SimpleQueue

import pika.connection
import pika.exceptions
import pika.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import spec

from amqptasks.transport.channels import Channel
from amqptasks.transport.consuming import LoopConsumer
from tests.worker import virtual_time

from .contract import on_loop, until
from .scripted import Peer, deliver, message_bytes, methods_bytes


class Recorder:
    """A channel that keeps every frame it is given."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []

    def on_frame(self, kind: int, data: bytes, start: int, stop: int) -> None:
        self.frames.append((kind, data[start:stop]))

    def lost(self, reason: object) -> None:
        del reason


# --- pika ------------------------------------------------------------------------------------------------


def test_the_private_api_of_pika_is_as_we_use_it() -> None:
    """A failure here means: read pika's changes in connection.py before the bound in pyproject.toml is raised."""
    hooks = {
        "_adapter_add_callback_threadsafe": ["callback"],
        "_adapter_call_later": ["delay", "callback"],
        "_adapter_connect_stream": [],
        "_adapter_disconnect_stream": [],
        "_adapter_emit_data": ["data"],
        "_adapter_remove_timeout": ["timeout_id"],
        "_create_heartbeat_checker": [],
        "_on_connection_close_from_broker": ["method_frame"],
        "_on_connection_start": ["method_frame"],
        "_on_data_available": ["data_in"],
        "_on_stream_connected": [],
        "_on_stream_terminated": ["error"],
        "_output_marshaled_frames": ["marshaled_frames"],
        "_process_frame": ["frame_value"],
        "_remove_heartbeat": [],
        "_send_connection_close": ["reply_code", "reply_text"],
        "_set_connection_state": ["connection_state"],
        "_terminate_stream": ["error"],
    }

    found = {
        name: [*inspect.signature(getattr(pika.connection.Connection, name)).parameters][1:] for name in hooks
    }

    assert version("pika").startswith("1.4.")
    assert found == hooks


@on_loop
async def test_pika_logs_nothing_in_the_life_of_a_connection() -> None:
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    catcher = QueueHandler(records)
    catcher.setLevel(logging.INFO)
    logging.getLogger("pika").addHandler(catcher)
    try:
        peer = Peer(heartbeat=10).open()
        peer.say(0, spec.Connection.Blocked("low on memory"), spec.Connection.Unblocked())
        peer.stream.say_goodbye()
        peer.say(0, spec.Connection.CloseOk())
        refused = Peer()
        refused.say(0, spec.Connection.Start(0, 9, {}, "EXTERNAL", "en_US"))
        await until(lambda: peer.ended and refused.ended)
    finally:
        logging.getLogger("pika").removeHandler(catcher)

    assert records.empty()


# --- the handshake ---------------------------------------------------------------------------------------


@on_loop
async def test_the_handshake_opens_the_stream() -> None:
    peer = Peer(heartbeat=15, frame_max=8192)
    peer.stream.flush()
    greeting = peer.writes.pop()
    peer.say(0, spec.Connection.Start(0, 9, {"version": "4.1.0"}, "PLAIN", "en_US"))
    peer.say(0, spec.Connection.Tune(100, 131_072, 60))
    start_ok, tune_ok, opening = [method for _, method in peer.heard()]
    peer.say(0, spec.Connection.OpenOk())
    peer.stream._remove_heartbeat()

    assert greeting == b"AMQP\0\0\x09\x01"
    assert start_ok.client_properties["capabilities"]["consumer_cancel_notify"] is True
    assert (tune_ok.channel_max, tune_ok.frame_max, tune_ok.heartbeat) == (100, 8192, 15)
    assert opening.virtual_host == "/"
    assert peer.stream.opened.done()
    assert (peer.stream.frame_max, peer.stream.channel_max) == (8192, 100)


@on_loop
async def test_a_refusal_is_kept_as_the_broker_said_it() -> None:
    peer = Peer()
    peer.say(0, spec.Connection.Start(0, 9, {}, "PLAIN", "en_US"))
    peer.say(0, spec.Connection.Close(403, "ACCESS_REFUSED - Login was refused", 0, 0))
    await peer.stream.opened

    assert isinstance(peer.stream.refusal, pika.exceptions.ConnectionClosedByBroker)
    assert peer.stream.refusal.reply_code == 403


# --- splitting -------------------------------------------------------------------------------------------

SAID = b"".join(
    [
        methods_bytes(1, spec.Queue.PurgeOk(3)),
        message_bytes(1, deliver(1), b"\0\0", b"x" * 20_000, frame_max=8192),
        message_bytes(2, deliver(2), b"\0\0", b""),
        pika.frame.Heartbeat().marshal(),
        methods_bytes(9, spec.Queue.PurgeOk(1)),  # a channel that we have closed
        message_bytes(1, deliver(3), b"\0\0", b"y"),
    ]
)


@given(st.lists(st.integers(1, len(SAID) - 1), max_size=40))
def test_however_the_bytes_arrive_the_frames_are_the_same(cuts: list[int]) -> None:
    async def frames(pieces: Iterator[bytes]) -> list[list[tuple[int, bytes]]]:
        peer = Peer().open()
        one, two = Recorder(), Recorder()
        peer.stream.channels.update({1: one, 2: two})
        for piece in pieces:
            peer.stream.data_received(piece)
        assert not peer.ended
        return [one.frames, two.frames]

    found: list[list[list[tuple[int, bytes]]]] = []
    places = [0, *sorted(set(cuts)), len(SAID)]

    @on_loop
    async def both() -> None:
        found.append(await frames(iter([SAID])))
        found.append(await frames(SAID[a:b] for a, b in itertools.pairwise(places)))

    both()

    assert found[0] == found[1]
    assert len(found[0][0]) == 1 + 5 + 3


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        methods_bytes(1, spec.Queue.PurgeOk(3))[:-1] + b"\0",
        b"\x01\0\x01\xff\xff\xff\xff\0\0\0\0",
    ],
)
@on_loop
async def test_what_is_no_frame_ends_the_stream(garbage: bytes) -> None:
    peer = Peer().open()
    peer.stream.data_received(garbage + b"\0" * 20)
    await until(lambda: peer.ended)

    [reason] = peer.ended
    assert isinstance(reason, pika.exceptions.InvalidFrameError)
    assert peer.gone


@on_loop
async def test_a_method_that_cannot_be_read_ends_the_stream_and_says_so() -> None:
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    peer = Peer().open()
    Channel(peer.stream)
    peer.stream.data_received(b"\x01\0\x01\0\0\0\x04\x7f\x7f\x7f\x7f\xce")
    await until(lambda: peer.ended)

    assert told == ["an AMQP frame could not be taken"]


# --- writing ---------------------------------------------------------------------------------------------


@on_loop
async def test_a_turn_of_the_loop_costs_one_write_in_order() -> None:
    peer = Peer().open()
    before = len(peer.writes)
    consumer = LoopConsumer(peer.stream, "q", print, print, wait=lambda *_: until(lambda: True))  # type: ignore[arg-type]
    for tag in range(1, 4):
        consumer.ack(tag)
    peer.stream.say_goodbye()
    await until(lambda: len(peer.writes) > before)

    assert len(peer.writes) == before + 1
    assert peer.names() == ["Channel.Open", "Basic.Ack", "Basic.Ack", "Basic.Ack", "Connection.Close"]


@on_loop
async def test_a_dead_stream_swallows_what_is_written() -> None:
    peer = Peer().open()
    peer.stream.connection_lost(ConnectionResetError("reset"))
    before = len(peer.writes)
    peer.stream.write(b"late")
    peer.stream.flush()

    assert len(peer.writes) == before
    assert [type(reason) for reason in peer.ended] == [ConnectionResetError]


# --- the end ---------------------------------------------------------------------------------------------


@on_loop
async def test_the_brokers_close_is_answered_and_its_reason_kept() -> None:
    peer = Peer().open()
    peer.say(0, spec.Connection.Close(320, "CONNECTION_FORCED - drill", 0, 0))
    await until(lambda: peer.ended)

    assert peer.names() == ["Connection.CloseOk"]
    [reason] = peer.ended
    assert re.search("320.*drill", str(reason))


@on_loop
async def test_a_peer_that_takes_nothing_is_dropped_without_waiting() -> None:
    peer = Peer().open()
    peer.stuck = 1_000_000
    peer.stream.end(RuntimeError("enough"))
    await until(lambda: peer.ended)

    assert str(peer.ended[0]) == "enough"


def test_silence_for_two_intervals_is_death_and_traffic_is_not() -> None:
    async def scenario() -> None:
        peer = Peer(heartbeat=1).open()
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() < started + 12:  # anything that comes counts
            peer.stream.data_received(pika.frame.Heartbeat().marshal())
            await asyncio.sleep(0.2)
        alive = not peer.ended
        quiet = loop.time()
        await until(lambda: peer.ended)

        assert alive
        assert 1.5 < loop.time() - quiet < 2.6
        assert isinstance(peer.ended[0], pika.exceptions.AMQPHeartbeatTimeout)
        assert sum(isinstance(frame, pika.frame.Heartbeat) for _, frame in peer.heard()) >= 20

    virtual_time.run(scenario())
