"""Dead letters: read for what they say, listed without being taken, replayed and dropped, on a broker in memory."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from amqptasks import App, delay, protocol, visiting
from amqptasks.amqp import Address, Delivery, Envelope, Properties, Queue
from amqptasks.dead import DeadLetters, Selection, Tally
from amqptasks.deaths import DeadLetter, address_of, alive, read
from amqptasks.entities import LOST
from amqptasks.errors import NotFound, Reject
from amqptasks.protocol import DEAD_HEADERS, TaskMessage
from amqptasks.testing import running_worker
from amqptasks.transport import codec, memory

_numbers = itertools.count()


@pytest.fixture
def app() -> Iterator[App]:
    app = App("proj", broker=f"memory://dead-{next(_numbers)}", task_unknown_retries=0)
    app.mended = False  # type: ignore[attr-defined]
    app.ran = []  # type: ignore[attr-defined]

    @app.task(name="proj.picky", acks_late=True)
    def picky(number: int) -> None:
        app.ran.append(number)  # type: ignore[attr-defined]
        if not app.mended:  # type: ignore[attr-defined]
            raise Reject("not now", requeue=False)

    yield app
    app.close()


def send(app: App, *numbers: int, task: str = "proj.picky") -> list[str]:
    """Call the task, and have a worker take what there is."""
    ids = [app.send_task(task, (number,)).id for number in numbers]
    run(app)
    return ids


def run(app: App) -> None:
    with running_worker(app) as worker:
        worker.wait_until_idle()


def waiting(app: App, queue: str) -> int:
    return app.connection.inspect(queue).messages


def ids(letters: list[DeadLetter]) -> list[str]:
    return [letter.id for letter in letters]


# --- what they say ---------------------------------------------------------------------------------------


def test_what_the_worker_refused_says_why_when_where_and_what_it_was(app: App) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    (task_id,) = send(app, 7, task="proj.gone")

    (letter,) = app.dead_letters().list()

    assert letter.died_at is not None
    assert before <= letter.died_at <= datetime.now(UTC)
    assert (letter.id, letter.task, letter.reason, letter.times) == (task_id, "proj.gone", "unknown", 1)
    assert (letter.queue, letter.lies_in) == ("amqptasks", "amqptasks.dead")
    assert (letter.exchange, letter.routing_key) == ("amqptasks", "amqptasks")
    assert letter.error.startswith("NotRegistered: ")
    assert letter.node
    assert letter.args == "(7,)"


def test_what_a_task_rejected_says_so_in_the_brokers_words(app: App) -> None:
    (task_id,) = send(app, 7)

    (letter,) = app.dead_letters().list()

    assert (letter.id, letter.task, letter.reason, letter.times) == (task_id, "proj.picky", "rejected", 1)
    assert (letter.queue, letter.exchange, letter.routing_key) == ("amqptasks", "amqptasks", "amqptasks")
    assert letter.died_at is not None


def test_deaths_are_counted_over_replays_and_nothing_else_of_them_stays(app: App) -> None:
    send(app, 7)
    send(app, 8, task="proj.gone")

    for _ in range(2):
        assert app.dead_letters().replay().done == 2
        run(app)

    letters = app.dead_letters().show()
    assert sorted((letter.reason, letter.times) for letter, _ in letters) == [("rejected", 3), ("unknown", 3)]
    rejected = next(envelope for letter, envelope in letters if letter.reason == "rejected")
    assert not DEAD_HEADERS & set(rejected.properties.headers or {})


def delivery(headers: Any = None, exchange: str = "", key: str = "short.dead", **properties: Any) -> Delivery:
    header = codec.encode_header(Properties(headers=headers, **properties))
    return Delivery("short.dead", 1, 1, False, exchange, key, header, b"[]")


OURS = {"x-amqptasks-reason": "unknown", "x-amqptasks-queue": "short", "x-amqptasks-time": 1_000}


def death(queue: str, reason: str = "rejected", seconds: int = 2_000, **more: Any) -> dict[str, Any]:
    time = datetime.fromtimestamp(seconds, UTC)
    return {"queue": queue, "reason": reason, "time": time, "count": 1, "exchange": "", **more}


@pytest.mark.parametrize(
    ("headers", "reason", "queue"),
    [
        ({**OURS, "x-death": [death("later")]}, "rejected", "later"),
        ({**OURS, "x-death": [death("earlier", seconds=10)]}, "unknown", "short"),
        ({"x-death": [death("long", "maxlen", count=4), death("old")]}, "maxlen", "long"),
        ({"x-death": [death(f"{delay.PREFIX}.0.5", "expired"), death("mail")]}, "rejected", "mail"),
        ({"x-death": "rubbish"}, "lost", "short"),
        ({"x-death": [1, {"queue": ["x"], "routing-keys": 5, "count": -1, "time": "soon"}]}, "", ""),
        ({"x-amqptasks-reason": 5, "id": 7, "task": ["x"]}, "lost", "short"),
    ],
)
def test_the_latest_death_counts_and_rubbish_costs_nothing(headers: Any, reason: str, queue: str) -> None:
    letter = read(delivery(headers))

    assert (letter.reason, letter.queue) == (reason, queue)


def test_a_header_that_cannot_be_read_is_a_dead_letter_all_the_same() -> None:
    letter = read(Delivery("short.dead", 1, 1, False, "", "x", b"\xff\xff\xff", b"[]"))

    assert (letter.id, letter.reason, letter.size) == ("", "lost", 2)


def test_the_ladders_key_tells_where_a_delayed_message_was_bound() -> None:
    for to in ("mail", "a.b c", Address("", "mail"), Address("events", "shop.*")):
        address, _ = delay.ladder_route(42, to)
        lost = read(delivery(exchange=f"{delay.PREFIX}.1", key=address.routing_key))

        wanted = to if isinstance(to, Address) else Address("", to)
        assert address_of(lost) == wanted


def test_what_never_reached_a_queue_goes_to_its_exchange_and_all_else_to_its_queue() -> None:
    refused = {"queue": "short", "exchange": "events", "routing_key": "shop.sold"}

    assert address_of(DeadLetter(reason="unroutable", **refused)) == Address("events", "shop.sold")
    assert address_of(DeadLetter(reason="unknown", **refused)) == Address("", "short")
    assert address_of(DeadLetter(reason="unknown", **refused), "other") == Address("", "other")
    assert address_of(DeadLetter()) is None


def test_a_message_that_lives_again_is_the_one_that_died() -> None:
    headers = {
        **OURS,
        "id": "a",
        "task": "t",
        "mine": 1,
        "CC": ["x"],
        "x-death": [death("q")],
        "x-amqptasks-crashes": 5,
        "x-amqptasks-unknown": 3,
        "x-amqptasks-deaths": 2,
        "x-first-death-queue": "q",
    }
    dead = delivery(headers, correlation_id="a", reply_to="r", user_id="u", message_id="m", priority=3)

    parcel = alive(dead, read(dead), Address("", "q"))

    again = codec.decode_header(parcel.header)
    assert again.headers == {
        "id": "a",
        "task": "t",
        "mine": 1,
        "x-amqptasks-deaths": 3,
        "x-amqptasks-replayed": 2_000,
    }
    assert (again.correlation_id, again.reply_to, again.message_id, again.priority) == ("a", "r", "m", 3)
    assert again.user_id is None
    assert parcel.body == dead.body


# --- looking ---------------------------------------------------------------------------------------------


def test_a_hundred_looks_change_neither_number_nor_order(app: App) -> None:
    sent = send(app, *range(5))

    for _ in range(100):
        assert ids(app.dead_letters().list()) == sent

    assert waiting(app, "amqptasks.dead") == 5


def test_a_part_of_them_is_looked_at_and_the_rest_is_told(app: App) -> None:
    sent = send(app, *range(5))
    tally = Tally()

    assert ids(app.dead_letters().list(Selection(limit=2))) == sent[:2]
    assert ids(app.dead_letters().list(Selection(look=3), tally)) == sent[:3]
    assert tally.beyond == 2
    assert ids(app.dead_letters().list()) == sent


def test_more_than_a_window_is_looked_at(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visiting, "WINDOW", 2)
    sent = send(app, *range(7))

    assert ids(app.dead_letters().list()) == sent
    assert ids(app.dead_letters().list()) == sent


def test_selections_narrow_each_other_down(app: App) -> None:
    rejected = send(app, 1, 2)
    gone = send(app, 3, task="proj.gone")
    letters = app.dead_letters()

    assert ids(letters.list(Selection(reasons=frozenset(["unknown"])))) == gone
    assert ids(letters.list(Selection(tasks=("proj.p*",)))) == rejected
    assert ids(letters.list(Selection(ids=frozenset([rejected[1], gone[0]])))) == [rejected[1], *gone]
    assert letters.list(Selection(tasks=("proj.p*",), reasons=frozenset(["unknown"]))) == []


def test_bodies_are_shown_undecoded(app: App) -> None:
    send(app, 7)

    ((letter, envelope),) = app.dead_letters().show()

    assert envelope.body.startswith(b"[[7],")
    assert len(envelope.body) == letter.size
    assert (envelope.properties.headers or {})["task"] == "proj.picky"


def test_queues_are_named_by_what_they_are_the_dead_letters_of(app: App) -> None:
    send(app, 7)

    assert app.dead_letters().queues == ("amqptasks.dead", LOST)
    assert app.dead_letters(["short", "long.dead", LOST]).queues == ("short.dead", "long.dead", LOST)
    assert len(app.dead_letters(["amqptasks"]).list()) == 1
    with pytest.raises(NotFound):
        app.dead_letters(["nobody"]).list()
    assert DeadLetters(app.conf, ["nobody"]).list() == []


def test_what_lost_its_own_queue_is_found_too(app: App) -> None:
    send(app, 1)
    call = codec.pack(protocol.encode(TaskMessage(id="one", task="proj.gone"), Address("", "amqptasks")))

    with running_worker(app) as worker:
        app.connection.delete_queue("amqptasks.dead")
        app.connection.publish([call])
        worker.wait_until_idle()

    (letter,) = app.dead_letters().list()
    assert (letter.id, letter.lies_in, letter.queue, letter.reason) == ("one", LOST, "amqptasks", "unknown")


# --- replaying -------------------------------------------------------------------------------------------


def test_what_is_replayed_runs(app: App) -> None:
    send(app, 1, 2, 3)
    app.ran.clear()  # type: ignore[attr-defined]
    app.mended = True  # type: ignore[attr-defined]
    told: list[int] = []

    tally = app.dead_letters().replay(Selection(limit=2), progress=told.append)

    assert (tally.matched, tally.done, tally.left, told) == (2, 2, {}, [1, 2])
    run(app)
    assert app.ran == [1, 2]  # type: ignore[attr-defined]
    assert waiting(app, "amqptasks.dead") == 1


def test_what_dies_again_meanwhile_is_not_replayed_for_ever(app: App) -> None:
    send(app, 1, 2, 3)

    with running_worker(app) as worker:
        assert app.dead_letters().replay().done == 3
        worker.wait_until_idle()

    assert waiting(app, "amqptasks.dead") == 3


def test_what_finds_no_queue_stays_where_it_is_and_the_next_one_is_not_tried(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = send(app, 1, 2)
    tried: list[str] = []
    monkeypatch.setattr("amqptasks.dead.alive", lambda *given: tried.append(given[1].id) or alive(*given))

    tally = app.dead_letters().replay(to="nowhere")

    assert tried == sent[:1]
    assert (tally.matched, tally.done, sum(tally.left.values())) == (2, 0, 2)
    assert all("nowhere" in why for why in tally.left)
    assert ids(app.dead_letters().list()) == sent


def test_a_full_queue_keeps_the_rest_dead(app: App) -> None:
    send(app, 1, 2, 3)
    app.connection.declare(Queue("tiny", arguments={"x-max-length": 2, "x-overflow": "reject-publish"}))

    tally = app.dead_letters().replay(to="tiny")

    assert (tally.done, sum(tally.left.values())) == (2, 1)
    assert (waiting(app, "tiny"), waiting(app, "amqptasks.dead")) == (2, 1)


def test_a_long_replay_gives_back_in_between_what_it_only_looks_at(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no time for a round, each ends at the first message that stays; none is forgotten or met twice."""
    monkeypatch.setattr("amqptasks.dead.ROUND", -1.0)
    rounds: list[int] = []
    monkeypatch.setattr(visiting.Walk, "_round", noting(visiting.Walk._round, rounds))
    stay: list[str] = []
    for number in range(3):
        stay += send(app, number)
        send(app, number, task="proj.gone")

    tally = app.dead_letters(["amqptasks"]).replay(Selection(tasks=("proj.gone",)))

    assert rounds == [6, 5, 4]
    assert (tally.matched, tally.done) == (3, 3)
    assert waiting(app, "amqptasks") == 3
    assert ids(app.dead_letters().list()) == stay


