"""The message protocol, against real Celery where there is one to ask, and against what other senders write."""

from __future__ import annotations

import json
import math
import time
import timeit
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import amqp.basic_message
import celery
import celery.worker.request
import kombu.message
import kombu.serialization
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks import protocol
from amqptasks.amqp import Address, Delivery, Envelope, Properties
from amqptasks.errors import ContentDisallowed, DecodeError, EncodeError, Inflated, InvalidMessage
from amqptasks.protocol import TaskMessage
from amqptasks.serialization import accept_set
from amqptasks.shown import shown
from amqptasks.transport import codec

TO = Address("amqptasks", "short")
JSON = accept_set(["json"])
EVERYTHING = accept_set(["json", "msgpack", "yaml", "pickle"])
ID = "5b4a1c54-0d2f-4c2c-9c6e-9f6b4d8a2c11"
NOON = datetime(2026, 11, 21, 12, 0, 0, 646340, tzinfo=UTC)
SIGNATURE = {"task": "t", "args": [1], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}


def decode(envelope: Envelope, accept: frozenset[str] = JSON, limit: int = 1 << 20) -> TaskMessage:
    return protocol.decode(envelope, accept=accept, limit=limit)


def over_the_wire(envelope: Envelope) -> Envelope:
    """Through the bytes of AMQP, as a delivery."""
    parcel = codec.pack(envelope)
    return codec.unpack(
        Delivery("q", 1, 1, False, parcel.exchange, parcel.routing_key, parcel.header, parcel.body)
    )


# --- there and back ------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
word = st.text("abcdefghij-._0123456789", min_size=1, max_size=30)
maybe = st.none() | word
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
header = (
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False) | text
)
seconds = st.none() | st.integers(0, 10**6) | st.floats(0, 1e6)
moments = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30))]))
signatures = st.none() | st.lists(st.just(SIGNATURE), min_size=1, max_size=3)
own_names = word.map(lambda name: f"x-own-{name}")

messages = st.builds(
    TaskMessage,
    id=word,
    task=word,
    args=st.lists(plain, max_size=3),
    kwargs=st.dictionaries(word, plain, max_size=3),
    retries=st.integers(0, 100),
    eta=st.none() | moments,
    expires=st.none() | moments,
    group=maybe,
    group_index=st.none() | st.integers(0, 10**6),
    root_id=word,
    parent_id=maybe,
    origin=maybe,
    shadow=maybe,
    timelimit=st.tuples(seconds, seconds),
    ignore_result=st.booleans(),
    replaced_task_nesting=st.integers(0, 9),
    stamped_headers=st.none() | st.lists(word, max_size=3),
    stamps=st.dictionaries(word, header, max_size=3),
    callbacks=signatures,
    errbacks=signatures,
    chain=signatures,
    chord=st.none() | st.just(SIGNATURE),
    headers=st.dictionaries(own_names, header, max_size=3),
    correlation_id=word,
    reply_to=maybe,
    priority=st.integers(0, 255),
    argsrepr=text,
    kwargsrepr=text,
    serializer=st.sampled_from(["application/json", "application/x-python-serialize"]),
    compression=st.sampled_from([None, "application/x-gzip", "application/zstd"]),
    persistent=st.booleans(),
    expiration_ms=st.none() | st.integers(0, 1 << 31),
)


@given(messages)
def test_a_call_arrives_as_it_was_sent(message: TaskMessage) -> None:
    envelope = protocol.encode(message, TO)

    assert decode(over_the_wire(envelope), EVERYTHING) == message
    assert envelope.address == TO


def test_what_a_caller_leaves_out_is_filled_in() -> None:
    envelope = protocol.encode(TaskMessage(id=ID, task="t", args=(1,), kwargs={"b": "x"}), TO)

    message = decode(envelope)

    assert (message.root_id, message.correlation_id, message.priority) == (ID, ID, 0)
    assert (message.argsrepr, message.kwargsrepr) == ("(1,)", "{'b': 'x'}")
    assert (message.reply_to, message.eta, message.expires) == (None, None, None)
    assert envelope.properties.message_id == ID


