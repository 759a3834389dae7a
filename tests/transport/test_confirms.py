"""What becomes of each published parcel, whatever the broker says and in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pika.frame
import pytest
from pika import spec

from amqptasks.amqp import Parcel
from amqptasks.errors import (
    AccessRefused,
    ChannelClosed,
    ConnectionLost,
    Nacked,
    NotFound,
    TooLarge,
    TransportError,
    Unroutable,
)
from amqptasks.transport.confirms import Confirms

from .contract import on_loop, until
from .scripted import Peer, message_bytes, methods_bytes, parcel


class Desk:
    """Posts parcels by name and keeps their fates."""

    def __init__(self, max_message_size: int = 1000) -> None:
        self.peer = Peer().open()
        self.confirms = Confirms(self.peer.stream, max_message_size)
        self.fates: dict[str, TransportError | None] = {}
        self.order: list[str] = []

    def post(self, *parcels: Parcel) -> None:
        for one in parcels:
            self.confirms.post(one, lambda error, name=one.message_id: self.told(name, error))  # type: ignore[misc]

    def told(self, name: str, error: TransportError | None) -> None:
        assert name not in self.fates, f"{name} was told twice"
        self.fates[name] = error
        self.order.append(name)

    def published(self) -> list[tuple[int, str]]:
        """Return (channel, message id) of what was published since the last call."""
        headers = [(channel, frame) for channel, frame in self.peer.heard() if hasattr(frame, "properties")]
        return [(channel, frame.properties.message_id) for channel, frame in headers]

    def say(self, *methods: Any, channel: int = 1) -> None:
        self.peer.say(channel, *methods)


def named(*names: str) -> list[Parcel]:
    return [parcel(name) for name in names]


def closing(code: int, text: str) -> spec.Channel.Close:
    return spec.Channel.Close(code, text, 60, 40)


@on_loop
async def test_an_event_that_nobody_listens_to_does_not_come_back() -> None:
    desk = Desk()
    desk.post(parcel("a"), replace(parcel("b"), fate="event"))

    published = [method for _, method in desk.peer.heard() if isinstance(method, spec.Basic.Publish)]
    assert [method.mandatory for method in published] == [True, False]


# --- confirms --------------------------------------------------------------------------------------------


@on_loop
async def test_the_first_post_opens_the_channel_in_the_same_write() -> None:
    desk = Desk()
    desk.post(*named("a"))

    assert desk.peer.names() == ["Channel.Open", "Confirm.Select", "Basic.Publish"]


@on_loop
async def test_acks_settle_one_or_all_before() -> None:
    desk = Desk()
    desk.post(*named("a", "b", "c", "d", "e"))
    desk.say(spec.Channel.OpenOk(), spec.Confirm.SelectOk(), spec.Basic.Ack(2))
    first = list(desk.order)
    desk.say(spec.Basic.Ack(4, multiple=True))
    second = list(desk.order)
    desk.say(spec.Basic.Ack(0, multiple=True))
    desk.say(spec.Basic.Ack(3))  # known already: no news

    assert (first, second, desk.order) == (["b"], ["b", "a", "c", "d"], ["b", "a", "c", "d", "e"])
    assert set(desk.fates.values()) == {None}


@on_loop
async def test_confirms_and_publishing_pass_pika_s_frames_by(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    desk.post(*named("a"))
    desk.peer.heard()
    said = methods_bytes(1, spec.Basic.Ack(1), spec.Basic.Nack(3, multiple=True))
    monkeypatch.setattr(pika.frame, "decode_frame", None)
    monkeypatch.setattr(pika.frame, "Method", None)
    desk.post(*named("b", "c"))
    desk.peer.stream.data_received(said)

    assert set(desk.fates) == {"a", "b", "c"}


@on_loop
async def test_nacks_name_the_address() -> None:
    desk = Desk()
    desk.post(*named("a", "b", "c"))
    desk.say(spec.Basic.Nack(2, multiple=True), spec.Basic.Ack(3))

    assert [type(desk.fates[name]) for name in "abc"] == [Nacked, Nacked, type(None)]
    assert "exchange 'e', routing key 'k'" in str(desk.fates["a"])


@on_loop
async def test_a_return_counts_with_its_ack() -> None:
    desk = Desk()
    desk.post(*named("a", "b", "b2"), parcel("b"))  # one id twice: sent again after an ambiguous loss
    returned = spec.Basic.Return(312, "NO_ROUTE", "e", "k")
    desk.peer.say_message(1, returned, parcel("b").header, b"{}")
    before = dict(desk.fates)
    desk.fates.clear()
    desk.say(spec.Basic.Ack(3, multiple=True))

    assert before == {}
    assert {name: type(error) for name, error in desk.fates.items()} == {
        "a": type(None),
        "b": Unroutable,
        "b2": type(None),
    }
    assert "NO_ROUTE" in str(desk.fates["b"])


@on_loop
async def test_a_callback_that_raises_costs_the_others_nothing() -> None:
    import asyncio

    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    desk = Desk()
    desk.confirms.post(parcel("bad"), lambda _: 1 / 0)  # type: ignore[arg-type]
    desk.post(*named("good"))
    desk.say(spec.Basic.Ack(2, multiple=True))

    assert desk.fates == {"good": None}
    assert told == ["a confirm callback raised"]


# --- too large -------------------------------------------------------------------------------------------


@on_loop
async def test_what_does_not_fit_is_told_later_and_never_written() -> None:
    desk = Desk(max_message_size=10)
    desk.post(parcel("body", body=b"x" * 11), Parcel("e", "k", b"\0" * 131_053, b"", "header"))
    at_once = dict(desk.fates)
    desk.post(Parcel("e", "k", parcel("fits").header, b"x" * 10, "fits"))
    await until(lambda: len(desk.fates) == 2)

    assert at_once == {}
    assert {name: type(error) for name, error in desk.fates.items()} == {"body": TooLarge, "header": TooLarge}
    assert desk.published() == [(1, "fits")]


# --- a closed channel ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (404, "NOT_FOUND - no exchange 'gone' in vhost '/'", NotFound),
        (403, "ACCESS_REFUSED - access to exchange 'gone' in vhost '/' refused for user 'u'", AccessRefused),
        (
            403,
            "ACCESS_REFUSED - write access to exchange 'gone' in vhost '/' refused for user 'u'",
            AccessRefused,
        ),
        (403, "ACCESS_REFUSED - cannot publish to internal exchange 'gone' in vhost '/'", AccessRefused),
    ],
)
@on_loop
async def test_a_named_exchange_fails_alone_and_the_others_are_sent_again(
    code: int, text: str, kind: type[TransportError]
) -> None:
    desk = Desk()
    desk.post(parcel("a"), parcel("b"), parcel("bad", exchange="gone"), parcel("c"))
    desk.say(spec.Basic.Ack(1))
    desk.published()
    desk.say(closing(code, text))
    again = desk.peer.heard()
    desk.say(spec.Basic.Ack(2, multiple=True), channel=again[1][0])

    assert [type(desk.fates[name]) for name in ("a", "bad", "b", "c")] == [
        type(None),
        kind,
        type(None),
        type(None),
    ]
    assert [type(method).__qualname__ for _, method in again][:3] == [
        "Channel.CloseOk",
        "Channel.Open",
        "Confirm.Select",
    ]


@on_loop
async def test_a_topic_permission_blames_its_key_alone() -> None:
    desk = Desk()
    desk.post(parcel("a"), parcel("bad", routing_key="secret"))
    desk.say(
        closing(
            403, "ACCESS_REFUSED - access to topic 'secret' in exchange 'e' in vhost '/' refused for user 'u'"
        )
    )
    desk.say(spec.Basic.Ack(1))

    assert [type(desk.fates[name]) for name in ("a", "bad")] == [type(None), AccessRefused]


@on_loop
async def test_what_a_callback_posts_comes_after_what_was_posted_before() -> None:
    desk = Desk()
    desk.post(*named("a", "b"))
    desk.confirms.post(parcel("bad", exchange="gone"), lambda _: desk.post(*named("again")))
    desk.post(*named("c"))
    desk.published()
    desk.say(closing(404, "NOT_FOUND - no exchange 'gone' in vhost '/'"))

    assert [name for _, name in desk.published()] == ["a", "b", "c", "again"]


@on_loop
async def test_the_default_exchange_has_two_names() -> None:
    desk = Desk()
    desk.post(parcel("bad", exchange=""), parcel("a"))
    desk.say(
        closing(403, "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'u'")
    )
    desk.say(spec.Basic.Ack(1))

    assert [type(desk.fates[name]) for name in ("a", "bad")] == [type(None), AccessRefused]


@on_loop
async def test_the_broker_s_own_limit_blames_the_body_of_that_size() -> None:
    desk = Desk()
    desk.post(parcel("a"), parcel("bad", body=b"x" * 99), parcel("b"))
    desk.say(closing(406, "PRECONDITION_FAILED - message size 99 is larger than configured max size 50"))
    desk.say(spec.Basic.Ack(2, multiple=True))

    assert [type(desk.fates[name]) for name in ("a", "bad", "b")] == [type(None), TooLarge, type(None)]


@on_loop
async def test_an_unnamed_offender_is_found_by_trying_one_at_a_time() -> None:
    desk = Desk()
    reason = "PRECONDITION_FAILED - invalid expiration 'soon'"
    desk.post(*named("a", "bad", "b"))
    desk.published()
    desk.say(closing(406, reason))
    tries = [desk.published()]
    desk.post(*named("new"))
    tries.append(desk.published())
    desk.say(spec.Basic.Ack(1))
    tries.append(desk.published())
    desk.say(closing(406, reason))
    tries.append(desk.published())
    desk.say(spec.Basic.Ack(1))
    tries.append(desk.published())
    desk.say(spec.Basic.Ack(2))
    desk.post(*named("c", "d"))
    tries.append(desk.published())

    sent = [[name for _, name in each] for each in tries]
    assert sent == [["a"], [], ["bad"], ["b"], ["new"], ["c", "d"]]
    assert [type(desk.fates[name]) for name in ("a", "bad", "b", "new")] == [
        type(None),
        ChannelClosed,
        type(None),
        type(None),
    ]


@on_loop
async def test_what_was_returned_before_the_close_is_not_sent_again() -> None:
    desk = Desk()
    desk.post(parcel("lost"), parcel("bad", exchange="gone"), parcel("a"))
    desk.published()
    desk.peer.say_message(1, spec.Basic.Return(312, "NO_ROUTE", "e", "k"), parcel("lost").header, b"{}")
    desk.say(closing(404, "NOT_FOUND - no exchange 'gone' in vhost '/'"))

    assert [name for _, name in desk.published()] == ["a"]
    assert isinstance(desk.fates["lost"], Unroutable)


@on_loop
async def test_a_close_with_nothing_pending_opens_nothing_until_the_next_post() -> None:
    desk = Desk()
    desk.post(*named("a"))
    desk.say(spec.Basic.Ack(1))
    desk.peer.heard()
    desk.say(closing(406, "PRECONDITION_FAILED - anything"))
    idle = desk.peer.names()
    desk.post(*named("b"))

    assert idle == ["Channel.CloseOk"]
    assert desk.peer.names() == ["Channel.Open", "Confirm.Select", "Basic.Publish"]


# --- the end ---------------------------------------------------------------------------------------------


@on_loop
async def test_a_lost_connection_answers_everybody_once() -> None:
    desk = Desk()
    reason = ConnectionLost("gone")
    desk.post(*named("a", "b", "c"))
    desk.say(closing(406, "PRECONDITION_FAILED - anything"))  # `a` is tried alone, the others wait
    desk.confirms.lost(reason)
    for channel in list(desk.peer.stream.channels.values()):
        channel.lost(reason)
    desk.post(*named("late"))
    await until(lambda: len(desk.fates) == 4)

    assert set(desk.fates.values()) == {reason}


@on_loop
async def test_a_return_in_pieces_is_put_together() -> None:
    desk = Desk()
    desk.post(parcel("a", body=b"x" * 900))
    said = message_bytes(1, spec.Basic.Return(312, "NO_ROUTE", "e", "k"), parcel("a").header, b"x" * 900, 300)
    desk.peer.stream.data_received(said)
    desk.say(spec.Basic.Ack(1))

    assert isinstance(desk.fates["a"], Unroutable)