def noting(of: Any, rounds: list[int]) -> Any:
    def noted(walk: Any, queue: str, messages: int, act: Any) -> Any:
        rounds.append(messages)
        return of(walk, queue, messages, act)

    return noted


def test_a_rate_is_kept(app: App) -> None:
    send(app, 1, 2, 3)
    began = datetime.now(UTC)

    app.dead_letters().replay(rate=20)

    assert (datetime.now(UTC) - began).total_seconds() >= 2 / 20


def test_a_lost_connection_is_an_error_and_loses_nothing(app: App) -> None:
    send(app, 1, 2, 3)
    broker = memory.broker(app.conf.broker_url.removeprefix("memory://"))

    def drop(done: int) -> None:
        if done == 2:
            broker.drop_connections()

    with pytest.raises(Exception, match="dropped by the test"):
        app.dead_letters().replay(progress=drop)

    assert waiting(app, "amqptasks") + waiting(app, "amqptasks.dead") in (3, 4)
    assert waiting(app, "amqptasks") == 2


def test_a_blocked_broker_is_an_error_in_time(app: App) -> None:
    send(app, 1)
    app.conf.broker_publish_timeout = 0.1
    memory.broker(app.conf.broker_url.removeprefix("memory://")).block("low on memory")

    with pytest.raises(Exception, match="low on memory"):
        app.dead_letters().replay()

    memory.broker(app.conf.broker_url.removeprefix("memory://")).unblock()
    assert waiting(app, "amqptasks.dead") == 1