def test_a_time_without_a_zone_is_utc_both_ways() -> None:
    naive = NOON.replace(tzinfo=None)
    envelope = protocol.encode(TaskMessage(id=ID, task="t", eta=naive, expires=naive), TO)

    assert envelope.properties.headers["eta"] == "2026-11-21T12:00:00.646340+00:00"
    assert decode(envelope).eta == decode(envelope).expires == NOON


def test_headers_of_the_sender_stand_beside_the_protocols() -> None:
    envelope = protocol.encode(TaskMessage(id=ID, task="t", headers={"tenant": "acme", "x-death": []}), TO)

    assert envelope.properties.headers["tenant"] == "acme"
    assert decode(envelope).headers == {"tenant": "acme", "x-death": []}


def test_a_header_of_the_protocol_cannot_be_overwritten() -> None:
    with pytest.raises(EncodeError, match="'id' belongs to the message protocol"):
        protocol.encode(TaskMessage(id=ID, task="t", headers={"id": "other"}), TO)


def test_the_brokers_headers_are_stripped_and_no_others() -> None:
    headers = {
        "x-death": [{"count": 1}],
        "x-first-death-queue": "q",
        "x-last-death-reason": "expired",
        "x-delivery-count": 3,
        "CC": ["elsewhere"],
        "x-amqptasks-crashes": 2,
        "tenant": "acme",
        "task": "t",
    }

    assert protocol.strip_broker_headers(headers) == {"x-amqptasks-crashes": 2, "tenant": "acme", "task": "t"}


def test_an_argument_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(EncodeError, match="type set; pass a list"):
        protocol.encode(TaskMessage(id=ID, task="t", args=({1},)), TO)


class Unshowable:
    def __json__(self) -> str:
        return "ok"

    def __repr__(self) -> str:
        raise ValueError("no")


def test_an_argument_whose_repr_fails_is_sent_all_the_same() -> None:
    message = decode(protocol.encode(TaskMessage(id=ID, task="t", args=(Unshowable(),)), TO))

    assert message.args == ["ok"]
    assert message.argsrepr == "<tuple, whose repr() raised ValueError>"


@pytest.mark.parametrize("large", ["x" * 5_000_000, list(range(500_000)), {"k": ["y" * 100] * 50_000}])
def test_large_arguments_are_shown_in_part_and_quickly(large: Any) -> None:
    # The best of some: what a busy machine adds is not its cost.
    took = min(timeit.repeat(lambda: shown((large,), size=5_000_000), number=1, repeat=5))
    message = decode(protocol.encode(TaskMessage(id=ID, task="t", args=(large,)), TO), limit=1 << 24)

    assert message.args == [large]
    assert len(message.argsrepr or "") <= 1024
    assert took < 0.05


# --- Celery as the peer --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app() -> Any:
    with celery.Celery("peer", broker="memory://", backend="rpc://", set_as_current=False) as made:
        yield made


SENT: dict[str, dict[str, Any]] = {
    "plain": {"args": (2, 3), "kwargs": {}},
    "full": {
        "args": (2, "é", None, [1.5]),
        "kwargs": {"when": NOON, "raw": b"ab"},
        "eta": NOON,
        "expires": NOON + timedelta(hours=1),
        "group_id": "g",
        "group_index": 3,
        "retries": 2,
        "chord": SIGNATURE,
        "callbacks": [SIGNATURE],
        "errbacks": [SIGNATURE],
        "chain": [SIGNATURE, SIGNATURE],
        "reply_to": "replies",
        "time_limit": 10,
        "soft_time_limit": 5.5,
        "root_id": "root",
        "parent_id": "parent",
        "shadow": "other.name",
        "origin": "gen1@here",
        "ignore_result": True,
        "replaced_task_nesting": 1,
        "stamped_headers": ["tenant"],
        "tenant": "acme",
    },
}


