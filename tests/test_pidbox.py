"""Celery's pidbox wire as values: whom a command is for, how it reads back, what is refused."""

import json
from dataclasses import replace

import pytest

from amqptasks import pidbox
from amqptasks.amqp import Address
from amqptasks.config import Config
from amqptasks.errors import InvalidMessage
from amqptasks.pidbox import Clock, Request

SETTINGS = {
    name: Config({}, environ={})[name] for name in Config({}, environ={}) if name.startswith("control_")
}


@pytest.mark.parametrize(
    ("request_", "meant"),
    [
        (Request("ping"), True),
        (Request("ping", destination=("w1@h",)), True),
        (Request("ping", destination=("w2@h",)), False),
        (Request("ping", pattern="w*@h", matcher="glob"), True),
        (Request("ping", pattern="v*", matcher="glob"), False),
        (Request("ping", pattern=r"w\d@", matcher="pcre"), True),
        (Request("ping", pattern="(", matcher="pcre"), False),
        (Request("ping", destination=("w2@h",), pattern="w*", matcher="glob"), False),
    ],
)
def test_a_command_is_for_whom_it_names(request_: Request, meant: bool) -> None:
    assert request_.is_for("w1@h") is meant


def test_a_command_reads_back_as_it_was_written() -> None:
    asked = Request("ping", {"a": 1}, ("w1@h",), ticket="t", reply_to=Address("reply.celery.pidbox", "oid"))

    envelope = pidbox.command(asked, SETTINGS, clock=7, timeout=1.0)

    assert pidbox.read_command(envelope) == replace(asked, clock=7)
    assert envelope.address == Address("celery.pidbox", "")
    assert json.loads(envelope.body)["reply_to"] == {"exchange": "reply.celery.pidbox", "routing_key": "oid"}


def test_the_mailbox_is_as_celery_declares_it() -> None:
    exchange, queue, binding = pidbox.mailbox("w1@h", SETTINGS)

    assert (exchange.name, exchange.type, exchange.durable) == ("celery.pidbox", "fanout", False)
    assert (queue.name, queue.durable, queue.exclusive, queue.auto_delete) == (
        "w1@h.celery.pidbox",
        False,
        True,
        True,
    )
    assert queue.arguments == {"x-message-ttl": 300_000, "x-expires": 10_000}
    assert (binding.source, binding.destination) == ("celery.pidbox", "w1@h.celery.pidbox")


@pytest.mark.parametrize(
    "body", [b"no json", b"[]", b'{"arguments": {}}', b'{"method": "x", "arguments": [1]}']
)
def test_what_is_no_command_is_refused(body: bytes) -> None:
    envelope = replace(pidbox.command(Request("ping"), SETTINGS, clock=1, timeout=0.0), body=body)

    with pytest.raises(InvalidMessage):
        pidbox.read_command(envelope)


def test_pickle_is_not_read() -> None:
    envelope = pidbox.command(Request("ping"), SETTINGS, clock=1, timeout=0.0)
    pickled = replace(
        envelope, properties=replace(envelope.properties, content_type="application/x-python-serialize")
    )

    with pytest.raises(InvalidMessage, match="only JSON"):
        pidbox.read_command(pickled)


def test_the_clock_is_beyond_whatever_it_has_heard() -> None:
    clock = Clock()
    clock.adjust(10)
    clock.adjust("nonsense")

    assert clock.forward() == 12
