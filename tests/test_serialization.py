"""Bodies: what a task is passed is what it gets, kombu reads ours and we read kombu's, nothing forbidden is decoded."""

from __future__ import annotations

import bz2
import collections
import dataclasses
import enum
import gzip
import json
import lzma
import math
import pickle
import uuid
import zlib
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import kombu.compression
import kombu.serialization
import kombu.utils.json
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks import serialization
from amqptasks.errors import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured, Inflated
from amqptasks.serialization import accept_set, dumps, loads

MIB = 1 << 20
EVERYTHING = accept_set(["json", "msgpack", "yaml", "pickle"])
SERIALIZERS = ["json", "msgpack", "yaml", "pickle"]
COMPRESSIONS = ["gzip", "zlib", "bzip2", "lzma", "xz", "zstd"]

text = st.text(st.characters(exclude_categories=["Cs"]))
wide = st.integers(-(1 << 90), 1 << 90)
zones = st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=5, minutes=30)))
extended = (
    st.binary()
    | st.datetimes(timezones=zones.filter(bool))
    | st.datetimes()
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
)


def nested(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[str] = text) -> st.SearchStrategy[Any]:
    # The pair of keys that kombu's extension uses cannot be told from it, by kombu neither.
    mappings = st.dictionaries(keys.filter(lambda key: not key.startswith("__")), leaves, max_size=4)
    return st.recursive(leaves | mappings, lambda inner: st.lists(inner, max_size=5), max_leaves=20)


json_values = nested(st.none() | st.booleans() | wide | st.floats(allow_nan=False) | st.text() | extended)


def there_and_back(value: Any, serializer: str = "json", compression: str | None = None) -> Any:
    encoded = dumps(value, serializer, compression)
    return loads(
        encoded.body,
        encoded.content_type,
        encoded.content_encoding,
        accept=EVERYTHING,
        compression=encoded.compression,
        limit=MIB,
    )


@given(json_values)
def test_json_gives_back_what_it_took(value: Any) -> None:
    assert there_and_back(value) == value


@given(json_values)
def test_kombu_reads_our_json(value: Any) -> None:
    assert kombu.utils.json.loads(dumps(value, "json").body) == value


@given(json_values)
def test_we_read_kombus_json(value: Any) -> None:
    theirs = kombu.utils.json.dumps(value).encode()

    assert loads(theirs, "application/json", "utf-8", accept=EVERYTHING, limit=MIB) == value


@pytest.mark.parametrize("value", [math.inf, -math.inf, [1.5, {"a": math.inf}], [None, math.inf]])
def test_infinity_is_not_turned_into_null(value: Any) -> None:
    assert there_and_back(value) == value


def test_not_a_number_stays_one() -> None:
    assert math.isnan(there_and_back([None, {"x": math.nan}])[1]["x"])


@pytest.mark.parametrize("value", [1 << 63, 1 << 64, -(1 << 63) - 1, 10**40, [10**19], {"a": -(10**30)}])
def test_wide_integers_keep_every_digit(value: Any) -> None:
    assert there_and_back(value) == value


def test_a_uuid_inside_what_json_method_returns_stays_a_uuid() -> None:
    class Order:
        def __json__(self) -> dict[str, Any]:
            return {"id": uuid.UUID(int=5), "none": None}

    assert there_and_back([Order()]) == [{"id": uuid.UUID(int=5), "none": None}]


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    ("value", "arrives_as"),
    [
        ((1, (2,)), [1, [2]]),
        (Point(1, 2), [1, 2]),
        (Colour.RED, "red"),
        ({1 << 70: Colour.RED}, {str(1 << 70): "red"}),
        (Number.ONE, 1),
        ({2: "a", None: "b", True: "c", 1.5: "d"}, {"2": "a", "null": "b", "true": "c", "1.5": "d"}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        ("\ud800", "\ud800"),
    ],
)
def test_json_writes_what_pythons_own_would(value: Any, arrives_as: Any) -> None:
    assert there_and_back(value) == arrives_as


def test_deep_nesting_goes_the_slow_way_and_arrives() -> None:
    value: list[Any] = []
    for _ in range(400):
        value = [value]

    assert there_and_back(value) == value


def test_lazy_text_of_django_is_sent_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Promise:
        def __str__(self) -> str:
            return "translated"

    module = type("functional", (), {"Promise": Promise})
    monkeypatch.setitem(__import__("sys").modules, "django.utils.functional", module)

    assert there_and_back([Promise()]) == ["translated"]


def test_a_type_of_the_users_own_travels_once_it_is_registered() -> None:
    class Money:
        def __init__(self, cents: int) -> None:
            self.cents = cents

    serialization.register_type(Money, "test-money", lambda money: money.cents, Money)

    assert there_and_back({"price": Money(250)})["price"].cents == 250


@dataclasses.dataclass
class Address:
    city: str