def the_same(sent: dict[str, Any]) -> TaskMessage:
    """Celery's options as our message."""
    given = dict(sent)
    stamped = given.get("stamped_headers")
    return TaskMessage(
        id=ID,
        task="t",
        args=given["args"],
        kwargs=given["kwargs"],
        retries=given.get("retries", 0),
        eta=given.get("eta"),
        expires=given.get("expires"),
        group=given.get("group_id"),
        group_index=given.get("group_index"),
        root_id=given.get("root_id", ID),
        parent_id=given.get("parent_id"),
        origin=given.get("origin"),
        shadow=given.get("shadow"),
        timelimit=(given.get("time_limit"), given.get("soft_time_limit")),
        ignore_result=given.get("ignore_result", False),
        replaced_task_nesting=given.get("replaced_task_nesting", 0),
        stamped_headers=stamped,
        stamps={name: given[name] for name in stamped or ()},
        callbacks=given.get("callbacks"),
        errbacks=given.get("errbacks"),
        chain=given.get("chain"),
        chord=given.get("chord"),
        reply_to=given.get("reply_to"),
    )


@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
def test_we_write_what_celery_writes(app: Any, sent: dict[str, Any]) -> None:
    theirs = app.amqp.as_task_v2(ID, "t", **sent)
    content_type, content_encoding, body = kombu.serialization.dumps(theirs.body, "json")

    ours = over_the_wire(protocol.encode(the_same(sent), TO))

    expected = dict(theirs.headers)
    if "origin" not in sent:
        expected["origin"] = None  # theirs is this process, ours is whoever composed the message
    assert ours.properties.headers == expected
    assert json.loads(ours.body) == json.loads(body)
    assert (ours.properties.content_type, ours.properties.content_encoding) == (
        content_type,
        content_encoding,
    )
    assert ours.properties.correlation_id == theirs.properties["correlation_id"]
    assert ours.properties.reply_to == theirs.properties["reply_to"]
    assert (ours.properties.delivery_mode, ours.properties.priority) == (2, 0)


def from_celery(headers: dict[str, Any], body: Any, serializer: str = "json", **properties: Any) -> Envelope:
    """A message in the bytes that kombu and py-amqp write."""
    content_type, content_encoding, payload = kombu.serialization.dumps(body, serializer)
    written = amqp.basic_message.Message(
        application_headers=headers,
        content_type=content_type,
        content_encoding=content_encoding,
        delivery_mode=2,
        priority=0,
        **properties,
    )
    raw = payload.encode() if isinstance(payload, str) else payload
    return codec.unpack(Delivery("q", 1, 1, False, "celery", "celery", written._serialize_properties(), raw))


@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle"])
@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
def test_we_read_what_celery_writes(app: Any, sent: dict[str, Any], serializer: str) -> None:
    if serializer == "yaml":
        sent = {**sent, "args": (2, 3)}
    theirs = app.amqp.as_task_v2(ID, "t", **sent)
    body = json.loads(json.dumps(theirs.body, default=str)) if serializer == "yaml" else theirs.body

    message = decode(from_celery(theirs.headers, body, serializer, **theirs.properties), EVERYTHING)

    expected = the_same(sent)
    names = [
        "id",
        "task",
        "retries",
        "eta",
        "expires",
        "group",
        "group_index",
        "root_id",
        "parent_id",
        "shadow",
    ]
    names += ["timelimit", "ignore_result", "replaced_task_nesting", "stamped_headers", "stamps"]
    names += ["callbacks", "errbacks", "chain", "chord", "reply_to"]
    assert {name: getattr(message, name) for name in names} == {
        name: getattr(expected, name) for name in names
    }
    assert list(message.args) == list(sent["args"])
    assert message.headers == {}
    assert message.correlation_id == ID
    if serializer != "yaml":
        assert message.kwargs == sent["kwargs"]


