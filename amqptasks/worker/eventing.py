"""A worker's events: gathered for a moment, sent in batches, dropped rather than waited for.

The parent knows when a call was received, started and ended; a child adds what only it knows (see `telling`). Nobody
waits for an event: what finds the broker slow or blocked is counted and gone. Used in the loop only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from amqptasks import __version__, event_wire
from amqptasks.amqp import Delivery
from amqptasks.errors import TransportError
from amqptasks.pidbox import Clock
from amqptasks.transport import codec
from amqptasks.transport.base import Link
from amqptasks.transport.publisher import Publisher
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.event_batch import batch
from amqptasks.worker.flight import Flight

logger = logging.getLogger(__name__)

MOMENT = 0.05
"""Seconds that task events are gathered."""
BATCH = 400
"""Events that are sent at once at the latest."""
FULL = 3 * BATCH
UNDER_WAY = 20
"""Batches that may be unconfirmed; with more the broker is slow, and events are dropped."""
INTERVAL = 2.0
"""Seconds between two heartbeats."""
STARTED = b'"type":"task-started"'
RETRIED = b'"type":"task-retried"'
"""How the event of a retry begins."""


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
        self._gathered: list[Any] = []
        """Time, call and what is told of it, of one event after the other: a value for each would cost a tenth more."""
        self._timer: asyncio.TimerHandle | None = None
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
        return self._dispatch.events is not None

    def enable(self) -> bool:
        """Tell of every call from now on; False if that was so already."""
        before, self._dispatch.events = self._dispatch.events, self
        return before is None

    def disable(self) -> bool:
        """Tell of no call any more; False if that was so already. What children still tell is dropped."""
        before, self._dispatch.events = self._dispatch.events, None
        return before is not None

    # --- calls -------------------------------------------------------------------------------------------

    def received(self, fields: Mapping[str, Any], delivery: Delivery) -> None:
        if fields:
            gathered = self._gathered or self._begin()
            gathered += (time.time(), fields, delivery)

    def started(self, flight: Flight) -> None:
        if flight.identity is not None:
            gathered = self._gathered or self._begin()
            gathered += (time.time(), flight.identity[0], STARTED)

    def finished(self, flight: Flight, event: bytes) -> None:
        if flight.identity is not None:
            gathered = self._gathered or self._begin()
            gathered += (time.time(), flight.identity[0], event)
            # Another worker may have a retry at once, and its events must not come before this one.
            if len(gathered) >= FULL or event.startswith(RETRIED):
                self.flush()

    def _begin(self) -> list[Any]:
        """What is gathered next is sent in a moment."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MOMENT, self._flush_in_time)
        return self._gathered

    def _flush_in_time(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Send what is gathered, or drop it if the broker does not keep up."""
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return
        count = len(gathered) // 3
        publisher = self._publisher
        if self._under_way >= UNDER_WAY or publisher.blocked or publisher.link is None:
            self.dropped += count
            return
        body = batch(gathered, self._stamp, self._clock)
        parcel = codec.pack(event_wire.envelope("task.multi", body, self._stamp.hostname, self._settings))
        self._under_way += 1
        publisher.post(parcel, partial(self._gone, count), asyncio.get_running_loop().time() + 10.0)

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
        """Send one event of the worker's own now, however far behind the broker is with those of tasks."""
        if self._publisher.blocked:
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
        body = event_wire.encoded(event)
        parcel = codec.pack(event_wire.envelope(key, body, self._stamp.hostname, self._settings))
        self._publisher.post(parcel, _ignore, asyncio.get_running_loop().time() + 10.0)

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            self.beat()


def _ignore(_error: TransportError | None) -> None:
    """The next heartbeat tells as much."""
