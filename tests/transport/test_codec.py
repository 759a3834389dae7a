"""The codec against itself, pika's decoder and py-amqp's: what we write they read, what they write we read."""

from __future__ import annotations

import enum
import struct
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType

import amqp.basic_message
import amqp.serialization
import pika.frame
import pika.spec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks.amqp import Address, Delivery, Envelope, Properties
from amqptasks.errors import EncodeError, InvalidMessage, TooLarge
from amqptasks.transport import codec

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
short = st.text(st.characters(codec="ascii", exclude_characters="\x00"), max_size=60)
moments = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1)).map(
    lambda value: value.replace(microsecond=0, tzinfo=UTC)
)
small_decimals = st.decimals(min_value=-20000, max_value=20000, places=4)
plain = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | text
    | moments
    | small_decimals
)
whole = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | text


def nested(leaves: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=20,
    )


octets = st.none() | st.integers(0, 255)


def properties_with(headers: st.SearchStrategy[object]) -> st.SearchStrategy[Properties]:
    return st.builds(
        Properties,
        content_type=st.none() | short,
        content_encoding=st.none() | short,
        headers=st.none() | st.dictionaries(text, headers, max_size=8),
        delivery_mode=octets,
        priority=octets,
        correlation_id=st.none() | short,
        reply_to=st.none() | short,
        expiration=st.none() | short,
        message_id=st.none() | short,
        timestamp=st.none() | st.integers(0, (1 << 40)),
        type=st.none() | short,
        user_id=st.none() | short,
        app_id=st.none() | short,
    )


TASK = {
    "lang": "py",
    "task": "proj.tasks.add",
    "id": "5b4a1c54-0d2f-4c2c-9c6e-9f6b4d8a2c11",
    "eta": None,
    "retries": 3,
    "timelimit": [10.5, None],
    "stamps": {"a": ["b", {"c": 1}]},
    "wide": 1 << 40,
    "blob": b"\x00\xff",
    "ok": True,
}


def header_of(headers: dict[str, object]) -> bytes:
    return codec.encode_header(Properties(headers=headers))


@given(properties_with(nested(plain | st.binary(max_size=20))))
def test_a_header_comes_back_as_it_was(properties: Properties) -> None:
    assert codec.decode_header(codec.encode_header(properties)) == properties


@given(properties_with(nested(whole)))  # pika cuts floats to whole numbers
def test_pika_reads_what_we_write(properties: Properties) -> None:
    theirs = pika.spec.BasicProperties()

    theirs.decode(codec.encode_header(properties))

    assert {name: getattr(theirs, name) for name in Properties.__dataclass_fields__} == {
        name: getattr(properties, name) for name in Properties.__dataclass_fields__
    }


@given(st.dictionaries(text, nested(whole | st.floats(allow_nan=False)), max_size=8))
def test_py_amqp_reads_what_we_write(headers: dict[str, object]) -> None:
    properties = Properties(headers=headers, content_type="application/json", delivery_mode=2, priority=0)
    theirs = amqp.basic_message.Message()

    theirs._load_properties(60, codec.encode_header(properties), 0)

    assert theirs.properties.get("application_headers") == headers
    assert theirs.properties["content_type"] == "application/json"
    assert (theirs.properties["delivery_mode"], theirs.properties["priority"]) == (2, 0)


@given(st.dictionaries(text, whole | moments))
def test_we_read_what_pika_writes(headers: dict[str, object]) -> None:
    theirs = pika.spec.BasicProperties(headers=headers, message_id="m", priority=4)

    ours = codec.decode_header(b"".join(theirs.encode()))

    assert ours == Properties(headers=headers, message_id="m", priority=4)


@given(st.dictionaries(short, nested(whole | st.floats(allow_nan=False)), min_size=1, max_size=8))
def test_we_read_what_py_amqp_writes(headers: dict[str, object]) -> None:
    theirs = amqp.basic_message.Message("", application_headers=headers, delivery_mode=2, correlation_id="c")

    ours = codec.decode_header(theirs._serialize_properties())

    assert ours == Properties(headers=headers, delivery_mode=2, correlation_id="c")


