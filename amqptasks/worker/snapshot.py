"""A worker's numbers at one moment, copied in its loop for another thread to show. Changes nothing but a cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from amqptasks.amqp import Queue
from amqptasks.errors import TransportError
from amqptasks.worker.measures import Histogram, Measures, Tally, waiting_since
from amqptasks.worker.station import Station

FRESH = 5.0
"""Seconds that an answer of the broker's about its queues is good for."""
PATIENCE = 2.0
"""Seconds that it has for one."""


@dataclass(frozen=True, slots=True)
class LaneView:
    """One queue that is consumed."""

    queue: str
    internal: bool
    prefetch: int
    held: int
    oldest: float
    """Seconds that the oldest message has waited which this worker holds and has not started; 0: there is none."""


@dataclass(frozen=True, slots=True)
class View:
    """The worker's numbers at one moment, as copies that no other thread changes."""

    node: str
    tallies: Mapping[tuple[str, str], Tally]
    lanes: Sequence[LaneView]
    dead: Mapping[tuple[str, str], int]
    confirms: Histogram
    totals: Mapping[str, int]
    gauges: Mapping[str, float]
    connected: Mapping[str, bool]
    reconnects: Mapping[str, int]
    slots: int


def view(station: Station, measures: Measures) -> View:
    """Copy what there is to tell. In the loop."""
    dispatch, publisher, consumers, pool = (
        station.dispatch,
        station.publisher,
        station.consumers,
        station.pool,
    )
    measures.look()
    counters, link = dispatch.counters, consumers.link
    return View(
        node=station.node,
        tallies=measures.shown(dispatch.flights.values()),
        lanes=_lanes(station),
        dead=dict(measures.dead),
        confirms=measures.confirms.copy(),
        totals={
            "tasks_lost": counters.lost,
            "messages_returned": counters.returned,
            "duplicates_dropped": counters.doubles,
            "results_undeliverable": counters.undeliverable,
            "events_dropped": station.events.dropped,
            "children_replaced": getattr(pool, "replaced", 0),
        },
        gauges={
            "worker_tasks_active": len(pool.running),
            "broker_blocked": float(publisher.blocked is not None),
            "messages_unconfirmed": publisher.pending,
            "messages_in_flight": dispatch.in_flight,
            "children": len(pool.pids),
            "slots": pool.size,
            "uptime_seconds": time.monotonic() - station.since,
        },
        connected={
            "consuming": link is not None and not link.lost.done(),
            "publishing": publisher.link is not None,
        },
        reconnects={"consuming": consumers.reconnects, "publishing": publisher.reconnects},
        slots=pool.size,
    )


def _lanes(station: Station) -> list[LaneView]:
    now, clock = time.time(), asyncio.get_running_loop().time()
    oldest: dict[str, float] = {}
    for flight in station.dispatch.flights.values():
        if not flight.started:
            since = waiting_since(flight.delivery)
            age = clock - flight.since if since is None else now - since
            name = flight.lane.queue.name
            oldest[name] = max(age, oldest.get(name, 0.0))
    return [
        LaneView(
            lane.queue.name,
            lane.queue.internal,
            lane.prefetch.value,
            lane.held,
            oldest.get(lane.queue.name, 0.0),
        )
        for lane in station.consumers.lanes
    ]


class Lengths:
    """Asks the broker for the length of the queues that are consumed, no more often than is worth it."""

    def __init__(self) -> None:
        self._known: tuple[float, dict[str, tuple[int, int]]] = (0.0, {})

    async def of(self, station: Station) -> Mapping[str, tuple[int, int]]:
        """Messages and consumers by queue; nothing while the broker does not answer. In the loop."""
        now, link = asyncio.get_running_loop().time(), station.consumers.link
        at, known = self._known
        if known and now - at < FRESH:
            return known
        if link is None or link.lost.done():
            return {}
        names = [lane.queue.name for lane in station.consumers.lanes if not lane.queue.internal]
        found: dict[str, tuple[int, int]] = {}
        with suppress(TransportError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                for info in await link.declare(*map(Queue, names), passive=True):
                    found[info.name] = (info.messages, info.consumers)
        self._known = (now, found)
        return found
