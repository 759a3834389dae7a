"""The lease by which one beat leads, and what it leaves to the next: one queue with a single active consumer.

The broker gives the queue's messages to one beat and, when that one's connection is gone, the same messages to another:
the last snapshot and everything since. A run is noted there once the broker has confirmed it, so what is noted was
sent; what was under way when a beat was killed is sent again, under the same id. (A copy routed together with the run
would not do: of what a dying channel has not had confirmed, a quorum queue may keep the one and lose the other.)
Publishing and leading share a connection: a beat that has lost the lease cannot send any more. Knows messages; knows
nothing of schedules.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from amqptasks.amqp import PERSISTENT, Address, Delivery, Envelope, Parcel, Properties, Queue
from amqptasks.errors import AmqptasksError, TransportError
from amqptasks.ids import new_id
from amqptasks.transport.base import Consumer, Link
from amqptasks.transport.codec import decode_header, pack

log = logging.getLogger(__name__)

KIND = "x-amqptasks-beat"
"""Header of what beats and operators write into the queue: hello, fence, snapshot, sent, or a command's name."""
GRACE = 0.5
"""Seconds in which the broker may still take in what a killed beat had written to its socket."""


def queue_of(name: str) -> Queue:
    """The queue of the beats of one name."""
    arguments = {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        # Each hand-over counts as a failed delivery, and RabbitMQ 4 drops a message after twenty.
        "x-delivery-limit": 1_000_000,
    }
    return Queue(f"amqptasks.beat.{name}", arguments=arguments)


class Note:
    """A message of the queue, read: what it is, of what entry, and its JSON."""

    __slots__ = ("body", "kind", "properties", "tag")

    def __init__(self, delivery: Delivery) -> None:
        self.tag = delivery.tag
        self.body = delivery.body
        self.properties = decode_header(delivery.header)
        headers = self.properties.headers or {}
        self.kind = str(headers.get(KIND, ""))

    @property
    def id(self) -> str:
        return self.properties.message_id or ""

    def read(self) -> dict[str, Any]:
        """Return the JSON inside; empty where it is none."""
        try:
            found = orjson.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def note(
    queue: str, kind: str, value: object, headers: dict[str, Any] | None = None, **given: Any
) -> Envelope:
    """Return a message for the queue."""
    properties = Properties(
        content_type="application/json",
        headers={KIND: kind, **(headers or {})},
        delivery_mode=PERSISTENT,
        message_id=new_id(),
        **given,
    )
    return Envelope(Address("", queue), orjson.dumps(value), properties)


class Lease:
    """One connection's try for the lease; used in the loop. Ends with the connection."""

    def __init__(self, link: Link, name: str, hello: Mapping[str, Any]) -> None:
        """`hello` is what this beat tells the one that leads."""
        self.link = link
        self.queue = queue_of(name)
        self._hello = hello
        self._inbox: asyncio.Queue[Note] = asyncio.Queue()
        self._consumer: Consumer
        self._cancelled: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self._held: int | None = None
        self._applied = 0

    async def acquire(self) -> list[Note]:
        """Wait until this beat leads, for as long as it takes; return all that was left to it, oldest first.

        Raises the transport's errors when the connection is lost.
        """
        await self.link.declare(self.queue)
        self._consumer = await self.link.consume(
            self.queue.name, self._receive, self._cancelled_by, prefetch=0, tag=f"beat-{new_id()[:8]}"
        )
        # So that there is something to be given: an empty queue would not tell who leads it.
        await self.post([note(self.queue.name, "hello", self._hello)])
        notes = [await self.next(None)]
        await asyncio.sleep(GRACE)
        fence = note(self.queue.name, "fence", {})
        await self.post([fence])
        while notes[-1].id != fence.properties.message_id:
            notes.append(await self.next(None))
        self._applied = notes[-1].tag
        return notes

    async def next(self, timeout: float | None) -> Note:
        """Return the next message. Raises TimeoutError after `timeout` seconds, or why the lease is lost."""
        if not self._inbox.empty():
            return self._taken(self._inbox.get_nowait())
        getting = asyncio.ensure_future(self._inbox.get())
        try:
            ends: list[asyncio.Future[Any]] = [getting, self.link.lost, self._cancelled]
            await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            self.check()
            if getting.done():
                return self._taken(getting.result())
            raise TimeoutError
        finally:
            getting.cancel()

    def _taken(self, note: Note) -> Note:
        self._applied = note.tag
        return note

    def check(self) -> None:
        """Raise why the lease is lost, if it is."""
        for lost in (self.link.lost, self._cancelled):
            if lost.done():
                raise lost.result()

    async def post(self, envelopes: Sequence[Envelope | Parcel]) -> list[TransportError | None]:
        """Publish; return, once all are answered, what became of each. Raises when the connection is lost."""
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[TransportError | None]] = []
        for envelope in envelopes:
            answer: asyncio.Future[TransportError | None] = loop.create_future()
            self.link.post(envelope if isinstance(envelope, Parcel) else pack(envelope), answer.set_result)
            answers.append(answer)
        found = list(await asyncio.gather(*answers))
        self.check()
        return found

    async def keep(self, snapshot: dict[str, Any]) -> None:
        """Write a snapshot, and let go of everything that it contains: all that was taken so far."""
        upto = self._applied
        if (error := (await self.post([note(self.queue.name, "snapshot", snapshot)]))[0]) is not None:
            raise error
        if self._held != upto:
            self._consumer.ack(upto, multiple=True)
            self._held = upto

    async def release(self) -> None:
        """Give the lease to another, with all that is kept."""
        await self._consumer.close()

    def _receive(self, delivery: Delivery) -> None:
        try:
            self._inbox.put_nowait(Note(delivery))
        except AmqptasksError as error:
            log.warning("dropped a message of %s that cannot be read: %s", self.queue.name, error)

    def _cancelled_by(self, error: TransportError) -> None:
        if not self._cancelled.done():
            self._cancelled.set_result(error)