def test_a_copy_of_one_replay_runs_once_and_another_dead_letter_of_the_same_id_runs_too(app: App) -> None:
    """What a killed replay left behind: sent, confirmed and still among the dead letters, so it is sent once more."""
    app.prepare("amqptasks")
    app.mended = True  # type: ignore[attr-defined]
    call = protocol.encode(TaskMessage(id="one", task="proj.picky", args=(1,)), Address("", "amqptasks"))
    headers = dict(call.properties.headers or {})
    dead = [
        replace(delivery({**headers, "x-death": [death("amqptasks", seconds=seconds)]}), body=call.body)
        for seconds in (1_000, 1_000, 2_000)
    ]
    parcels = [alive(each, read(each), Address("", "amqptasks")) for each in dead]

    app.connection.publish(parcels)
    run(app)

    assert app.ran == [1, 1]  # type: ignore[attr-defined]


# --- dropping --------------------------------------------------------------------------------------------


def test_what_is_dropped_is_gone_and_nothing_else(app: App) -> None:
    rejected = send(app, 1, 2)
    send(app, 3, task="proj.gone")

    tally = app.dead_letters().drop(Selection(reasons=frozenset(["unknown"])))

    assert tally.done == 1
    assert ids(app.dead_letters().list()) == rejected


def test_a_foreign_dead_letter_without_an_id_is_dropped_by_its_reason(app: App) -> None:
    send(app, 1)
    app.connection.publish([Envelope(Address("amqptasks.dead", "amqptasks"), b"?", Properties())])

    assert app.dead_letters().drop(Selection(reasons=frozenset(["lost"]))).done == 1
    assert waiting(app, "amqptasks.dead") == 1


def test_without_a_name_the_queues_that_routes_name_are_looked_at_too(app: App) -> None:
    app.conf.task_routes = {"proj.refuse": "long"}

    @app.task(name="proj.refuse", acks_late=True)
    def refuse() -> None:
        raise Reject("no")

    with running_worker(app, queues=["long"]) as worker:
        refuse.delay()
        worker.wait_until_idle()

    assert [letter.queue for letter in app.dead_letters().list()] == ["long"]
