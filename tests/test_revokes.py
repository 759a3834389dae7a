"""Revocations as values: the stream's arguments, a record's way there and back, stamps as words."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from amqptasks import App, control, revokes
from amqptasks.control import Control
from amqptasks.errors import InvalidMessage, QueueDown


def test_the_stream_keeps_what_is_younger_than_the_retention_and_no_more_than_so_many_bytes() -> None:
    arguments = revokes.stream(7 * 86400.0).arguments

    assert arguments["x-queue-type"] == "stream"
    assert arguments["x-max-age"] == "604800s"
    assert arguments["x-max-length-bytes"] == 100_000_000
    assert revokes.stream(0.2).arguments["x-max-age"] == "1s"


def test_a_record_is_read_as_it_was_written() -> None:
    before = time.time()
    read = revokes.read(revokes.record(["a", "b"], {"customer": ["17", 18]}).body)

    assert read.ids == ("a", "b")
    assert read.stamps == {"customer": ["17", 18]}
    assert before <= read.since <= time.time()
    assert read.mark == ""
    assert revokes.read(revokes.record(mark="m").body).mark == "m"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"ids": 3}', b'{"since": "soon"}', b'{"stamps": 1}'])
def test_what_is_no_record_says_so(body: bytes) -> None:
    with pytest.raises(InvalidMessage, match=r"amqptasks\.revokes"):
        revokes.read(body)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "SIGTERM"),
        ("", "SIGTERM"),
        ("KILL", "SIGKILL"),
        ("sigint", "SIGINT"),
        (9, "SIGKILL"),
        ("9", "SIGKILL"),
    ],
)
def test_a_signal_is_known_by_its_name_or_number(given: object, name: str) -> None:
    assert revokes.signal_name(given) == name


@pytest.mark.parametrize("given", ["SIGNONSENSE", 99, "SIG", 1.5])
def test_what_is_no_signal_is_a_mistake(given: object) -> None:
    with pytest.raises(ValueError, match="there is no signal"):
        revokes.signal_name(given)


def test_a_client_writes_nothing_down_for_a_signal_that_does_not_exist() -> None:
    app = App("client", broker="amqp://guest:guest@127.0.0.1:1//", set_as_current=False)
    with app:
        with pytest.raises(ValueError, match="there is no signal 'SIGNONSENSE'"):
            app.control.revoke("id", terminate=True, signal="SIGNONSENSE")
        with pytest.raises(ValueError, match="there is no signal"):
            app.control.terminate("id", signal="SIGNONSENSE")
        with pytest.raises(ValueError, match="there is no signal"):
            app.control.revoke_by_stamped_headers({"a": "1"}, terminate=True, signal="SIGNONSENSE")


class Broker:
    """A connection to a RabbitMQ whose stream is `down` for so many questions."""

    server = SimpleNamespace(product="RabbitMQ")

    def __init__(self, down: int) -> None:
        self.down = down
        self.written: list[str] = []

    def declare(self, entity: Any) -> None:
        if entity.name == revokes.NAME and self.down:
            self.down -= 1
            raise QueueDown("home node is down", 404)

    def publish(self, envelopes: Any) -> None:
        self.written += [envelope.address.routing_key for envelope in envelopes]


def revoke_on(broker: Broker) -> None:
    with App("client", broker="amqp://guest:guest@127.0.0.1:1//", set_as_current=False) as app:
        Control(SimpleNamespace(conf=app.conf, connection=broker, router=app.router)).revoke("id")


def test_a_stream_that_is_not_back_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that has just been started lets clients in before its streams have leaders."""
    monkeypatch.setattr(control, "AGAIN", 0.01)
    broker = Broker(down=3)

    revoke_on(broker)

    assert broker.written[0] == revokes.NAME
    assert len(broker.written) == 2, "and the workers that run are told"


def test_a_stream_that_stays_away_keeps_nobody_from_revoking(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control, "AGAIN", 0.01)
    monkeypatch.setattr(revokes, "BACK", 0.05)
    broker = Broker(down=10_000)

    revoke_on(broker)

    assert len(broker.written) == 1
    assert "only the workers that run now are told" in caplog.text


def test_stamps_are_read_of_words_and_a_name_may_come_again() -> None:
    assert revokes.stamps(["a=1", "b=x=y", "a=2"]) == {"a": ["1", "2"], "b": "x=y"}
    with pytest.raises(ValueError, match="'a' is no stamp; write name=value"):
        revokes.stamps(["a"])