@pytest.mark.parametrize(
    ("letter", "raw", "value"),
    [
        ("b", struct.pack(">b", -3), -3),
        ("B", struct.pack(">B", 200), 200),
        ("s", struct.pack(">h", -300), -300),
        ("u", struct.pack(">H", 60000), 60000),
        ("i", struct.pack(">I", 4_000_000_000), 4_000_000_000),
        ("L", struct.pack(">q", -5), -5),
        ("f", struct.pack(">f", 1.5), 1.5),
        ("S", struct.pack(">I", 2) + b"\xff\xfe", b"\xff\xfe"),
        ("x", struct.pack(">I", 2) + b"ab", b"ab"),
        ("T", struct.pack(">Q", 1_700_000_000_000_000), 1_700_000_000_000_000),
        ("D", struct.pack(">Bi", 2, -150), Decimal("-1.50")),
    ],
)
def test_every_type_of_rabbitmq_is_read_and_stepped_over(letter: str, raw: bytes, value: object) -> None:
    table = b"\x01k" + letter.encode() + raw + b"\x01zV"
    header = struct.pack(">HI", 1 << 13, len(table)) + table

    assert codec.decode_header(header).headers == {"k": value, "z": None}
    assert codec.select(header, ("z",)) == {"z": None}


def test_select_gives_the_keys_asked_for_and_no_others() -> None:
    properties = Properties(
        content_type="application/json", content_encoding="utf-8", headers=TASK, priority=1
    )

    found = codec.select(codec.encode_header(properties), ("id", "timelimit", "stamps", "missing", "ok"))

    assert found == {key: TASK[key] for key in ("id", "timelimit", "stamps", "ok")}


def test_select_of_a_message_without_headers_is_empty() -> None:
    assert codec.select(codec.encode_header(Properties(content_type="x")), ("id",)) == {}


@given(st.binary(max_size=80))
def test_bytes_that_are_no_header_are_an_invalid_message(garbage: bytes) -> None:
    for read in (codec.decode_header, lambda header: codec.select(header, ("id", "task"))):
        try:
            read(garbage)
        except InvalidMessage:
            pass


@pytest.mark.parametrize("length", range(1, len(header_of(TASK))))
def test_a_header_cut_short_is_an_invalid_message(length: int) -> None:
    header = header_of(TASK)

    with pytest.raises(InvalidMessage):
        codec.decode_header(header[:length])


def test_a_header_nested_to_break_the_reader_is_an_invalid_message() -> None:
    inner = b""
    for _ in range(20_000):
        inner = b"A" + struct.pack(">I", len(inner)) + inner
    table = b"\x01k" + inner
    header = struct.pack(">HI", 1 << 13, len(table)) + table

    with pytest.raises(InvalidMessage):
        codec.decode_header(header)


class Colour(enum.IntEnum):
    RED = 7


class Name(str):
    __slots__ = ()


def test_subclasses_travel_as_what_they_are_made_of() -> None:
    headers = {"colour": Colour.RED, "name": Name("n"), "map": MappingProxyType({"a": 1}), "pair": (1, 2)}

    assert codec.decode_header(header_of(headers)).headers == {
        "colour": 7,
        "name": "n",
        "map": {"a": 1},
        "pair": [1, 2],
    }


def test_what_amqp_cannot_hold_keeps_its_digits_as_text() -> None:
    headers = {"wide": 1 << 70, "fine": Decimal("0.12345678901234567890")}

    assert codec.decode_header(header_of(headers)).headers == {
        key: str(value) for key, value in headers.items()
    }


def test_a_naive_header_time_is_utc() -> None:
    assert codec.decode_header(header_of({"at": datetime(2026, 1, 1)})).headers == {
        "at": datetime(2026, 1, 1, tzinfo=UTC)
    }


def test_a_lone_surrogate_survives() -> None:
    assert codec.decode_header(header_of({"repr": "\ud800"})).headers == {"repr": "\ud800"}


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"tags": {1, 2}}, "'tags' is set"),
        ({"deep": {"er": object()}}, "'er' is object"),
        ({1: "x"}, "must be a string, not int"),
        ({"k" * 300: 1}, "255 bytes"),
    ],
)
def test_a_header_that_amqp_has_not_is_named(headers: dict, said: str) -> None:
    with pytest.raises(EncodeError, match=said):
        header_of(headers)


