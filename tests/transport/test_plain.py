"""The shortcut for plain calls says what `protocol` and `codec` say, or nothing."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks import protocol
from amqptasks.amqp import Address, Delivery, Envelope, Parcel
from amqptasks.errors import EncodeError
from amqptasks.protocol import TaskMessage
from amqptasks.request import Request
from amqptasks.serialization import accept_set
from amqptasks.transport import codec, plain
from amqptasks.worker.admission import KEYS

TO = Address("amqptasks", "mail")
JSON = accept_set(["json"])
QUOTED = ("task", "id", "root_id", "argsrepr", "kwargsrepr")

SAID = (
    *(
        "id",
        "task",
        "retries",
        "root_id",
        "parent_id",
        "origin",
        "ignore_result",
        "priority",
        "correlation_id",
    ),
    "reply_to",
)

texts = st.text(max_size=40) | st.text("abc-é\ud800", min_size=1, max_size=300)
ids = st.uuids().map(str) | texts
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.uuids(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
rare: dict[str, st.SearchStrategy[Any]] = {
    "eta": st.datetimes(timezones=st.just(UTC)),
    "expires": st.datetimes(timezones=st.just(UTC)),
    "group": texts,
    "group_index": st.integers(0, 9),
    "shadow": texts,
    "callbacks": st.lists(st.integers(), max_size=2),
    "errbacks": st.lists(st.integers(), max_size=2),
    "chain": st.lists(st.integers(), max_size=2),
    "chord": st.integers(),
    "stamped_headers": st.lists(st.text(max_size=3), max_size=2),
    "stamps": st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    "headers": st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.integers(), max_size=2),
    "timelimit": st.tuples(st.none() | st.integers(1, 9), st.none() | st.integers(1, 9)),
    "replaced_task_nesting": st.integers(0, 2),
    "compression": st.sampled_from(["gzip", None]),
    "expiration_ms": st.integers(1, 9),
    "serializer": st.sampled_from(["json", "pickle"]),
    "argsrepr": texts,
    "kwargsrepr": texts,
}  # fmt: skip


@st.composite
def messages(draw: st.DrawFn) -> TaskMessage:
    """Calls of all kinds, most of them plain, or nearly."""
    fields: dict[str, Any] = {
        "id": draw(ids),
        "task": draw(texts),
        "args": draw(st.lists(values, max_size=3)),
        "kwargs": draw(st.dictionaries(st.text(max_size=5), values, max_size=3)),
        "retries": draw(st.integers(0, 3) | st.integers()),
        "root_id": draw(st.none() | ids),
        "parent_id": draw(st.none() | ids),
        "origin": draw(st.none() | texts),
        "ignore_result": draw(st.sampled_from([True, False, None])),
        "correlation_id": draw(st.none() | ids),
        "reply_to": draw(st.none() | texts),
        "priority": draw(st.none() | st.integers(-1, 300)),
        "persistent": draw(st.booleans()),
    }
    for name in draw(st.lists(st.sampled_from(sorted(rare)), max_size=2)):
        fields[name] = draw(rare[name])
    return TaskMessage(**fields)


@pytest.fixture(autouse=True, scope="module")
def _one_moment() -> Iterator[None]:
    """Both ways write what the clock says, and are compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "time", lambda: 1_800_000_000.0)
        patch.setattr(plain, "time", lambda: 1_800_000_000.0)
        yield


def packed(message: TaskMessage) -> Parcel:
    return codec.pack(protocol.encode(message, TO))


def delivered(parcel: Parcel) -> Delivery:
    return Delivery("mail", 1, 1, False, parcel.exchange, parcel.routing_key, parcel.header, parcel.body)


@given(messages())
def test_what_is_packed_are_the_very_bytes_of_the_protocol(message: TaskMessage) -> None:
    try:
        mine = plain.pack(message, TO)
    except EncodeError:
        with pytest.raises(EncodeError):
            packed(message)
        return
    if mine is not None:
        assert mine == packed(message)


