"""The bytes of events: every one JSON, whatever is in it, and each its own."""

import json
import time
from typing import Any

import pytest

from amqptasks import App, event_wire, pidbox, revokes
from amqptasks.amqp import Address, Binding, Envelope, Exchange, Properties, Queue
from amqptasks.errors import InvalidMessage
from amqptasks.pidbox import Clock
from tests.support.pages import ROOT

STAMP = event_wire.Stamp('50%s "odd"@host', 7)
SETTINGS = {"event_exchange": "celeryev"}


def received(more: dict[str, Any] | None = None, args: str = "(1,)") -> bytes:
    fields = {"task": "add", "id": "a", "retries": 0} | (more or {})
    return event_wire.received(fields, "a", None, args, "{}")


def batched(*happened: event_wire.Happened, clock: Clock | None = None) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(event_wire.batch(happened, STAMP, clock or Clock()))
    return told


def test_a_batch_is_a_list_of_whole_events() -> None:
    came, started = batched((1.5, "a", received()), (2.5, "a", b'"type":"task-started"'))

    common = {"hostname": STAMP.hostname, "pid": 7, "utcoffset": event_wire.utcoffset(), "uuid": "a"}
    assert started == common | {"type": "task-started", "timestamp": 2.5, "clock": 2}
    assert came == common | {
        "type": "task-received", "timestamp": 1.5, "clock": 1, "name": "add", "args": "(1,)", "kwargs": "{}",
        "root_id": "a", "parent_id": None, "retries": 0, "eta": None, "expires": None,
    }  # fmt: skip


def test_every_event_has_a_clock_of_its_own_and_the_next_message_goes_on() -> None:
    clock = Clock()
    clock.adjust(40)

    told = batched(*[(1.0, str(number), b'"type":"task-started"') for number in range(3)], clock=clock)

    assert [event["clock"] for event in told] == [42, 43, 44]
    assert clock.forward() == 45


@pytest.mark.parametrize(
    "text", ['quo"te', "back\\slash", "100 %b %d", "line\nbreak", "\u00e4\U0001f600", "\ud800 alone"]
)
def test_any_text_is_told_as_it_is(text: str) -> None:
    came, started = batched((1.0, text, received(args=text)), (1.0, text, b'"type":"t"'))

    assert (came["uuid"], came["args"], started["uuid"]) == (text, text, text)


def test_what_json_has_no_word_for_is_told_as_its_repr() -> None:
    (came,) = batched((1.0, "a", received({"eta": b"\xff", "expires": 1 << 70})))

    assert (came["eta"], came["expires"]) == ("b'\\xff'", 1 << 70)


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