class Own:
    pass


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("value", "serializer", "said"),
    [
        ({"tags": {1, 2}}, "json", "'json' cannot write a value of type set; pass a list"),
        ([frozenset()], "json", "type frozenset; pass a list"),
        ([Own()], "json", r"Own; pass plain values .* or give the class a __json__\(\) method"),
        (Address("Oslo"), "json", "Address"),
        ([1j], "json", "type complex"),
        ({(1, 2): 3}, "json", "keys must be"),
        (CIRCLE, "json", "Circular"),
        ([{"a": {1}}], "msgpack", "'msgpack' cannot write a value of type set"),
        ([Decimal(1)], "msgpack", "type Decimal"),
        ([1 << 70], "msgpack", "type int"),
        ([Own()], "yaml", "'yaml' cannot write a value of type Own"),
        ([lambda: 1], "pickle", "'pickle' cannot write a value of type function"),
    ],
)
def test_what_cannot_be_written_is_named_with_the_cure(value: Any, serializer: str, said: str) -> None:
    with pytest.raises(EncodeError, match=said):
        dumps(value, serializer)


def test_an_error_inside_a_json_method_is_an_encode_error() -> None:
    class Broken:
        def __json__(self) -> Any:
            raise KeyError("gone")

    with pytest.raises(EncodeError, match="KeyError: 'gone'"):
        dumps([Broken()], "json")


plain_values = nested(
    st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.floats(allow_nan=False) | text
)


@pytest.mark.parametrize("serializer", SERIALIZERS)
@given(value=nested(st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.text("aé1: -")))
def test_every_serializer_gives_back_plain_values(serializer: str, value: Any) -> None:
    assert there_and_back(value, serializer) == value


@given(plain_values)
def test_msgpack_gives_back_plain_values(value: Any) -> None:
    assert there_and_back(value, "msgpack") == value


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("compression", [None, *COMPRESSIONS])
def test_every_compression_carries_every_serializer(serializer: str, compression: str | None) -> None:
    value = [[1, "x" * 5000], {"k": [None, True]}, {"chain": None}]

    assert there_and_back(value, serializer, compression) == value


@pytest.mark.parametrize("serializer", ["json", "yaml", "pickle"])
def test_content_types_are_kombus(serializer: str) -> None:
    theirs = kombu.serialization.dumps([[1], {"a": 2}, None], serializer)

    ours = dumps([[1], {"a": 2}, None], serializer)
    back = loads(
        theirs[2].encode() if isinstance(theirs[2], str) else theirs[2],
        theirs[0],
        theirs[1],
        accept=EVERYTHING,
        limit=MIB,
    )

    assert (ours.content_type, ours.content_encoding) == (theirs[0], theirs[1])
    assert kombu.serialization.loads(ours.body, ours.content_type, ours.content_encoding, force=True) == back
    assert back == [[1], {"a": 2}, None]


def test_msgpack_content_type_is_kombus() -> None:
    assert kombu.serialization.registry.name_to_type["msgpack"] == dumps(1, "msgpack").content_type


@pytest.mark.parametrize("compression", [name for name in COMPRESSIONS if name in kombu.compression._aliases])
def test_kombu_inflates_ours_and_we_inflate_kombus(compression: str) -> None:
    ours = dumps(["x" * 1000], "json", compression)
    theirs, kind = kombu.compression.compress(b'["y"]', compression)

    assert ours.compression == kind
    assert json.loads(kombu.compression.decompress(ours.body, ours.compression)) == ["x" * 1000]
    assert loads(theirs, "application/json", accept=EVERYTHING, compression=kind, limit=MIB) == ["y"]


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma", "zstd"])
@pytest.mark.parametrize("limit", [1, 1000, 99_999])
def test_a_bomb_stops_at_the_limit(compression: str, limit: int) -> None:
    bomb = dumps("0" * 99_998, "json", compression)

    with pytest.raises(Inflated, match="message_inflate_limit"):
        loads(bomb.body, "application/json", accept=EVERYTHING, compression=bomb.compression, limit=limit)


@pytest.mark.parametrize("compression", ["gzip", "bzip2", "lzma", "zstd"])
def test_a_body_of_exactly_the_limit_is_read(compression: str) -> None:
    encoded = dumps("0" * 99_998, "json", compression)

    value = loads(
        encoded.body, "application/json", accept=EVERYTHING, compression=encoded.compression, limit=100_000
    )

    assert value == "0" * 99_998


def test_a_bomb_of_many_streams_stops_at_the_limit() -> None:
    bomb = bz2.compress(b"0" * 900) * 1000

    with pytest.raises(Inflated):
        loads(bomb, "application/json", accept=EVERYTHING, compression="application/x-bz2", limit=10_000)


def test_lzma_that_wants_a_huge_dictionary_is_refused() -> None:
    greedy = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 << 20}]
    body = lzma.compress(b"[1]", filters=greedy, preset=None)

    with pytest.raises(Inflated, match="memory"):
        loads(body, "application/json", accept=EVERYTHING, compression="application/x-lzma", limit=MIB)


