"""What probes are told of a worker: `/livez`, `/readyz` and `/metrics`, asked in the worker's own loop.

Live: the loop turns; a broker is not needed for that. Ready: the way of a message is open from the queues to the
children. Nothing is sent anywhere for a probe, but for the lengths of queues that `/metrics` shows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from typing import Any, TypeVar

import orjson

from amqptasks.errors import ImproperlyConfigured
from amqptasks.worker import metrics
from amqptasks.worker.health import JSON, Answer
from amqptasks.worker.measures import Measures
from amqptasks.worker.shutdown import Phase, Shutdown
from amqptasks.worker.snapshot import Lengths, View, view
from amqptasks.worker.station import Station

T = TypeVar("T")

TURN = 3.0
"""Seconds that the worker's loop has for a turn before it counts as stuck."""
BLOCKED = 15.0
"""Seconds for which the broker may take no messages before the worker is not ready."""
STUCK = "the worker's loop does not turn"


class Probes:
    """Answers requests in the server's loop about what is in the worker's; made in the worker's loop."""

    def __init__(self, node: str, shutdown: Shutdown, measures: Measures, prefix: str) -> None:
        self._node = node
        self._shutdown = shutdown
        self._measures = measures
        self._prefix = prefix
        self._loop = asyncio.get_running_loop()
        self._lengths = Lengths()
        self.station: Station | None = None
        self.consuming = False
        """Set once it consumes for the first time."""
        self.blocked_since: float | None = None
        """Loop time; looked at every second."""

    async def respond(self, path: str, accept: str) -> Answer:
        """Return the answer to a request. In the server's loop."""
        match path:
            case "/livez":
                return await self._live()
            case "/readyz":
                return await self._ready()
            case "/metrics":
                return await self._metrics(accept)
            case _:
                return Answer(
                    HTTPStatus.NOT_FOUND, body=b"there are /livez, /readyz and, for Prometheus, /metrics\n"
                )

    async def _live(self) -> Answer:
        alive = await self._ask(lambda: True)
        if alive is None:
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, live=False, node=self._node, reasons=[STUCK])
        return _json(HTTPStatus.OK, live=True, node=self._node, pid=os.getpid())

    async def _ready(self) -> Answer:
        reasons = await self._ask(lambda: list(self.obstacles()))
        if reasons is None:
            reasons = [STUCK]
        status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
        return _json(status, ready=not reasons, node=self._node, reasons=reasons)

    async def _metrics(self, accept: str) -> Answer:
        if self.station is None:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, body=b"the worker is starting\n")
        seen = await self._asked(self._look(self.station))
        if seen is None:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, body=f"{STUCK}\n".encode())
        try:
            kind, body = metrics.render(*seen, self._prefix, accept)
        except ImproperlyConfigured as error:
            return Answer(HTTPStatus.NOT_IMPLEMENTED, body=f"{error}\n".encode())
        return Answer(HTTPStatus.OK, kind, body)

    async def _look(self, station: Station) -> tuple[View, metrics.Lengths]:
        lengths = await self._lengths.of(station)
        return view(station, self._measures), lengths

    async def _ask(self, question: Callable[[], T]) -> T | None:
        """Return what the question answers in the worker's loop; None when that does not turn."""

        async def asked() -> T:
            return question()

        return await self._asked(asked())

    async def _asked(self, question: Coroutine[Any, Any, T]) -> T | None:
        try:
            answer = asyncio.run_coroutine_threadsafe(question, self._loop)
        except RuntimeError:  # the loop has ended
            question.close()
            return None
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), TURN)
        except TimeoutError:
            return None

    # --- in the worker's loop ----------------------------------------------------------------------------

    def obstacles(self) -> Iterator[str]:
        """What keeps messages from being taken and run."""
        station = self.station
        if self._shutdown.phase is not Phase.RUNNING:
            yield "the worker is shutting down"
        if station is None or not self.consuming:
            yield "the worker is starting: it does not consume yet"
            return
        link = station.consumers.link
        if link is None or link.lost.done():
            yield "no connection to the broker for consuming"
        else:
            lanes = {lane.queue.name: lane for lane in station.consumers.lanes}
            for queue in station.consumers.wanted:
                lane = lanes.get(queue.name)
                if lane is None or lane.consumer is None or lane.ended is not None:
                    yield f"queue {queue.name} is not consumed"
        if station.publisher.link is None:
            yield "no connection to the broker for publishing"
        if self.blocked_since is not None and self._loop.time() - self.blocked_since >= BLOCKED:
            yield f"the broker takes no messages: {station.publisher.blocked}"
        if not station.pool.pids:
            yield "no child is up"

    def look(self) -> None:
        """Called every second: how long the broker has blocked us cannot be asked for."""
        station = self.station
        if station is None or station.publisher.blocked is None:
            self.blocked_since = None
        elif self.blocked_since is None:
            self.blocked_since = self._loop.time()


def _json(status: HTTPStatus, **said: object) -> Answer:
    return Answer(status, JSON, orjson.dumps(said) + b"\n")