def otherwise(header: bytes, data: st.DataObject) -> bytes:
    """The same with other properties, as other senders set them."""
    names = ["priority", "message_id", "timestamp", "correlation_id", "reply_to", "delivery_mode"]
    gone = data.draw(st.lists(st.sampled_from([*names, "content_type", "content_encoding"]), max_size=3))
    properties = replace(codec.decode_header(header), **dict.fromkeys(gone))
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(["type", "app_id", "user_id", "expiration"]))
        properties = replace(properties, **{name: "1"})
    return codec.encode_header(properties)


@given(messages(), st.data())
def test_a_request_read_as_plain_is_the_one_that_the_protocol_reads(
    message: TaskMessage, data: st.DataObject
) -> None:
    try:
        parcel = packed(message)
    except EncodeError:
        return
    delivery = delivered(replace(parcel, header=otherwise(parcel.header, data)))
    mine = Request.plain(delivery, hostname="w1@here")
    if mine is None:
        return
    envelope = Envelope(Address("amqptasks", "mail"), delivery.body, codec.decode_header(delivery.header))
    whole = protocol.decode(envelope, accept=JSON, limit=0)
    theirs = Request.of(whole, delivery, hostname="w1@here")
    assert mine.message == whole
    for name in Request.__dataclass_fields__:
        assert getattr(mine, name) == getattr(theirs, name), name


@given(messages())
def test_what_the_parent_peeks_at_are_the_headers_that_it_would_select(message: TaskMessage) -> None:
    try:
        header = packed(message).header
    except EncodeError:
        return
    mine = plain.peek(header)
    if mine is not None:
        theirs = codec.select(header, KEYS)
        assert {**dict.fromkeys(KEYS), **mine, "timelimit": [None, None]} == {**dict.fromkeys(KEYS), **theirs}


@given(messages(), st.data())
def test_what_is_quoted_is_what_would_be_selected(message: TaskMessage, data: st.DataObject) -> None:
    try:
        header = otherwise(packed(message).header, data)
    except EncodeError:
        return
    mine = plain.quoted(header)
    if mine is not None:
        theirs = codec.select(header, (*QUOTED, "parent_id"))
        assert theirs.get("parent_id") is None
        assert mine == tuple(orjson.dumps(theirs[key])[1:-1] for key in QUOTED)


def test_of_a_plain_call_it_quotes_what_an_event_tells() -> None:
    header = packed(call(root_id="r", argsrepr="(1,)", kwargsrepr="{}")).header

    assert plain.quoted(header) == (b"shop.bill", b"an-id", b"r", b"(1,)", b"{}")
    assert plain.quoted(packed(call(parent_id="p", argsrepr="", kwargsrepr="")).header) is None
    for end in range(header.index(b"root_id"), header.index(b"origin")):
        assert plain.quoted(header[:end]) is None


@pytest.mark.parametrize("text", ['quo"te', "back\\slash", "line\nbreak", "\u00e4", "\x7f"])
def test_what_json_may_write_in_another_way_is_not_quoted(text: str) -> None:
    for place in ("id", "root_id", "argsrepr", "kwargsrepr"):
        assert plain.quoted(packed(call(**{place: text})).header) is None


@given(messages(), st.data())
def test_bytes_that_were_damaged_are_read_as_the_protocol_reads_them_or_not_at_all(
    message: TaskMessage, data: st.DataObject
) -> None:
    try:
        header = bytearray(packed(message).header)
    except EncodeError:
        return
    for _ in range(data.draw(st.integers(1, 3))):
        header[data.draw(st.integers(0, len(header) - 1))] = data.draw(st.integers(0, 255))
    cut = (
        bytes(header[: data.draw(st.integers(0, len(header)))]) if data.draw(st.booleans()) else bytes(header)
    )
    said = plain.read(cut)
    if said is not None:
        whole = protocol.decode(Envelope(TO, b"", codec.decode_header(cut)), accept=JSON, limit=0)
        assert said == tuple(getattr(whole, name) for name in SAID)


def test_a_message_id_that_is_no_text_is_left_to_the_codec_to_refuse() -> None:
    header = packed(call(id="an-id", correlation_id="c")).header
    at = header.rindex(b"an-id")

    assert plain.read(header) is not None
    assert plain.read(header[:at] + b"\xa0" + header[at + 1 :]) is None


