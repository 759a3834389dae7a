"""`app.events` of a client: what tells that a call was sent must not cost the call."""

import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from amqptasks import App, event_wire, events
from amqptasks.amqp import Delivery, Entity, Envelope, Exchange
from amqptasks.errors import AccessRefused, BrokerBlocked, PublishTimeout, TransportError
from amqptasks.transport import codec


class Connection:
    """Takes what it is given, or refuses."""

    def __init__(self) -> None:
        self.declared: list[Entity] = []
        self.sent: list[Envelope] = []
        self.error: TransportError | None = None
        self.refused: TransportError | None = None

    def declare(self, *entities: Entity) -> None:
        if self.refused is not None:
            raise self.refused
        self.declared += entities

    def submit(self, envelopes: list[Envelope], timeout: float | None = None, *, wait: bool = True) -> None:
        assert not wait, "it must not wait for room"
        if self.error is not None:
            raise self.error
        self.sent += envelopes


@pytest.fixture
def app() -> Iterator[App]:
    with App("proj", broker="memory://", task_send_sent_event=True) as made:
        yield made


@pytest.fixture
def connection(app: App, monkeypatch: pytest.MonkeyPatch) -> Connection:
    """The events' own view of it."""
    fake = Connection()
    monkeypatch.setattr(app.events, "app", SimpleNamespace(conf=app.conf, connection=fake))
    return fake


def send(app: App) -> Any:
    return app.send_task("add", (1, 2), queue="short", task_id="a")


def test_a_call_is_told_of_on_an_exchange_that_is_there(app: App, connection: Connection) -> None:
    send(app)
    send(app)

    assert [(type(each), each.name) for each in connection.declared] == [(Exchange, "celeryev")]  # type: ignore[union-attr]
    assert [each.fate for each in connection.sent] == ["event", "event"]
    told = json.loads(connection.sent[0].body)
    assert (told["type"], told["uuid"], told["name"], told["queue"]) == ("task-sent", "a", "add", "short")
    assert told["clock"] < json.loads(connection.sent[1].body)["clock"]


@pytest.mark.parametrize("error", [BrokerBlocked("low on memory"), PublishTimeout("no room")])
def test_it_is_dropped_and_counted_when_the_broker_is_slow(
    app: App, connection: Connection, error: TransportError
) -> None:
    connection.error = error

    assert send(app).id == "a"
    assert app.events.dropped == 1


def test_who_may_not_declare_the_exchange_uses_it_as_it_is(app: App, connection: Connection) -> None:
    connection.refused = AccessRefused("403")

    send(app)

    assert len(connection.sent) == 1


def test_a_slow_program_misses_the_oldest_events(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "WAITING", 2)
    receiver = app.events.Receiver()
    for number in range(4):
        body = json.dumps({"type": "order-shipped", "number": number}).encode()
        message = event_wire.envelope("order.shipped", body, "w@h", {"event_exchange": "celeryev"})
        receiver._take(delivered(message))

    assert receiver.dropped == 2
    assert [event["number"] for event in receiver._captured(limit=2, timeout=60.0)] == [2, 3]


def delivered(message: Envelope) -> Delivery:
    parcel = codec.pack(message)
    return Delivery("q", 1, 1, False, parcel.exchange, parcel.routing_key, parcel.header, parcel.body)


def test_handlers_are_called_by_type_and_a_star_takes_the_rest(app: App) -> None:
    called: list[tuple[str, str]] = []
    state = app.events.State()
    receiver = app.events.Receiver(
        handlers={
            "task-started": lambda event: called.append(("started", event["uuid"])),
            "*": lambda event: called.append(("*", event["type"])),
        },
        state=state,
    )

    receiver.process("task-started", {"type": "task-started", "uuid": "a"})
    receiver.process("worker-online", {"type": "worker-online", "hostname": "w@h"})

    assert called == [("started", "a"), ("*", "worker-online")]
    assert (list(state.tasks), list(state.workers)) == (["a"], ["w@h"])


def test_an_event_of_ones_own_is_sent_to_whoever_listens(app: App) -> None:
    receiver = app.events.Receiver(routing_key="order.#")
    captured = receiver.itercapture(limit=1, timeout=60.0, wakeup=False)
    heard: list[dict[str, Any]] = []
    listening = threading.Thread(target=lambda: heard.extend(captured))
    listening.start()
    deadline = time.monotonic() + 60
    while not heard and time.monotonic() < deadline:
        app.events.Dispatcher("shop@here").send("order-shipped", number=7)
        listening.join(0.05)
    listening.join(60)

    assert (heard[0]["type"], heard[0]["number"], heard[0]["hostname"]) == ("order-shipped", 7, "shop@here")
    assert heard[0]["local_received"] <= time.time()