def test_a_celery_worker_reads_ours(app: Any) -> None:
    @app.task(name="t", shared=False)
    def task() -> None: ...

    envelope = over_the_wire(protocol.encode(the_same(SENT["full"]), TO))
    p = envelope.properties
    message = kombu.message.Message(
        body=envelope.body,
        headers=dict(p.headers or {}),
        content_type=p.content_type,
        content_encoding=p.content_encoding,
        properties={"correlation_id": p.correlation_id, "reply_to": p.reply_to, "priority": p.priority},
        delivery_info={"exchange": "e", "routing_key": "k"},
        accept={"application/json"},
    )

    request = celery.worker.request.Request(message, app=app, task=task, decoded=False)

    assert (request.id, request.name, request.root_id, request.parent_id) == (
        ID,
        "other.name",
        "root",
        "parent",
    )
    assert request.time_limits == [10, 5.5]
    assert (request.eta, request.expires) == (NOON, NOON + timedelta(hours=1))
    assert (request.reply_to, request.correlation_id) == ("replies", ID)
    args, kwargs, embed = request.message.payload
    assert (args, kwargs) == (list(SENT["full"]["args"]), SENT["full"]["kwargs"])
    assert embed == {
        "callbacks": [SIGNATURE],
        "errbacks": [SIGNATURE],
        "chain": [SIGNATURE] * 2,
        "chord": SIGNATURE,
    }


# --- what others send ----------------------------------------------------------------------------------------


def envelope_of(headers: dict[str, Any] | None, body: Any, **properties: Any) -> Envelope:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Envelope(TO, raw, Properties(headers=headers, **{"content_type": "application/json"} | properties))


EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
CELERY_4_4 = {
    "lang": "py",
    "task": "proj.add",
    "id": ID,
    "shadow": None,
    "eta": None,
    "expires": "2026-11-21T12:00:00.646340+00:00",
    "group": None,
    "retries": 1,
    "timelimit": [None, None],
    "root_id": ID,
    "parent_id": None,
    "argsrepr": "(2, 3)",
    "kwargsrepr": "{}",
    "origin": "gen4242@worker-1",
}
PROTOCOL_1 = {
    "task": "proj.add",
    "id": ID,
    "args": [2, 3],
    "kwargs": {"z": 1},
    "retries": 4,
    "eta": "2026-11-21T12:00:00.646340",
    "expires": None,
    "utc": True,
    "callbacks": [SIGNATURE],
    "errbacks": None,
    "timelimit": [300, 60],
    "taskset": "the-group",
    "chord": None,
}


def test_celery_4_4_has_fewer_headers() -> None:
    message = decode(
        envelope_of(CELERY_4_4, [[2, 3], {}, EMBED], correlation_id=ID, reply_to="r", priority=0)
    )

    assert (message.task, message.args, message.kwargs, message.retries) == ("proj.add", [2, 3], {}, 1)
    assert (message.expires, message.origin, message.reply_to) == (NOON, "gen4242@worker-1", "r")
    assert (message.ignore_result, message.stamps, message.group_index) == (None, {}, None)
    assert message.headers == {}


def test_protocol_1_has_everything_in_its_body() -> None:
    message = decode(envelope_of({"x-own": 1}, PROTOCOL_1, correlation_id="c", reply_to="r"))

    assert (message.id, message.task, message.args, message.kwargs) == (ID, "proj.add", [2, 3], {"z": 1})
    assert (message.retries, message.eta, message.expires) == (4, NOON, None)
    assert (message.timelimit, message.group, message.callbacks) == ((300, 60), "the-group", [SIGNATURE])
    assert (message.correlation_id, message.reply_to, message.headers) == ("c", "r", {"x-own": 1})


def test_protocol_1_in_the_senders_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        message = decode(envelope_of(None, {**PROTOCOL_1, "utc": False}))
    finally:
        monkeypatch.undo()
        time.tzset()

    assert message.eta == NOON - timedelta(hours=9)


