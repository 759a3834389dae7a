"""`app.events`: receiving the events of workers and clients, sending one's own, and what they add up to.

Knows the events' wire and the blocking connection. A Celery worker's events are understood as well.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from amqptasks import event_wire
from amqptasks.amqp import Delivery, Envelope
from amqptasks.config import Config
from amqptasks.control import Control
from amqptasks.errors import AccessRefused, InvalidMessage, TopologyMismatch, TransportError
from amqptasks.event_state import State
from amqptasks.ids import new_id, process
from amqptasks.pidbox import Clock
from amqptasks.transport import codec
from amqptasks.transport.blocking import BlockingConnection

logger = logging.getLogger(__name__)

Event = dict[str, Any]
OnEvent = Callable[[Event], Any]

SENT = {
    "uuid": "id", "root_id": "root_id", "parent_id": "parent_id", "name": "task", "args": "argsrepr",
    "kwargs": "kwargsrepr", "retries": "retries", "eta": "eta", "expires": "expires",
}  # fmt: skip
"""The fields of `task-sent`, and the headers of a call that they come from."""
WAITING = 100_000
"""Events that wait for a slow program; what comes when there are so many is dropped, and counted."""


class Monitored(Protocol):
    """What events need of an app."""

    @property
    def conf(self) -> Config: ...
    @property
    def connection(self) -> BlockingConnection: ...
    @property
    def control(self) -> Control: ...


class Receiver:
    """Calls `handlers[type]`, or `handlers["*"]`, with each event that comes; `state` is fed first.

    `routing_key` chooses events: "#" all, "task.#", "worker.#".
    """

    def __init__(
        self,
        app: Monitored,
        handlers: Mapping[str, OnEvent] | None = None,
        routing_key: str = "#",
        state: State | None = None,
    ) -> None:
        self.app = app
        self.handlers = dict(handlers or {})
        self.state = state
        self.dropped = 0
        self.should_stop = False
        self._routing_key = routing_key
        self._events: queue.Queue[Event] = queue.Queue(WAITING)

    def __iter__(self) -> Iterator[Event]:
        return self.itercapture()

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[Event]:
        """Yield events as they come: `limit` of them, or until none has come for `timeout` seconds.

        `wakeup` has the workers say at once that they are there. Raises what consuming raises, at the start; after
        that an outage only interrupts it.
        """
        settings = event_wire.settings_of(self.app.conf)
        exchange, own, binding = event_wire.receiving(new_id(), settings, self._routing_key)
        declared = (exchange, own, binding)
        subscription = self.app.connection.consume(own.name, self._take, declare=declared)
        try:
            if wakeup:
                self.wakeup_workers()
            yield from self._captured(limit, timeout)
        finally:
            subscription.close()

    def _captured(self, limit: int | None, timeout: float | None) -> Iterator[Event]:
        seen, last = 0, time.monotonic()
        while not self.should_stop and (limit is None or seen < limit):
            rest = 0.5 if timeout is None else min(0.5, timeout - (time.monotonic() - last))
            try:
                event = self._events.get(timeout=max(0.0, rest))
            except queue.Empty:
                if timeout is not None and time.monotonic() - last >= timeout:
                    return
                continue
            seen, last = seen + 1, time.monotonic()
            self.process(event["type"], event)
            yield event

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """As `itercapture`, for the handlers alone. Blocks."""
        for _ in self.itercapture(limit, timeout, wakeup):
            pass

    def process(self, type: str, event: Event) -> None:
        """Feed the state, then call the handler of an event."""
        if self.state is not None:
            self.state.event(event)
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler is not None:
            handler(event)

    def wakeup_workers(self) -> None:
        self.app.control.heartbeat()

    def stop(self) -> None:
        """End capturing within half a second. May be called in any thread."""
        self.should_stop = True

    def _take(self, delivery: Delivery) -> None:
        try:
            events = list(event_wire.read(codec.unpack(delivery)))
        except InvalidMessage:
            return
        for event in events:
            event["local_received"] = time.time()
            while True:
                try:
                    self._events.put_nowait(event)
                    break
                except queue.Full:
                    self._drop_one()

    def _drop_one(self) -> None:
        """Make room; the program may have done so meanwhile."""
        try:
            self._events.get_nowait()
        except queue.Empty:
            return
        self.dropped += 1


class Dispatcher:
    """Sends events of one's own: `dispatcher.send("import-done", rows=10)`. Thread-safe."""

    def __init__(self, app: Monitored, hostname: str | None = None) -> None:
        self._app = app
        self._clock = Clock()
        self._hostname = hostname or f"gen{process()}@{socket.gethostname()}"
        self._declared = False

    def send(self, type: str, **fields: Any) -> None:
        """Send an event; nobody need listen. Raises what publishing raises."""
        settings = event_wire.settings_of(self._app.conf)
        if not self._declared:
            self._app.connection.declare(event_wire.exchange(settings))
            self._declared = True
        stamp = event_wire.Stamp(self._hostname, os.getpid())
        event = stamp.event(type, self._clock.forward(), fields)
        key = type.replace("-", ".")
        self._app.connection.publish(
            [event_wire.envelope(key, event_wire.encoded(event), self._hostname, settings)]
        )


class Events:
    """`app.events`: makes receivers, states and dispatchers for its app."""

    def __init__(self, app: Monitored) -> None:
        self.app = app
        self.dropped = 0
        """Events `task-sent` that the broker was too slow for, or that were refused."""
        self._clock = Clock()
        self._declared = False

    def sent(self, envelope: Envelope, queue: str | None) -> None:
        """Tell that a call was sent (`task_send_sent_event`): now, or not at all. Raises nothing of the broker's.

        The first time it waits until the exchange is declared.
        """
        headers = envelope.properties.headers or {}
        fields = {name: headers.get(header) for name, header in SENT.items()}
        address = envelope.address
        where = {"queue": queue, "exchange": address.exchange, "routing_key": address.routing_key}
        settings = event_wire.settings_of(self.app.conf)
        stamp = event_wire.Stamp(f"gen{process()}@{socket.gethostname()}", process())
        event = stamp.event("task-sent", self._clock.forward(), fields | where)
        message = event_wire.envelope("task.sent", event_wire.encoded(event), stamp.hostname, settings)
        try:
            self._declare(settings)
            self.app.connection.submit([message], wait=False)
        except TransportError as error:
            self.dropped += 1
            logger.debug("the call %s is not told of: %s", fields["uuid"], error)

    def _declare(self, settings: Mapping[str, Any]) -> None:
        """Without the exchange, each event would cost the channel that calls are published on."""
        if self._declared:
            return
        try:
            self.app.connection.declare(event_wire.exchange(settings))
        except (AccessRefused, TopologyMismatch) as error:
            logger.debug("%s; using it as it is", error)
        self._declared = True

    def Receiver(  # noqa: N802 (Celery's name)
        self,
        channel: Any = None,
        handlers: Mapping[str, OnEvent] | None = None,
        routing_key: str = "#",
        state: State | None = None,
    ) -> Receiver:
        """Return a receiver; `channel`, Celery's connection, means nothing here."""
        return Receiver(self.app, handlers, routing_key, state)

    def State(self, *args: Any, **options: Any) -> State:  # noqa: N802 (Celery's name)
        """Return a state; takes what `amqptasks.event_state.State` takes."""
        return State(*args, **options)

    def Dispatcher(self, hostname: str | None = None) -> Dispatcher:  # noqa: N802 (Celery's name)
        return Dispatcher(self.app, hostname)
