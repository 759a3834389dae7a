"""A worker's events: gathered for a moment, sent in batches, dropped rather than waited for.

The parent knows when a call was received, started and ended; a child adds what only it knows (see `telling`). Nobody
waits for an event: what finds the broker slow or blocked is counted and gone. Used in the loop only.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson

from amqptasks import __version__, event_wire
from amqptasks.amqp import Delivery
from amqptasks.errors import AmqptasksError, TransportError
from amqptasks.pidbox import Clock
from amqptasks.transport import codec
from amqptasks.transport.base import Link
from amqptasks.transport.publisher import Publisher
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.flight import Flight
from amqptasks.worker.outcome import Outcome

logger = logging.getLogger(__name__)

MOMENT = 0.05
"""Seconds that task events are gathered."""
BATCH = 200
"""Events that are sent at once at the latest."""
UNDER_WAY = 20
"""Batches that may be unconfirmed; with more the broker is slow, and events are dropped."""
INTERVAL = 2.0
"""Seconds between two heartbeats."""
KEYS = ("id", "task", "argsrepr", "kwargsrepr", "root_id", "parent_id", "retries", "eta", "expires")


class Events:
    """Implements `Watched`. Heartbeats are sent always unless `heartbeats` is False, task events once enabled."""

    def __init__(
        self, node: str, settings: Mapping[str, Any], publisher: Publisher, dispatch: Dispatch, clock: Clock
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._dispatch = dispatch
        self._clock = clock
        self._stamp = event_wire.Stamp(node, os.getpid())
        self._gathered: list[dict[str, Any]] = []
        self._under_way = 0
        self._heart: asyncio.Task[None] | None = None
        self.sent = 0
        self.dropped = 0

    async def prepare(self, link: Link) -> None:
        """Declare the exchange. Raises nothing: without it there are no events."""
        try:
            await link.declare(event_wire.exchange(self._settings))
        except TransportError as error:
            logger.debug("events may not be sent: %s", error)

    # --- on and off --------------------------------------------------------------------------------------

    @property
    def on(self) -> bool:
        return self._dispatch.watching

    def enable(self) -> bool:
        """Tell of every call from now on; False if that was so already."""
        before, self._dispatch.watching = self._dispatch.watching, True
        self._dispatch.events = self
        return not before

    def disable(self) -> bool:
        """Tell of no call any more; False if that was so already. What children still tell is taken out."""
        before, self._dispatch.watching = self._dispatch.watching, False
        return before

    # --- calls -------------------------------------------------------------------------------------------

    def received(self, delivery: Delivery) -> None:
        if not self._dispatch.watching:
            return
        try:
            said = codec.select(delivery.header, KEYS)
        except (AmqptasksError, ValueError, IndexError):
            return
        self._gather(
            "task-received",
            uuid=said.get("id"),
            name=said.get("task"),
            args=said.get("argsrepr"),
            kwargs=said.get("kwargsrepr"),
            root_id=said.get("root_id"),
            parent_id=said.get("parent_id"),
            retries=said.get("retries"),
            eta=said.get("eta"),
            expires=said.get("expires"),
        )

    def started(self, flight: Flight) -> None:
        if self._dispatch.watching:
            self._gather("task-started", uuid=flight.task_id)

    def finished(self, flight: Flight, outcome: Outcome) -> Outcome:
        told = [parcel for parcel in outcome.publish if parcel.fate == "event"]
        if not told:
            return outcome
        if self._dispatch.watching:
            for parcel in told:
                self._gather(parcel.routing_key, uuid=flight.task_id, **orjson.loads(parcel.body))
        rest = tuple([parcel for parcel in outcome.publish if parcel.fate != "event"])
        return Outcome(outcome.verdict, rest, outcome.state)

    def _gather(self, kind: str, **fields: Any) -> None:
        gathered = self._gathered
        gathered.append(self._stamp.event(kind, self._clock.forward(), fields))
        if len(gathered) == 1:
            asyncio.get_running_loop().call_later(MOMENT, self.flush)
        elif len(gathered) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what is gathered, or drop it if the broker does not keep up."""
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return
        publisher = self._publisher
        if self._under_way >= UNDER_WAY or publisher.blocked or publisher.saturated or publisher.link is None:
            self.dropped += len(gathered)
            return
        parcel = codec.pack(event_wire.envelope("task.multi", gathered, self._stamp.hostname, self._settings))
        self._under_way += 1
        publisher.post(parcel, partial(self._gone, len(gathered)), asyncio.get_running_loop().time() + 10.0)

    def _gone(self, count: int, error: TransportError | None) -> None:
        self._under_way -= 1
        if error is None:
            self.sent += count
        else:
            self.dropped += count

    # --- the worker itself -------------------------------------------------------------------------------

    def go_online(self, *, heartbeats: bool) -> None:
        """Say that the worker is there, and go on saying so."""
        if heartbeats:
            self.beat("worker-online")
            self._heart = asyncio.get_running_loop().create_task(self._beat_on())

    def go_offline(self) -> None:
        self.flush()
        if self._heart is not None:
            self._heart.cancel()
            self._heart = None
            self.beat("worker-offline")

    def beat(self, kind: str = "worker-heartbeat", freq: float = INTERVAL) -> None:
        """Send one event of the worker's own now."""
        if self._publisher.blocked or self._under_way >= UNDER_WAY:
            return
        fields = {
            "freq": freq,
            "active": len(self._dispatch.pool.running),
            "processed": self._dispatch.counters.started,
            "loadavg": [round(load, 2) for load in os.getloadavg()],
            "sw_ident": "amqptasks",
            "sw_ver": __version__,
            "sw_sys": os.uname().sysname,
        }
        event = self._stamp.event(kind, self._clock.forward(), fields)
        key = kind.replace("-", ".")
        parcel = codec.pack(event_wire.envelope(key, event, self._stamp.hostname, self._settings))
        self._under_way += 1
        self._publisher.post(parcel, partial(self._gone, 0), asyncio.get_running_loop().time() + 10.0)

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            self.beat()
