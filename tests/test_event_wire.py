"""Events on the wire: where they go, how they are read, what a monitor declares."""

import time
from typing import Any

import pytest

from amqptasks import App, event_wire, pidbox, revokes
from amqptasks.amqp import Address, Binding, Envelope, Exchange, Properties, Queue
from amqptasks.errors import InvalidMessage
from tests.support.pages import ROOT

SETTINGS = {"event_exchange": "celeryev"}


def test_an_event_goes_to_nobody_in_particular_and_is_not_kept() -> None:
    envelope = event_wire.envelope("task.multi", b"[]", "w@h", SETTINGS)

    assert envelope.address == Address("celeryev", "task.multi")
    assert (envelope.fate, envelope.properties.delivery_mode) == ("event", 1)
    assert (envelope.properties.content_type, envelope.properties.content_encoding) == (
        "application/json",
        "utf-8",
    )
    assert envelope.properties.headers == {"hostname": "w@h"}


def test_a_message_of_one_event_or_of_many_is_read() -> None:
    def read(body: bytes, kind: str = "application/json") -> list[dict[str, Any]]:
        return list(event_wire.read(Envelope(Address("", ""), body, Properties(content_type=kind))))

    assert read(b'{"type":"a"}') == [{"type": "a"}]
    assert read(b'[{"type":"a"},{"type":"b"},{"no":"type"},7]') == [{"type": "a"}, {"type": "b"}]
    with pytest.raises(InvalidMessage, match="event_serializer"):
        read(b"", "application/x-python-serialize")
    with pytest.raises(InvalidMessage, match="no JSON"):
        read(b"{")


@pytest.mark.parametrize(("zone", "hours"), [("UTC", 0), ("Asia/Kolkata", -5.5), ("America/New_York", 5)])
def test_the_offset_is_celerys(monkeypatch: pytest.MonkeyPatch, zone: str, hours: float) -> None:
    """A receiver of Celery's moves timestamps by what differs from its own."""
    from celery.utils.time import utcoffset

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        winter = time.localtime(1_767_225_600)
        monkeypatch.setattr(time, "localtime", lambda *_: winter)
        assert event_wire.utcoffset() == utcoffset(localtime=lambda: winter) == hours
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_monitors_queue_is_what_the_settings_say() -> None:
    conf = App(
        "proj", broker="memory://", event_exchange="watched", event_queue_prefix="mine", event_queue_ttl=1.5,
        event_queue_expires=30, event_queue_exclusive=False, event_queue_durable=True,
    ).conf  # fmt: skip

    exchange, queue, binding = event_wire.receiving("7", event_wire.settings_of(conf), "task.#")

    assert (exchange.name, exchange.type, exchange.durable) == ("watched", "topic", True)
    assert (queue.name, queue.durable, queue.exclusive) == ("mine.7", True, False)
    assert queue.arguments == {"x-message-ttl": 1500, "x-expires": 30_000}
    assert binding == Binding("watched", "mine.7", "task.#")


def test_what_the_page_calls_exchanges_and_queues_is_what_is_declared() -> None:
    conf = App("proj", broker="memory://").conf
    declared = [
        *pidbox.mailbox("<node>", conf),
        *pidbox.reply_box("<id>", conf),
        *event_wire.receiving("<id>", event_wire.settings_of(conf)),
        revokes.stream(1.0),
    ]
    names = {entity.name for entity in declared if isinstance(entity, Exchange | Queue)}
    page = (ROOT / "docs/reference/wire.md").read_text()
    rows = {row.split("`")[1]: row for row in page.splitlines() if row.startswith("| `")}

    assert names <= rows.keys()
    for entity in declared:
        if isinstance(entity, Exchange):
            assert (
                f"| exchange, {entity.type}, {'durable' if entity.durable else 'not durable'} |"
                in rows[entity.name]
            )
        elif isinstance(entity, Queue):
            assert ("auto-delete" in rows[entity.name]) is entity.auto_delete
