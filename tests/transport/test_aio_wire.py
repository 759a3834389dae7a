"""What aiormq raises, and what the broker says beside it, as our errors; pure."""

from __future__ import annotations

import asyncio

import pytest
from aiormq import exceptions
from pamqp import commands
from pamqp.frame import marshal

from amqptasks.errors import (
    AccessRefused,
    BrokerUnavailable,
    ChannelClosed,
    ConnectionLost,
    NotFound,
    ResourceLocked,
    TopologyMismatch,
    TransportError,
    VhostNotFound,
)
from amqptasks.transport.aio_wire import Dialler, Listening, channel_reason, ended, refused
from amqptasks.transport.url import parse

[URL] = parse("amqp://me:secret@host:1234/shop")


def heard(*frames: tuple[object, int]) -> tuple[list[str | None], tuple[int, str] | None]:
    """Read frames in aiormq's three pieces; return what was told of blocking, and the close."""
    told: list[str | None] = []

    async def read() -> Listening:
        reader = Listening(told.append)
        for frame, channel in frames:
            reader.feed_data(marshal(frame, channel))
        for _ in frames:
            kind = await reader.readexactly(1)
            head = await reader.readexactly(6)
            await reader.readexactly(int.from_bytes(head[2:], "big") + 1)
            assert kind == b"\x01"
        return reader

    return told, asyncio.run(read()).closed


def test_the_stream_hears_what_concerns_the_connection() -> None:
    blocked, unblocked = commands.Connection.Blocked(reason="low on memory"), commands.Connection.Unblocked()
    close = commands.Connection.Close(320, "CONNECTION_FORCED - node is down", 0, 0)

    told, closed = heard((blocked, 0), (unblocked, 0), (commands.Basic.Ack(7), 1), (close, 0))

    assert told == ["low on memory", None]
    assert closed == (320, "CONNECTION_FORCED - node is down")


def test_the_same_bytes_on_another_channel_are_not_meant() -> None:
    assert heard((commands.Connection.Blocked(reason="low on memory"), 3)) == ([], None)


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (exceptions.ChannelAccessRefused("ACCESS_REFUSED - no"), AccessRefused, "set_permissions"),
        (exceptions.ChannelNotFoundEntity("NOT_FOUND - no queue 'q'"), NotFound, "no queue 'q'"),
        (
            exceptions.ChannelLockedResource("RESOURCE_LOCKED - exclusive"),
            ResourceLocked,
            "another connection",
        ),
        (
            exceptions.ChannelPreconditionFailed(
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' "
                "but current is 'true'"
            ),
            TopologyMismatch,
            "exists with durable",
        ),
        (exceptions.ChannelClosed(501, "FRAME_ERROR - bad"), ChannelClosed, "501 FRAME_ERROR"),
        (None, ChannelClosed, "by us"),
        (exceptions.AMQPConnectionError("gone"), ConnectionLost, "gone"),
    ],
)
def test_the_end_of_a_channel_is_translated(
    raised: BaseException, kind: type[TransportError], said: str
) -> None:
    reason = channel_reason(raised)

    assert type(reason) is kind
    assert said in str(reason)


def dialler(closed: tuple[int, str] | None = None) -> Dialler:
    made = Dialler(URL, lambda _: None)
    if closed is not None:
        made.reader = type("Reader", (), {"closed": closed})()  # type: ignore[assignment]
    return made


@pytest.mark.parametrize(
    ("raised", "closed", "kind", "said"),
    [
        (
            exceptions.InvalidFrameError("x"),
            (530, "NOT_ALLOWED - vhost shop not found"),
            VhostNotFound,
            "add_vhost shop",
        ),
        (
            exceptions.ProbableAuthenticationError("x"),
            (403, "ACCESS_REFUSED - Login"),
            AccessRefused,
            "user 'me'",
        ),
        (exceptions.IncompatibleProtocolError("x"), None, BrokerUnavailable, "does not speak AMQP"),
        (exceptions.AuthenticationError("PLAIN", ["x"]), None, AccessRefused, "login method PLAIN"),
        (exceptions.AMQPConnectionError("x"), None, BrokerUnavailable, "during the handshake"),
        (
            ConnectionRefusedError(111, "Connection refused"),
            None,
            BrokerUnavailable,
            "refused the connection",
        ),
        (TimeoutError(), None, BrokerUnavailable, "did not answer within 4 s"),
    ],
)
def test_a_refusal_is_translated_and_shows_no_password(
    raised: BaseException, closed: tuple[int, str] | None, kind: type[TransportError], said: str
) -> None:
    reason = refused(raised, dialler(closed), URL, 4)

    assert type(reason) is kind
    assert said in str(reason)
    assert "secret" not in str(reason)


def test_the_end_of_a_connection_is_told_by_whoever_knows_most() -> None:
    broke = exceptions.AMQPConnectionError("Server connection reset")

    assert "320 CONNECTION_FORCED" in str(
        ended(broke, dialler((320, "CONNECTION_FORCED")), "host", stuck=True)
    )
    assert "no heartbeat" in str(ended(asyncio.CancelledError(), dialler(), "host", stuck=True))
    assert "closed by us" in str(ended(None, dialler(), "host", stuck=False))
    assert "Server connection reset" in str(ended(broke, dialler(), "host", stuck=False))
