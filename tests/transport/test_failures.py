"""Each refusal is one sentence with the cure, of the right kind."""

from __future__ import annotations

import errno
import socket
import ssl

import pika.exceptions
import pytest

from amqptasks.errors import (
    AccessRefused,
    BrokerBlocked,
    BrokerUnavailable,
    ChannelClosed,
    ConnectionLost,
    NotFound,
    QueueDown,
    ResourceLocked,
    TLSFailed,
    TopologyMismatch,
    TransportError,
    VhostNotFound,
)
from amqptasks.transport.failures import (
    blamed_exchange,
    blamed_size,
    channel_error,
    ended,
    nobody,
    refused,
)
from amqptasks.transport.url import parse

[PLAIN] = parse("amqp://alice:hunter2@mq:5672/my vhost")
[SECURE] = parse("amqps://alice:hunter2@mq//")

MULTIPLE = OSError(
    "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1), [Errno 111] Connect call failed"
)


def by_broker(code: int, text: str) -> pika.exceptions.ConnectionClosedByBroker:
    return pika.exceptions.ConnectionClosedByBroker(code, text)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            ConnectionRefusedError(111, "Connect call failed"),
            BrokerUnavailable,
            "mq:5672 refused the connection",
        ),
        (MULTIPLE, BrokerUnavailable, "mq:5672 refused the connection"),
        (socket.gaierror(-2, "Name or service not known"), BrokerUnavailable, "'mq' cannot be resolved"),
        (TimeoutError(), BrokerUnavailable, "mq:5672 did not answer within 4 s"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), BrokerUnavailable, "check network and firewall"),
        (ConnectionResetError(104, "reset"), BrokerUnavailable, "write amqps://"),
        (pika.exceptions.StreamLostError("x"), BrokerUnavailable, "write amqps://"),
        (pika.exceptions.InvalidFrameError("HTTP"), BrokerUnavailable, "does not speak AMQP 0-9-1"),
        (
            pika.exceptions.AuthenticationError("PLAIN"),
            AccessRefused,
            "does not offer the login method PLAIN",
        ),
        (by_broker(403, "ACCESS_REFUSED - Login was refused."), AccessRefused, "refused the user 'alice'"),
        (
            by_broker(530, "NOT_ALLOWED - vhost my vhost not found"),
            VhostNotFound,
            "rabbitmqctl add_vhost 'my vhost'",
        ),
        (
            by_broker(530, "NOT_ALLOWED - access to vhost 'my vhost' refused for user 'alice'"),
            AccessRefused,
            "rabbitmqctl set_permissions -p 'my vhost' alice",
        ),
        (
            by_broker(
                530, "NOT_ALLOWED - access to vhost 'v' refused for user 'a': connection limit (3) is reached"
            ),
            BrokerUnavailable,
            "connection limit (3)",
        ),
        (by_broker(541, "INTERNAL_ERROR"), BrokerUnavailable, "541 INTERNAL_ERROR"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] x"), TLSFailed, "TLS handshake"),
        (RuntimeError("odd"), BrokerUnavailable, "RuntimeError: odd"),
    ],
)
def test_a_refused_connection(error: Exception, kind: type[BrokerUnavailable], said: str) -> None:
    result = refused(error, PLAIN, 4)

    assert type(result) is kind
    assert said in str(result)
    assert "hunter2" not in str(result)


def test_the_broker_s_vhost_error_is_recognised_with_quotes_too() -> None:
    error = refused(by_broker(530, "NOT_ALLOWED - vhost '/' not found"), SECURE, 4)

    assert isinstance(error, VhostNotFound)
    assert str(error).endswith("rabbitmqctl add_vhost /")


def test_of_several_hosts_the_most_specific_reason_gives_the_kind() -> None:
    refusals = [BrokerUnavailable("a: refused"), VhostNotFound("b: no vhost"), AccessRefused("c: password")]

    error = nobody(refusals)

    assert type(error) is AccessRefused
    assert str(error) == "no broker let us in: a: refused; b: no vhost; c: password"
    assert nobody(refusals[:1]) is refusals[0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (pika.exceptions.ConnectionClosedByClient(200, "done"), "was closed by us"),
        (by_broker(320, "CONNECTION_FORCED - drill"), "320 CONNECTION_FORCED - drill"),
        (pika.exceptions.AMQPHeartbeatTimeout("nothing came for 30 s"), "nothing came for 30 s"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (pika.exceptions.StreamLostError("the peer closed the socket"), "the peer closed the socket"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_an_ended_connection(error: Exception, said: str) -> None:
    result = ended(error, "mq:5672")

    assert type(result) is ConnectionLost
    assert "mq:5672" in str(result)
    assert said in str(result)


def test_our_own_reason_is_kept() -> None:
    reason = BrokerBlocked("too long")

    assert ended(reason, "mq:5672") is reason


@pytest.mark.parametrize(
    ("code", "text", "kind", "said"),
    [
        (
            406,
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'it's' in vhost '/': "
                "received none but current is the value '10' of type 'long'"
            ),
            TopologyMismatch,
            "queue \"it's\" in virtual host '/' exists with x-max-length = 10, and none was asked for",
        ),
        (
            406,
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'q' in vhost '/': received the value "
                "'drop-head' of type 'longstr' but current is the value 'reject-publish' of type 'longstr'"
            ),
            TopologyMismatch,
            "x-overflow = 'reject-publish', and 'drop-head' was asked for",
        ),
        (
            406,
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current "
                "is 'true'"
            ),
            TopologyMismatch,
            "durable = true, and false was asked for",
        ),
        (406, "PRECONDITION_FAILED - inequivalent something", TopologyMismatch, "inequivalent something"),
        (
            406,
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1000 ms",
            ChannelClosed,
            "raise consumer_timeout",
        ),
        (406, "PRECONDITION_FAILED - unknown delivery tag 9", ChannelClosed, "unknown delivery tag 9"),
        (404, "NOT_FOUND - no queue 'q' in vhost '/'", NotFound, "no queue 'q'"),
        (
            404,
            "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible",
            QueueDown,
            "it exists, and is back with its node",
        ),
        (
            405,
            "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be ...",
            ResourceLocked,
            "locked queue 'q' in vhost '/'; it belongs to another connection",
        ),
        (403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused", AccessRefused, "set_permissions"),
        (504, "CHANNEL_ERROR - x", ChannelClosed, "504 CHANNEL_ERROR"),
    ],
)
def test_a_closed_channel(code: int, text: str, kind: type[TransportError], said: str) -> None:
    error = channel_error(code, text)

    assert type(error) is kind
    assert said in str(error)
    if isinstance(error, ChannelClosed):
        assert error.code == code


def test_who_is_to_blame() -> None:
    missing = channel_error(404, "NOT_FOUND - no exchange 'x' in vhost '/'")
    large = channel_error(406, "PRECONDITION_FAILED - message size 99 is larger than configured max size 50")

    assert blamed_exchange(missing) == ("x", None)
    assert blamed_exchange(large) == (None, None)
    assert (blamed_size(large), blamed_size(missing)) == (99, None)
