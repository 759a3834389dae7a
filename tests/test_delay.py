"""The ladder against a model of the broker: topic matching, exchange bindings, TTL and dead-lettering."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amqptasks import amqp, delay
from amqptasks.amqp import Address, Binding, Envelope, Exchange, Properties
from amqptasks.entities import LOST, identity
from amqptasks.worker.admission import admit
from amqptasks.worker.outcome import Cause, TaskOptions


class Broker:
    """What RabbitMQ does with topic, direct and fanout exchanges and with queues whose messages expire."""

    def __init__(self, entities: Sequence[amqp.Entity]) -> None:
        self.exchanges = {one.name: one for one in entities if isinstance(one, Exchange)}
        self.queues = {one.name: one for one in entities if isinstance(one, amqp.Queue)}
        once = {identity(one): one for one in entities}.values()
        self.bindings = [one for one in once if isinstance(one, Binding)]

    def route(self, exchange: str, key: str) -> list[str]:
        """Return every queue that a message reaches, once for each way to it: doubles show as doubles."""
        if not exchange:
            return [key]
        kind = self.exchanges[exchange].type
        reached: list[str] = []
        for binding in self.bindings:
            if binding.source == exchange and matches(kind, binding.routing_key, key):
                queue = binding.kind == "queue"
                reached += [binding.destination] if queue else self.route(binding.destination, key)
        fallback = self.exchanges[exchange].arguments.get("alternate-exchange")
        return reached if reached or fallback is None else self.route(fallback, key)

    def journey(self, exchange: str, key: str, ends: set[str]) -> tuple[list[str], int, str]:
        """Follow one message to the queue where it stays: (queues that held it, milliseconds, last key)."""
        held: list[str] = []
        waited = 0
        while True:
            reached = self.route(exchange, key)
            assert len(reached) == 1, f"{key} at {exchange} reaches {reached}"
            queue = reached[0]
            held.append(queue)
            if queue in ends:
                return held, waited, key
            arguments = self.queues[queue].arguments
            waited += arguments["x-message-ttl"]
            exchange = arguments["x-dead-letter-exchange"]
            key = arguments.get("x-dead-letter-routing-key", key)


def matches(kind: str, pattern: str, key: str) -> bool:
    if kind == "fanout":
        return True
    if kind == "direct":
        return pattern == key
    return topic(pattern.split("."), key.split("."))


def topic(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(topic(pattern[1:], words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and topic(pattern[1:], words[1:])


NAMES = [
    "b",
    "a.b",
    "x",
    "1.x.b",
    "5",
    "0",
    "*",
    "#",
    "b%2E",
    "%",
    "~",
    "ü.ß",
    "a:b",
    "",
    "B",
    "q" * 250,
    "q" * 251,
]

seconds = st.one_of(
    st.floats(1, 9), st.floats(1, 5000), st.floats(1, 3e6), st.integers(1, delay.LONGEST).map(float)
)


@given(seconds, st.integers(0, len(NAMES) - 1))
@example(999_999.0, 0)
@example(60.0, 3)
@example(1.0, 2)
def test_every_delay_has_one_route_a_hop_and_adds_up(wanted: float, index: int) -> None:
    queue = NAMES[index] or "empty"
    address, _ = delay.ladder_route(wanted, queue)
    everybody = [delay.destination(name or "empty") for name in NAMES]
    broker = Broker([*delay.ladder_topology(), *everybody])

    held, waited, _ = broker.journey(address.exchange, address.routing_key, set(NAMES) | {"empty", LOST})

    assert held[-1] == queue
    assert waited == delay.held(wanted) * 1000
    assert len(held) == len(set(held)) <= delay.LEVELS + 1


@given(seconds)
@example(0.8)
@example(1.79999)
@example(1.8)
def test_what_the_ladder_holds_is_late_by_a_fifth_of_a_second_at_most(wanted: float) -> None:
    held = delay.held(wanted)

    assert held - wanted <= delay.LATE + 1e-6
    assert wanted - held < 1.0 or held == delay.LONGEST


@given(
    seconds, st.sampled_from(NAMES), st.sampled_from(["direct", "topic", "fanout"]), st.sampled_from(NAMES)
)
def test_an_address_is_reached_with_its_own_routing_key(
    wanted: float, exchange: str, kind: str, key: str
) -> None:
    address, needed = delay.ladder_route(wanted, Address(exchange or "e", key))
    other, also_needed = delay.ladder_route(wanted, Address(exchange or "e", f"{key}:"))
    target = [Exchange(exchange or "e", kind), amqp.Queue("end"), Binding(exchange or "e", "end", key)]
    broker = Broker([*delay.ladder_topology(), *needed, *also_needed, *target])

    held, waited, last = broker.journey(address.exchange, address.routing_key, {"end", LOST})

    assert (held[-1], last) == ("end", key)
    assert waited == delay.held(wanted) * 1000
    assert len(held) == len(set(held)) <= delay.LEVELS + 2
    assert other != address


@given(seconds)
def test_what_a_delay_asks_for_is_enough(wanted: float) -> None:
    address, needed = delay.ladder_route(wanted, "b")

    held, waited, _ = Broker(needed).journey(address.exchange, address.routing_key, {"b"})

    assert waited == delay.held(wanted) * 1000
    assert {one.name for one in needed if isinstance(one, amqp.Queue)} == {*held[:-1], LOST}


def again(wanted: float, hop: float) -> list[tuple[float, float]]:
    """Send for `wanted` seconds from now, with `hop` seconds lost on each way: (arrives after, worker waits)."""
    now, arrivals = 0.0, []
    while True:
        left = wanted - now
        if left >= delay.SHORTEST:
            now += delay.held(left)
        now += hop
        verdict = admit({"eta": datetime.fromtimestamp(wanted, UTC).isoformat()}, TaskOptions("t"), now)
        arrivals.append((now, verdict.wait))
        if verdict.cause is Cause.RUN:
            return arrivals


@given(st.floats(0, 10 * 365 * 86400), st.floats(0, 0.3))
@example(10 * 365 * 86400.0, 0.0)
@example(999_999.9, 0.0)
@example(1_000_000.0, 0.05)
def test_a_delay_of_years_climbs_again_and_again_and_is_never_early(wanted: float, hop: float) -> None:
    arrivals = again(wanted, hop)

    starts = arrivals[-1][0] + arrivals[-1][1]
    assert wanted - 1e-5 <= starts <= wanted + delay.LATE + hop + 1e-5
    assert all(wait == 0 for _, wait in arrivals[:-1])
    assert arrivals[-1][1] <= 1.0, "no worker holds it longer"
    assert len(arrivals) <= wanted / delay.LONGEST + 2, "each climb but the last is a whole one"


def test_nothing_is_bound_before_it_is_declared() -> None:
    for entities in (delay.ladder_topology(), delay.ladder_route(123456, Address("e", "k"))[1]):
        known = {"e"}
        for entity in entities:
            if isinstance(entity, Binding):
                assert {entity.source, entity.destination} <= known
            else:
                known.add(entity.name)


def test_a_message_for_a_queue_that_is_gone_is_kept() -> None:
    address, _ = delay.ladder_route(12, "gone")
    broker = Broker([*delay.ladder_topology(), delay.destination("there")])

    held, _, _ = broker.journey(address.exchange, address.routing_key, {"there", LOST})

    assert held[-1] == LOST


def test_no_destination_is_taken_for_another() -> None:
    words = [delay.destination(name).routing_key for name in NAMES if name]
    words += [delay.ladder_route(1, Address(name, other))[0].routing_key for name in NAMES for other in NAMES]

    assert len(words) == len(set(words))
    assert all(len(word.encode()) <= 255 for word in words)


def test_the_ladder_holds_54_rungs_that_lose_nothing() -> None:
    rungs = [one for one in delay.ladder_topology() if isinstance(one, amqp.Queue) and one.name != LOST]

    assert len(rungs) == 54
    for rung in rungs:
        assert rung.durable
        assert rung.arguments["x-queue-type"] == "quorum"
        assert rung.arguments["x-dead-letter-strategy"] == "at-least-once"
        assert rung.arguments["x-overflow"] == "reject-publish"  # without it at-least-once is not granted
        assert "x-dead-letter-routing-key" not in rung.arguments
    assert len({rung.arguments["x-message-ttl"] for rung in rungs}) == 54


@pytest.mark.parametrize(
    ("wanted", "exchange", "key"),
    [
        (1, "amqptasks.delay.0", "1.x.mail"),
        (60, "amqptasks.delay.1", "0.6.x.mail"),
        (90.7, "amqptasks.delay.1", "0.9.x.mail"),
        (89.9, "amqptasks.delay.1", "0.9.x.mail"),
        (0.8, "amqptasks.delay.0", "1.x.mail"),
        (3600, "amqptasks.delay.2", "0.0.6.3.x.mail"),
        (999_999, "amqptasks.delay.0", "9.9.9.9.9.9.x.mail"),
        (1e9, "amqptasks.delay.0", "9.9.9.9.9.9.x.mail"),
    ],
)
def test_the_key_is_the_delay_in_decimal(wanted: float, exchange: str, key: str) -> None:
    address, _ = delay.ladder_route(wanted, "mail")

    assert address == Address(exchange, key)


@pytest.mark.parametrize("wanted", [0.799, 0, -5])
def test_less_than_the_shortest_is_no_business_of_the_ladder(wanted: float) -> None:
    envelope = Envelope(Address("e", "k"), b"body", Properties(expiration="5"))

    assert delay.delayed(envelope, wanted) == (envelope, ())
    with pytest.raises(ValueError, match="shorter"):
        delay.ladder_route(wanted, "mail")


def test_a_delayed_message_keeps_all_but_what_would_break_a_rung() -> None:
    headers = {"id": "1"}
    envelope = Envelope(
        Address("e", "k"), b"body", Properties(headers=headers, priority=9, expiration="500"), "dead"
    )

    held, entities = delay.delayed(envelope, 7.5, "mail")

    assert held.address == Address("amqptasks.delay.0", "7.x.mail")
    assert held.properties == Properties(headers=headers, priority=4, expiration=None)
    assert (held.body, held.fate) == (b"body", "dead")
    assert delay.destination("mail") in entities


def test_a_delayed_message_without_a_queue_comes_back_to_its_address() -> None:
    envelope = Envelope(Address("video", "mp4.hd"), b"", Properties())

    held, entities = delay.delayed(envelope, 30)

    assert held.address == Address("amqptasks.delay.1", "0.3.x.video:mp4%2Ehd")
    exit_queue = next(one for one in entities if isinstance(one, amqp.Queue) and ".to." in one.name)
    assert exit_queue.arguments["x-dead-letter-exchange"] == "video"
    assert exit_queue.arguments["x-dead-letter-routing-key"] == "mp4.hd"


def test_remaining_counts_over_zones_and_stops_at_zero() -> None:
    now = datetime(2030, 1, 1, 12, tzinfo=UTC)
    berlin = timezone(timedelta(hours=1))

    assert delay.remaining(datetime(2030, 1, 1, 13, 0, 30, tzinfo=berlin), now) == 30
    assert delay.remaining(datetime(2030, 1, 1, 12, 59, tzinfo=berlin), now) == 0