def test_gzip_of_other_languages_is_read_too() -> None:
    body = gzip.compress(b"[1]")

    assert loads(
        body, "application/json", accept=EVERYTHING, compression="application/x-gzip", limit=MIB
    ) == [1]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"plain", "application/x-gzip"),
        (zlib.compress(b"[1, 2, 3]")[:-5], "application/x-gzip"),
        (b"", "application/x-gzip"),
        (b"plain", "application/x-bz2"),
        (lzma.compress(b"[1]" * 50)[:-20], "application/x-lzma"),
        (b"plain", "application/zstd"),
        (b"[1]", "application/x-unheard-of"),
        (b"[1]", 17),
    ],
)
def test_what_does_not_inflate_is_a_decode_error(body: bytes, kind: Any) -> None:
    with pytest.raises(DecodeError):
        loads(body, "application/json", accept=EVERYTHING, compression=kind, limit=MIB)


class Trap:
    """Pickled, it notes that it was unpickled."""

    sprung: list[int] = []

    def __reduce__(self) -> Any:
        return Trap.sprung.append, (1,)


@pytest.mark.parametrize("serializer", ["pickle", "yaml", "msgpack"])
def test_by_default_nothing_but_json_is_decoded(serializer: str) -> None:
    encoded = dumps([1], serializer) if serializer != "pickle" else dumps(Trap(), "pickle")

    with pytest.raises(ContentDisallowed, match=f"add '{serializer}' to accept_content"):
        loads(encoded.body, encoded.content_type, accept=accept_set(["json"]), limit=MIB)
    assert Trap.sprung == []


def test_names_and_content_types_mean_the_same_to_accept_content() -> None:
    assert accept_set(["json", "application/x-yaml"]) == {"application/json", "application/x-yaml"}


def test_an_unknown_serializer_is_answered_with_the_near_name() -> None:
    with pytest.raises(ImproperlyConfigured, match="did you mean 'json'"):
        accept_set(["jsn"])
    with pytest.raises(ImproperlyConfigured, match="did you mean 'pickle'"):
        dumps(1, "pikcle")
    with pytest.raises(ImproperlyConfigured, match="gzip"):
        dumps(1, "json", "zip")


@pytest.mark.parametrize(
    ("content_type", "content_encoding", "body"),
    [
        (None, None, '["é"]'.encode()),
        ("application/json", "UTF-8", '["é"]'.encode()),
        ("application/json; charset=utf-8", None, '["é"]'.encode()),
        ("application/json", "binary", '["é"]'.encode()),
        ("application/json", "latin-1", '["é"]'.encode("latin-1")),
        ("application/json", "utf-16", '["é"]'.encode("utf-16")),
    ],
)
def test_what_other_senders_call_json_is_read(
    content_type: str | None, content_encoding: str | None, body: bytes
) -> None:
    assert loads(body, content_type, content_encoding, accept=accept_set(["json"]), limit=MIB) == ["é"]


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"{", "utf-8"),
        (b"", "utf-8"),
        (b"\xff", "utf-8"),
        (b"[1]", "klingon"),
        (b'{"__type__": "spaceship", "__value__": 1}', "utf-8"),
        (b'{"__type__": "uuid", "__value__": 1}', "utf-8"),
        (b'{"__type__": [], "__value__": 1}', "utf-8"),
        (b'{"__type__": "datetime", "__value__": "yesterday"}', "utf-8"),
        (b"[" * 100_000, "utf-8"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_a_decode_error(body: bytes, encoding: str) -> None:
    with pytest.raises(DecodeError):
        loads(body, "application/json", encoding, accept=EVERYTHING, limit=MIB)


@pytest.mark.parametrize(
    "kind", ["application/x-msgpack", "application/x-yaml", "application/x-python-serialize"]
)
@given(body=st.binary(max_size=40))
def test_garbage_raises_nothing_but_decode_errors(kind: str, body: bytes) -> None:
    if kind == "application/x-python-serialize":
        body = pickle.dumps([1, 2, 3])[
            :-1
        ]  # random pickles may do anything: that is why they are not accepted

    try:
        loads(body, kind, accept=EVERYTHING, limit=MIB)
    except DecodeError:
        return
    assert kind != "application/x-python-serialize"


def test_yaml_makes_no_objects() -> None:
    with pytest.raises(DecodeError):
        loads(b"!!python/object/apply:os.getpid []", "application/x-yaml", accept=EVERYTHING, limit=MIB)


def test_a_serializer_of_the_users_own_is_used_and_must_be_accepted() -> None:
    serialization.register(
        "test-words",
        lambda value: " ".join(value).encode(),
        lambda body: body.decode().split(),
        "text/x-words",
    )
    encoded = dumps(["a", "b"], "test-words")

    assert loads(encoded.body, "text/x-words", accept=accept_set(["test-words"]), limit=MIB) == ["a", "b"]
    with pytest.raises(ContentDisallowed):
        loads(encoded.body, "text/x-words", accept=EVERYTHING, limit=MIB)


def test_dates_and_times_of_every_kind() -> None:
    value = [
        date(2026, 1, 2),
        time(3, 4, 5, 6, tzinfo=UTC),
        datetime(2026, 1, 2),
        datetime(2026, 1, 2, tzinfo=UTC),
    ]

    assert there_and_back(value) == value
    assert [type(part) for part in there_and_back(value)] == [date, time, datetime, datetime]