@pytest.mark.parametrize("app_version", ["pickled by celery 3", "json"])
def test_protocol_1_as_celery_writes_it(app: Any, app_version: str) -> None:
    theirs = app.amqp.as_task_v1(ID, "proj.add", args=(2, 3), kwargs={"z": 1}, eta=NOON, time_limit=9)
    serializer = "json" if app_version == "json" else "pickle"

    message = decode(from_celery({}, theirs.body, serializer, **theirs.properties), EVERYTHING)

    assert (message.id, message.task, list(message.args), message.kwargs) == (
        ID,
        "proj.add",
        [2, 3],
        {"z": 1},
    )
    assert (message.eta, message.timelimit) == (NOON, (9, None))


@pytest.mark.parametrize(
    "envelope",
    [
        pytest.param(envelope_of({"task": "proj.add", "id": ID}, [[2, 3], {}, {}]), id="two headers"),
        pytest.param(envelope_of({"task": "proj.add", "id": ID}, [[2, 3], {}, None]), id="no embed"),
        pytest.param(envelope_of({"task": "proj.add", "id": ID}, [[2, 3], {}]), id="a pair"),
        pytest.param(envelope_of({"task": "proj.add", "id": ID}, [[2, 3], None, None]), id="nulls"),
        pytest.param(
            envelope_of({"task": "proj.add", "id": ID}, [[2, 3], {}, {}], content_type=None),
            id="no content type",
        ),
        pytest.param(
            # celery.node: its own language, and no properties but a few
            envelope_of(
                {
                    "lang": "js",
                    "task": "proj.add",
                    "id": ID,
                    "root_id": ID,
                    "argsrepr": "[2,3]",
                    "kwargsrepr": "{}",
                },
                [[2, 3], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}],
                content_encoding="utf-8",
                correlation_id=ID,
                reply_to="",
            ),
            id="node, protocol 2",
        ),
        pytest.param(
            # node-celery
            envelope_of(
                {},
                b'{"task":"proj.add","args":[2,3],"kwargs":{},"id":"%s"}' % ID.encode(),
                content_encoding="utf-8",
            ),
            id="node, protocol 1",
        ),
        pytest.param(
            # celery-php: an empty map is a list there, and the encoding is shouted
            envelope_of(
                {"lang": "py", "task": "proj.add", "id": ID, "timelimit": [], "eta": ""},
                b"[[2,3],[],[]]",
                content_encoding="UTF-8",
                delivery_mode=2,
            ),
            id="php, protocol 2",
        ),
        pytest.param(
            envelope_of(
                None, b'{"id":"%s","task":"proj.add","args":[2,3],"kwargs":[],"retries":0}' % ID.encode()
            ),
            id="php, protocol 1",
        ),
        pytest.param(
            envelope_of({"task": "proj.add", "id": ID}, {"args": [2, 3], "kwargs": {}}),
            id="headers of 2, body of 1",
        ),
    ],
)
def test_a_sender_needs_to_say_little(envelope: Envelope) -> None:
    message = decode(over_the_wire(envelope))

    assert (message.id, message.task, list(message.args), message.kwargs) == (ID, "proj.add", [2, 3], {})
    assert (message.retries, message.eta, message.timelimit, message.chain) == (0, None, (None, None), None)
    assert (message.root_id, message.correlation_id, message.reply_to) == (ID, ID, None)


def test_a_call_without_a_body_has_no_arguments() -> None:
    message = decode(envelope_of({"task": "proj.tick", "id": ID}, b"", content_type=None))

    assert (message.args, message.kwargs) == ((), {})


@pytest.mark.parametrize("envelope", [envelope_of(CELERY_4_4, [[2], {}, EMBED]), envelope_of({}, PROTOCOL_1)])
def test_what_others_sent_can_be_sent_again(envelope: Envelope) -> None:
    message = decode(envelope)

    assert decode(protocol.encode(message, TO)).args == message.args


