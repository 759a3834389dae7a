"""Results that find no queue: their caller is gone, and they are dropped; or the queue's node is down, and they wait.

The broker says the same of both, so it is asked once for each queue. What may still arrive is left to a call of
`amqptasks.late_result`, which tries again until the node is back. Knows parcels and one publisher; decodes nothing.
Used from the loop's thread only.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from amqptasks import late_parts
from amqptasks.amqp import Parcel, Queue
from amqptasks.errors import NotFound, QueueDown, TransportError, Unroutable
from amqptasks.transport.base import Done
from amqptasks.transport.publisher import Publisher
from amqptasks.worker.flight import Recent
from amqptasks.worker.outcome import Manifest

logger = logging.getLogger(__name__)

REMEMBERED = 10_000
"""Queues of callers who are gone: of these, results are dropped without being asked for again."""

Waiting = list[tuple[Parcel, Done, Unroutable]]


class LateResults:
    """Posts for `publisher`; everybody hears of a result's end once it has one, or a call has it."""

    def __init__(self, publisher: Publisher, manifest: Manifest) -> None:
        self._publisher = publisher
        self._internal = manifest.internal
        self._expires: float | None = manifest.settings.get("result_expires")
        self._gone: Recent[str] = Recent(REMEMBERED)
        self._waiting: dict[str, Waiting] = {}
        self.asking: set[asyncio.Task[None]] = set()

    def post(self, parcel: Parcel, done: Done) -> None:
        """As `Publisher.post`."""
        if parcel.fate == "drop":
            done = partial(self._told, parcel, done)
        self._publisher.post(parcel, done)

    def flush(self) -> None:
        self._publisher.flush()

    def _told(self, parcel: Parcel, done: Done, error: TransportError | None) -> None:
        queue = parcel.routing_key
        if (
            not isinstance(error, Unroutable)
            or self._internal is None
            or parcel.exchange
            or self._gone.get(queue)
        ):
            done(error)
        elif queue in self._waiting:
            self._waiting[queue].append((parcel, done, error))
        else:
            self._waiting[queue] = [(parcel, done, error)]
            asking = asyncio.get_running_loop().create_task(self._ask(queue))
            self.asking.add(asking)
            asking.add_done_callback(self.asking.discard)

    async def _ask(self, queue: str) -> None:
        there = False
        try:
            there = await self._is_there(queue)
        except NotFound:
            self._gone.add(queue, queue)
        for parcel, done, error in self._waiting.pop(queue):
            if self._gone.get(queue):
                done(error)
            elif there:
                self._publisher.post(parcel, done)
            else:
                self._leave(parcel, done)

    async def _is_there(self, queue: str) -> bool:
        """Whether it is there by now; False while nobody can say. Raises NotFound."""
        link = self._publisher.link
        if link is None:
            return False
        try:
            await link.declare(Queue(queue), passive=True)
        except NotFound:
            raise
        except QueueDown as error:
            logger.warning("results wait: %s", error)
            return False
        except TransportError as error:
            logger.warning("results for %s wait, as it is not known whether it is there: %s", queue, error)
            return False
        return True

    def _leave(self, parcel: Parcel, done: Done) -> None:
        assert self._internal is not None
        self._publisher.post(late_parts.result(parcel, self._internal, self._expires), done)
