"""The bytes of events: every one JSON, whatever is in it, and each its own."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks import event_wire, protocol
from amqptasks.amqp import Address, Delivery, Parcel
from amqptasks.pidbox import Clock
from amqptasks.protocol import TaskMessage
from amqptasks.transport import codec, plain
from amqptasks.worker.admission import fields_of
from amqptasks.worker.event_batch import batch

STAMP = event_wire.Stamp('50%s "odd"@host', 7)
STARTED = b'"type":"task-started"'
TO = Address("amqptasks", "mail")
texts = st.text(max_size=30) | st.text('abc%"\\\\é', max_size=30)


def came(message: TaskMessage, *, shortcut: bool = True) -> tuple[Any, Delivery]:
    """What is gathered of a call that was received."""
    parcel = (plain.pack(message, TO) if shortcut else None) or general(message)
    delivery = Delivery("mail", 1, 1, False, "amqptasks", "mail", parcel.header, parcel.body)
    return fields_of(delivery), delivery


def general(message: TaskMessage) -> Parcel:
    return codec.pack(protocol.encode(message, TO))


def call(**fields: Any) -> TaskMessage:
    known: dict[str, Any] = {"id": "a", "task": "add", "args": (1,), "kwargs": {}, "origin": "gen1@here"}
    return TaskMessage(**known | fields)


def batched(*gathered: Any, clock: Clock | None = None) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(batch(gathered, STAMP, clock or Clock()))
    return told


@pytest.mark.parametrize("parent", [None, "p"])
def test_a_batch_is_a_list_of_whole_events(parent: str | None) -> None:
    received, started = batched(1.5, *came(call(parent_id=parent)), 2.5, "a", STARTED)

    common = {"hostname": STAMP.hostname, "pid": 7, "utcoffset": event_wire.utcoffset(), "uuid": "a"}
    assert started == common | {"type": "task-started", "timestamp": 2.5, "clock": 2}
    assert received == common | {
        "type": "task-received", "timestamp": 1.5, "clock": 1, "name": "add", "args": "(1,)", "kwargs": "{}",
        "root_id": "a", "parent_id": parent, "retries": 0, "eta": None, "expires": None,
    }  # fmt: skip


@given(texts, texts, texts, st.none() | texts, st.integers(0, 3))
def test_a_plain_call_is_told_as_any_other(
    own: str, root: str, args: str, parent: str | None, retries: int
) -> None:
    message = call(id=own or "a", root_id=root, parent_id=parent, argsrepr=args, retries=retries)
    (told,) = batched(1.0, *came(message))
    # What one tells of it is no reason to read it in another way.
    (general,) = batched(1.0, *came(replace(message, group="g"), shortcut=False))

    assert told == general
    assert (told["args"], told["root_id"], told["retries"]) == (args, root or message.id, retries)


def test_every_event_has_a_clock_of_its_own_and_the_next_message_goes_on() -> None:
    clock = Clock()
    clock.adjust(40)

    told = batched(1.0, "0", STARTED, 1.0, "1", STARTED, 1.0, "2", STARTED, clock=clock)

    assert [event["clock"] for event in told] == [42, 43, 44]
    assert clock.forward() == 45


@pytest.mark.parametrize("text", ['quo"te', "back\\slash", "100 %b %d", "line\nbreak", "\u00e4\U0001f600"])
def test_any_text_is_told_as_it_is(text: str) -> None:
    received, started = batched(1.0, *came(call(id=text, argsrepr=text)), 1.0, text, STARTED)

    assert (received["uuid"], received["args"], started["uuid"]) == (text, text, text)


def test_an_id_that_is_no_proper_text_is_told_too() -> None:
    clock = Clock()
    started, other = batched(1.0, "\ud800 alone", STARTED, 1.0, "b", STARTED, clock=clock)

    assert (started["uuid"], other["uuid"]) == ("\ud800 alone", "b")
    assert (started["clock"], other["clock"], clock.value) == (1, 2, 2)


def test_what_json_has_no_word_for_is_told_as_its_repr() -> None:
    fields, delivery = came(call(group="g"))
    (received,) = batched(1.0, {**fields, "eta": b"\xff", "expires": 1 << 70}, delivery)

    assert (received["eta"], received["expires"]) == ("b'\\xff'", 1 << 70)
