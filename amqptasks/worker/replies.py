"""Results on their way to the same client, sent together: one message and one confirm for several of them.

Only what is ready in the same turn of the loop is put together, so nobody waits for it; where results keep coming they
are gathered for a millisecond. And only for reply queues of our own clients (`wire.REPLIES`), which take the bundle
apart: everybody else gets each result by itself, as on Celery's wire. Knows parcels; decodes none of them. Used from
the loop's thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from amqptasks.amqp import Parcel
from amqptasks.backends import wire
from amqptasks.errors import TransportError
from amqptasks.transport.base import Done
from amqptasks.worker.late_results import LateResults

LARGEST = 16 * 1024
"""Bytes from which a result travels alone."""

BUSY = 4
"""Results in one turn from which more are to be expected at once."""

PATIENCE = 0.001
"""Seconds that results are gathered then."""

FULL = 128 * 1024
"""Bytes of a bundle at most."""


class Replies:
    """Gathers results for `publisher`. `persistent`: bundles survive a restart of the broker, as their results;
    `limit`: bytes that a message may have."""

    def __init__(self, publisher: LateResults, *, persistent: bool, limit: int) -> None:
        self._publisher = publisher
        self._persistent = persistent
        self._full = min(FULL, limit)
        self._loop = asyncio.get_running_loop()
        self._busy = False
        self._gathered: dict[str, list[tuple[Parcel, Done]]] = {}
        self._sizes: dict[str, int] = {}

    @classmethod
    def of(cls, publisher: LateResults, settings: Mapping[str, Any]) -> Replies:
        """As the settings say: `result_persistent`, `broker_max_message_size`."""
        limit = settings.get("broker_max_message_size") or FULL
        return cls(publisher, persistent=bool(settings.get("result_persistent")), limit=limit)

    def post(self, parcel: Parcel, done: Done) -> None:
        """As `Publisher.post`, for a result."""
        if parcel.exchange or not parcel.routing_key.startswith(wire.REPLIES) or parcel.size > LARGEST:
            self._publisher.post(parcel, done)
            return
        queue = parcel.routing_key
        if not self._gathered:
            if self._busy:
                self._loop.call_later(PATIENCE, self._flush)
            else:
                self._loop.call_soon(self._flush)
        size = parcel.size + wire.RECORD
        if self._sizes.get(queue, 0) + size > self._full:
            self._send(queue, self._gathered.pop(queue, []))
            self._sizes[queue] = 0
        self._gathered.setdefault(queue, []).append((parcel, done))
        self._sizes[queue] = self._sizes.get(queue, 0) + size

    def _flush(self) -> None:
        gathered, self._gathered, self._sizes = self._gathered, {}, {}
        self._busy = sum(map(len, gathered.values())) >= BUSY
        for queue, results in gathered.items():
            self._send(queue, results)
        self._publisher.flush()

    def _send(self, queue: str, results: list[tuple[Parcel, Done]]) -> None:
        if len(results) > 1:
            bundle = wire.bundled(queue, [parcel for parcel, _ in results], persistent=self._persistent)
            self._publisher.post(bundle, partial(_tell, [done for _, done in results]))
        elif results:
            self._publisher.post(*results[0])


def _tell(dones: list[Done], error: TransportError | None) -> None:
    for done in dones:
        done(error)
