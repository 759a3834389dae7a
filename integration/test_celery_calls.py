"""Each side's client calls the other side's worker: arguments, results, options. `way` is the direction."""

import time
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from amqptasks.amqp import Queue
from amqptasks.delay import ladder_topology
from amqptasks.errors import NotFound
from integration.support import wait_until
from integration.support.peers import Peers, Way, peers, way

__all__ = ["peers", "way"]

SERIALIZERS = ("json", "pickle", "msgpack", "yaml")
COMPRESSIONS = ("gzip", "bzip2", "lzma", "zstd")


def waiting(app: Any, queue: str) -> int:
    """Messages ready in a queue, 0 if it is not there."""
    try:
        return int(app.connection.inspect(queue).messages)
    except NotFound:
        return 0


def test_a_call_returns_its_value(way: Way) -> None:
    result = way.call("add", 2, 2)

    assert result.get(timeout=60) == 4
    assert result.state == "SUCCESS"
    assert result.successful()


def test_arguments_arrive_as_they_were_sent(way: Way) -> None:
    args: tuple[Any, ...] = (
        None,
        True,
        -(2**53),
        0.25,
        "žluť \u2603 \U0001f407",
        [1, [2]],
        {"a": {"b": None}},
    )
    kwargs = {"naïve": [], "x": {}}

    got = way.app.send_task("interop.echo", args, kwargs, queue=way.queue).get(timeout=60)

    assert got == [list(args), kwargs]


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 11, 21, 13, 5, 7, 123456, tzinfo=UTC),
        datetime(2026, 11, 21, 13, 5, 7),
        date(2026, 2, 28),
        clock(23, 59, 59, 5),
        Decimal("12345678901234567890.10"),
        uuid.UUID("12345678-1234-5678-9234-567812345678"),
        b"text",
        b"\xff\x00\xfe",
        2**80,
    ],
    ids=lambda value: f"{type(value).__name__}-{value!s:.12}",
)
def test_types_that_json_has_not_come_back_the_same(way: Way, value: Any) -> None:
    names, values = way.call("kinds", value).get(timeout=60)

    assert names == [type(value).__name__]
    assert values == [value]
    assert type(values[0]) is type(value)


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_every_serializer_is_read_by_the_other_side(way: Way, serializer: str) -> None:
    value = {"text": "žluť", "list": [1, 2.5, None], "bytes": "b"}

    got = way.call("echo", value, serializer=serializer).get(timeout=60)

    assert got == [[value], {}]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_compression_is_read_by_the_other_side(way: Way, compression: str) -> None:
    text = "all work and no play " * 5000

    got = way.call("echo", text, compression=compression).get(timeout=60)

    assert got == [[text], {}]


def test_the_worker_is_told_what_the_caller_said(way: Way) -> None:
    expires = datetime.now(UTC) + timedelta(minutes=5)
    options = {"priority": 5, "time_limit": 60, "soft_time_limit": 50, "headers": {"tenant": "acme"}}

    result = way.call("told", expires=expires, **options)
    told = result.get(timeout=60)

    assert told["priority"] == 5
    assert told["limits"] == [60, 50]
    assert told["headers"] == "acme"
    assert told["root"] == result.id
    assert told["origin"].startswith("gen")
    assert datetime.fromisoformat(told["expires"]) == expires


@pytest.mark.parametrize(
    "delayed",
    [
        lambda: {"countdown": 2},
        lambda: {"eta": datetime.now(UTC) + timedelta(seconds=2)},
    ],
    ids=["countdown", "eta"],
)
def test_a_delayed_call_starts_on_time(way: Way, delayed: Callable[[], dict[str, Any]]) -> None:
    called = time.time()

    told = way.call("told", **delayed()).get(timeout=60)

    assert 2.0 <= told["began"] - called < 30.0


def test_a_delayed_call_from_celery_does_not_wait_in_our_worker(peers: Peers) -> None:
    result = peers.theirs.send_task("interop.told", queue="ours", countdown=40)

    def held() -> int:
        rungs = [entity.name for entity in ladder_topology() if isinstance(entity, Queue)]
        return sum(waiting(peers.ours, rung) for rung in rungs)

    wait_until(held, 15, "the ladder has the message")
    assert result.state == "PENDING"


def test_an_ignored_result_is_not_sent_but_the_task_runs(way: Way, tmp_path: Path) -> None:
    effects = tmp_path / "effects"

    result = way.call("effect", str(effects), 7, ignore_result=True)
    # The file is there before the line is in it.
    written = wait_until(lambda: effects.exists() and effects.read_text(), 15, "the task ran")

    assert written == f"7 {way.worker}\n"
    way.call("add", 1, 1).get(timeout=60)  # by then a result would have come
    assert result.state == "PENDING"


def test_two_hundred_results_come_to_their_callers(way: Way) -> None:
    results = [way.call("add", number, number) for number in range(200)]

    assert [result.get(timeout=60) for result in results] == [2 * number for number in range(200)]