def test_headers_that_contain_themselves_are_refused() -> None:
    headers: dict[str, object] = {}
    headers["self"] = headers

    with pytest.raises(EncodeError, match="nested"):
        header_of(headers)


@pytest.mark.parametrize(
    "wrong",
    [{"priority": 256}, {"delivery_mode": -1}, {"timestamp": -1}, {"timestamp": 1.5}, {"priority": "x"}],
)
def test_a_property_out_of_range_is_refused_before_it_costs_the_channel(wrong: dict) -> None:
    with pytest.raises(EncodeError, match=next(iter(wrong))):
        codec.encode_header(Properties(**wrong))


@pytest.mark.parametrize("name", ["content_type", "correlation_id", "reply_to", "message_id", "app_id"])
def test_a_property_over_255_bytes_is_named(name: str) -> None:
    with pytest.raises(TooLarge, match=name):
        codec.encode_header(Properties(**{name: "é" * 128}))


@pytest.mark.parametrize(("exchange", "routing_key"), [("e" * 256, "k"), ("e", "é" * 128)])
def test_an_address_over_255_bytes_is_refused_by_the_caller(exchange: str, routing_key: str) -> None:
    with pytest.raises(TooLarge):
        codec.pack(Envelope(Address(exchange, routing_key), b"", Properties()))


def test_a_parcel_carries_the_message_id_in_its_header() -> None:
    given_id = codec.pack(Envelope(Address("e", "k"), b"x", Properties(message_id="mine")))
    made_up = codec.pack(Envelope(Address("e", "k"), b"x", Properties()))

    assert given_id.message_id == codec.decode_header(given_id.header).message_id == "mine"
    assert made_up.message_id == codec.decode_header(made_up.header).message_id
    assert len(made_up.message_id) == 36


def test_a_delivery_unpacks_to_the_envelope_that_was_packed() -> None:
    envelope = Envelope(Address("e", "k"), b"body", Properties(headers=dict(TASK), message_id="m"))
    parcel = codec.pack(envelope)
    delivery = Delivery("q", 1, 1, False, parcel.exchange, parcel.routing_key, parcel.header, parcel.body)

    assert codec.unpack(delivery) == envelope


# --- frames ----------------------------------------------------------------------------------------------


def frames_in(data: bytes) -> list[object]:
    frames = []
    while data:
        used, frame = pika.frame.decode_frame(data)
        assert frame is not None
        data = data[used:]
        frames.append(frame)
    return frames


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 10_000])
def test_pika_reads_our_publish(size: int) -> None:
    body = bytes(index % 251 for index in range(size))
    header = codec.encode_header(Properties(headers=TASK, priority=3))

    method, content, *bodies = frames_in(codec.publish_frames(7, "exchange", "key.é", header, body, 4096))

    assert isinstance(method.method, pika.spec.Basic.Publish)
    assert (method.channel_number, method.method.exchange, method.method.routing_key) == (
        7,
        "exchange",
        "key.é",
    )
    assert (method.method.mandatory, method.method.immediate) == (True, False)
    assert (content.channel_number, content.body_size, content.properties.priority) == (7, size, 3)
    assert content.properties.headers == {**TASK, "timelimit": [10, None]}  # pika cuts floats
    assert b"".join(frame.fragment for frame in bodies) == body
    assert all(len(frame.fragment) <= 4088 for frame in bodies)


@pytest.mark.parametrize("flag", [True, False])
def test_pika_reads_how_we_settle(flag: bool) -> None:
    tag = (1 << 40) + 5

    [ack] = frames_in(codec.ack_frame(3, tag, multiple=flag))
    [reject] = frames_in(codec.reject_frame(3, tag, requeue=flag))
    [nack] = frames_in(codec.nack_frame(3, tag, multiple=flag, requeue=not flag))

    assert (type(ack.method), ack.method.delivery_tag, ack.method.multiple) == (
        pika.spec.Basic.Ack,
        tag,
        flag,
    )
    assert (type(reject.method), reject.method.delivery_tag, reject.method.requeue) == (
        pika.spec.Basic.Reject,
        tag,
        flag,
    )
    assert (type(nack.method), nack.method.delivery_tag) == (pika.spec.Basic.Nack, tag)
    assert (nack.method.multiple, nack.method.requeue) == (flag, not flag)
    assert {ack.channel_number, reject.channel_number, nack.channel_number} == {3}