def test_bytes_as_keyword_names_are_those_of_python_2() -> None:
    envelope = from_celery({"task": "t", "id": ID}, [[], {b"x": 1}, None], "pickle")

    assert decode(envelope, EVERYTHING).kwargs == {"x": 1}


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({"id": ID}, [[], {}, {}], "no header 'task'"),
        (None, {"id": ID}, "no 'task' in the body"),
        (None, "hello", "this is no call"),
        ({"task": "t"}, [[], {}, {}], "'id'"),
        ({"task": "t", "id": 7}, [[], {}, {}], "'id'"),
        ({"task": "", "id": ID}, [[], {}, {}], "'task'"),
        ({"task": None, "id": ID}, [[], {}, {}], "'task'"),
        ({"task": "t", "id": ID}, 7, "must be .args, kwargs, embed."),
        ({"task": "t", "id": ID}, "abc", "must be .args, kwargs, embed."),
        ({"task": "t", "id": ID}, [1, {}, {}], "'args' must be a list, not int"),
        ({"task": "t", "id": ID}, [{}, {}, {}], "'args' must be a list, not dict"),
        ({"task": "t", "id": ID}, [[], [1], {}], "'kwargs' must be a mapping, not list"),
        ({"task": "t", "id": ID}, [[], {}, 5], "'embed' must be a mapping"),
        ({"task": "t", "id": ID}, [[], {}, {"chain": 5}], "'chain' must be a list"),
        ({"task": "t", "id": ID, "eta": "soon"}, [[], {}, {}], "'eta' must be a time"),
        ({"task": "t", "id": ID, "expires": 5}, [[], {}, {}], "'expires' must be a time"),
        ({"task": "t", "id": ID, "retries": "3"}, [[], {}, {}], "'retries' must be a whole number"),
        ({"task": "t", "id": ID, "timelimit": [1]}, [[], {}, {}], "hard, soft"),
        ({"task": "t", "id": ID, "timelimit": ["a", 1]}, [[], {}, {}], "number of seconds"),
        ({"task": "t", "id": ID, "stamps": 3}, [[], {}, {}], "'stamps' must be a mapping"),
        (None, {"task": "t", "id": None}, "'id'"),
        (None, {"task": "t", "id": ID, "args": 5}, "'args'"),
        (None, {"task": "t", "id": ID, "kwargs": "x"}, "'kwargs'"),
    ],
)
def test_what_is_no_call_is_refused_with_what_is_wrong(headers: Any, body: Any, said: str) -> None:
    with pytest.raises(InvalidMessage, match=said):
        decode(envelope_of(headers, body))


def test_infinite_retries_and_keys_that_are_no_text_are_refused() -> None:
    with pytest.raises(InvalidMessage, match="'retries'"):
        decode(envelope_of({"task": "t", "id": ID, "retries": math.inf}, [[], {}, {}]))
    with pytest.raises(InvalidMessage, match="no text"):
        decode(from_celery({"task": "t", "id": ID}, [[], {3: 1}, None], "pickle"), EVERYTHING)


def test_a_forbidden_content_type_an_unreadable_body_and_a_bomb() -> None:
    headers = {"task": "t", "id": ID}
    bomb = protocol.encode(TaskMessage(id=ID, task="t", args=("0" * 100_000,), compression="zstd"), TO)

    with pytest.raises(ContentDisallowed):
        decode(from_celery(headers, [[], {}, None], "pickle"))
    with pytest.raises(DecodeError):
        decode(envelope_of(headers, b"{"))
    with pytest.raises(Inflated):
        decode(bomb, limit=99_999)


@given(
    headers=st.dictionaries(st.sampled_from([*CELERY_4_4, "stamps", "x"]), plain), body=plain | st.binary()
)
def test_no_message_raises_anything_but_our_own_errors(headers: dict[str, Any], body: Any) -> None:
    try:
        decode(envelope_of(headers, body))
    except (InvalidMessage, DecodeError):
        return
    assert "task" in headers or "task" in body
