"""What a worker tells the outside of itself: probes and metrics over HTTP, and its supervisor by NOTIFY_SOCKET.

With neither, nothing here runs. Composed by `Worker`, which says how far it has come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from amqptasks.transport.base import Connect
from amqptasks.transport.publisher import Publisher
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.health import HealthServer
from amqptasks.worker.measures import Measures
from amqptasks.worker.measuring import MeasuredCounters, MeasuredPublisher
from amqptasks.worker.notify import Notifier
from amqptasks.worker.outcome import Manifest
from amqptasks.worker.probes import Probes
from amqptasks.worker.shutdown import Shutdown
from amqptasks.worker.station import Station

logger = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at what cannot be asked for later."""


class Vitals:
    """Used in the worker's loop only, in the order of the methods."""

    def __init__(self, node: str, shutdown: Shutdown, notifier: Notifier | None) -> None:
        self._node = node
        self._shutdown = shutdown
        self._notifier = notifier
        if notifier is not None:
            notifier.status = self._status
        self._measures: Measures | None = None
        self._probes: Probes | None = None
        self._station: Station | None = None

    @asynccontextmanager
    async def served(self, manifest: Manifest, dispatch: Dispatch) -> AsyncIterator[None]:
        """While the body runs, probes are answered, if the settings name a port. Raises WorkerError."""
        settings = manifest.settings
        port = settings["worker_health_port"]
        if port is None:
            yield
            return
        self._measures = Measures()
        self._dead_exchange: str = settings["task_dead_letter_exchange"]
        dispatch.counters = MeasuredCounters(measures=self._measures, dispatch=dispatch)
        self._probes = Probes(self._node, self._shutdown, self._measures, settings["worker_metrics_prefix"])
        server = HealthServer(settings["worker_health_host"], port, self._probes.respond)
        host, port = server.start()
        logger.info("health: http://%s:%d/livez /readyz /metrics", f"[{host}]" if ":" in host else host, port)
        looking = asyncio.create_task(self._look(self._probes))
        try:
            yield
        finally:
            looking.cancel()
            # It may be answering, and wait for a turn of this loop meanwhile.
            await asyncio.to_thread(server.close)

    def publisher(self, connect: Connect, *, on_room: Callable[[], None]) -> Publisher:
        """Return the worker's publisher, measured if somebody may ask."""
        if self._measures is None:
            return Publisher(connect, on_room=on_room)
        return MeasuredPublisher(self._measures, self._dead_exchange, connect, on_room=on_room)

    def equipped(self, station: Station) -> None:
        """The worker has all its parts."""
        self._station = station
        if self._probes is not None:
            self._probes.station = station

    def consuming(self) -> None:
        """The worker consumes for the first time."""
        if self._probes is not None:
            self._probes.consuming = True
        if self._notifier is not None:
            self._notifier.ready()

    def stopping(self) -> None:
        if self._notifier is not None:
            self._notifier.stopping(restart=self._shutdown.restart)

    async def _look(self, probes: Probes) -> None:
        while True:
            await asyncio.sleep(LOOK)
            probes.look()

    def _status(self) -> str:
        """For `systemctl status`."""
        if self._shutdown.phase:
            return (
                f"shutting down: {self._station.dispatch.in_flight if self._station else 0} tasks to finish"
            )
        station = self._station
        if station is None:
            return "loading the app"
        link = station.consumers.link
        if link is None or link.lost.done():
            return "not connected to the broker; trying again"
        queues = ", ".join(lane.queue.name for lane in station.consumers.lanes if not lane.queue.internal)
        return f"consuming {queues}; {len(station.pool.running)} of {station.pool.size} slots busy"