def call(**fields: Any) -> TaskMessage:
    return TaskMessage(
        **{
            "id": "an-id",
            "task": "shop.bill",
            "args": (1, "ü"),
            "kwargs": {"net": 2.5},
            "origin": "gen1@here",
        }
        | fields
    )


PLAIN = [
    {},
    {"ignore_result": True, "reply_to": "amqptasks.reply.1"},
    {
        "ignore_result": None,
        "parent_id": "p",
        "root_id": "r",
        "retries": 3,
        "priority": 9,
        "persistent": False,
    },
    {"args": (), "kwargs": {}, "correlation_id": "another", "id": "é" * 100, "argsrepr": "(...)"},
]


@pytest.mark.parametrize("fields", PLAIN)
def test_calls_with_nothing_but_arguments_take_the_shortcut(fields: dict[str, Any]) -> None:
    parcel = plain.pack(call(**fields), TO)

    assert parcel == packed(call(**fields))
    assert plain.peek(parcel.header) is not None
    request = Request.plain(delivered(parcel))
    assert request is not None
    assert request.message == protocol.decode(codec.unpack(delivered(parcel)), accept=JSON, limit=0)


def test_a_call_of_celery_s_takes_it_too() -> None:
    """Its clients set neither priority nor message_id nor timestamp, and write blanks into the body."""
    parcel = packed(call())
    properties = replace(
        codec.decode_header(parcel.header), priority=None, message_id=None, timestamp=None, reply_to="an-oid"
    )
    body = b'[[1, "x"], {"net": 2.5}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
    delivery = Delivery("mail", 1, 1, False, "", "mail", codec.encode_header(properties), body)

    request = Request.plain(delivery)

    assert request is not None
    assert (request.priority, request.reply_to, request.args) == (None, "an-oid", [1, "x"])
    assert request.message == protocol.decode(codec.unpack(delivery), accept=JSON, limit=0)


OTHERS = [
    {"eta": datetime(2030, 1, 1, tzinfo=UTC)},
    {"expires": datetime(2030, 1, 1, tzinfo=UTC)},
    {"group": "g", "group_index": 1},
    {"shadow": "other"},
    {"callbacks": [{}]},
    {"errbacks": [{}]},
    {"chain": [{}]},
    {"chord": {}},
    {"headers": {"mine": 1}},
    {"stamps": {"a": 1}, "stamped_headers": ["a"]},
    {"timelimit": (3, None)},
    {"replaced_task_nesting": 1},
    {"serializer": "pickle"},
    {"compression": "gzip"},
    {"expiration_ms": 100},
    {"origin": None},
]


@pytest.mark.parametrize("fields", OTHERS)
def test_any_other_call_does_not(fields: dict[str, Any]) -> None:
    assert plain.pack(call(**fields), TO) is None
    assert Request.plain(delivered(packed(call(**fields)))) is None


@pytest.mark.parametrize(
    "fields", [{"id": "x" * 256}, {"priority": 256}, {"retries": 1 << 31}, {"task": None}]
)
def test_what_the_protocol_would_refuse_is_left_to_it(fields: dict[str, Any]) -> None:
    assert plain.pack(call(**fields), TO) is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[[],{}]",
        b"{}",
        b"[{},[],{}]",
        b'[[],{},{"callbacks":null}]',
        b"[" * 2000,
        b"\xff",
        b'[[{"__type__":"no","__value__":1}],{},{}]',
    ],
)
def test_a_body_of_another_form_is_left_to_the_protocol(body: bytes) -> None:
    assert plain.arguments(body) is None


def test_the_message_that_a_retry_repeats_has_the_arguments_that_the_task_changed() -> None:
    parcel = plain.pack(call(args=([1],)), TO)
    assert parcel is not None
    request = Request.plain(delivered(parcel))
    assert request is not None
    request.args[0].append(2)

    assert request.message is not None
    assert request.message.args is request.args
    assert request.message is request.message
