"""The join of a chord: count its parts, claim its queue, publish the body, delete the queue.

Runs as the built-in task `amqptasks.chord_unlock`, acknowledged late: killed at any moment it is delivered again,
and begins anew with what the broker has. The claim is an exclusive consumer, so there is one join at a time; the
body has the ids that it was given when the chord was called, so a second publish of it is the same call again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from amqptasks import states
from amqptasks.amqp import Address, Delivery, Envelope, Parcel
from amqptasks.canvas import failing, parts
from amqptasks.canvas.rules import leaves
from amqptasks.canvas.sending import send
from amqptasks.client import Client
from amqptasks.errors import (
    AccessRefused,
    ChordError,
    ConnectionLost,
    MessageError,
    NotFound,
    ResourceLocked,
    StoreUnavailable,
    TransportError,
    Unroutable,
)
from amqptasks.protocol import JOINED
from amqptasks.shown import shown
from amqptasks.signatures import Signature, signature
from amqptasks.transport import codec
from amqptasks.transport.base import Consumer, Link

logger = logging.getLogger(__name__)


SLOWEST = 1000
"""Messages a second that a broker delivers at least: what a join of many parts may take."""


class Busy(Exception):
    """Another join holds the chord's queue, or the broker is slow to give what lies in it."""


@dataclass(slots=True)
class Drained:
    """What lay in a chord's queue: held unacknowledged by an exclusive consumer."""

    consumer: Consumer
    plan: parts.Plan | None = None
    parts: dict[tuple[int, ...], parts.Part] = field(default_factory=dict)
    last: Delivery | None = None

    def take(self, delivery: Delivery, app: Client) -> None:
        """Keep a message; of two for one index the first counts."""
        self.last = delivery
        try:
            said = parts.read(codec.unpack(delivery), app.conf)
        except MessageError as error:
            logger.error("a message in %s is no part of a chord: %s", delivery.queue, error)
            return
        if isinstance(said, parts.Plan):
            self.plan = said
        else:
            self.parts.setdefault(said.index, said)

    @property
    def complete(self) -> bool:
        """Are all parts there: the header's own, and those that members have added (their index is longer)?"""
        if self.plan is None:
            return False
        own = sum(len(index) == 1 for index in self.parts)
        added = sum(part.extra for part in self.parts.values())
        return own >= self.plan.size and len(self.parts) - own >= added


def unlock(app: Client, chord: str, size: int) -> bool:
    """Fire the chord if all its parts are there; return whether that was now.

    Raises Busy while another join is at it, and the transport's errors, QueueDown among them: then it is to be tried
    again.
    """
    queue, seen = parts.queue_of(chord), 0
    while True:
        try:
            count = _ready(app, queue)
        except NotFound:
            return False  # done, or given up
        if count <= max(size, seen):
            return False
        seen = count
        drained = _drain(app, queue, count)
        if drained is None:
            return False
        try:
            if drained.complete:
                _fire(app, chord, drained)
                _finish(app, queue, drained)
                return True
        except BaseException:
            _release(app, drained)
            raise
        # Doubles had swelled the count. A part that came while the queue was held was counted by nobody.
        _release(app, drained)


def _ready(app: Client, queue: str) -> int:
    """Return how many messages lie in a chord's queue. Raises NotFound, and Busy while a join holds them.

    A broker may learn of a killed join later than its call is run again: what it held is not ready, and not lost.
    """
    found = app.connection.inspect(queue)
    if found.consumers:
        raise Busy(f"another join holds {queue}")
    return found.messages


def _drain(app: Client, queue: str, count: int, *, most: int = 0) -> Drained | None:
    """Claim a chord's queue and take what lies in it, the first `most` if it says so; None when it is gone.

    Raises Busy when another join has it, and when fewer than `count` messages come: missing parts would be counted
    again when they come, but those that are there by nobody.
    """
    deliveries: list[Delivery] = []
    patience = app.conf.result_chord_join_timeout

    async def claim(link: Link) -> Consumer:
        deliveries.clear()  # of a link that was lost: the broker has them again
        arrived = asyncio.Event()

        def take(delivery: Delivery) -> None:
            deliveries.append(delivery)
            arrived.set()

        consumer = await link.consume(queue, take, lambda error: arrived.set(), prefetch=most, exclusive=True)
        try:
            await _filled(link, arrived, lambda: len(deliveries) >= count, patience)
            if len(deliveries) < count:
                raise Busy(f"{queue} gave {len(deliveries)} of {count} messages in time")
        except BaseException:
            # Left open, the claim would keep every other join away for as long as this process lives.
            await consumer.close()
            raise
        return consumer

    try:
        consumer = app.connection.perform(claim, app.connection.timeout + count / SLOWEST)
    except NotFound:
        return None
    except (AccessRefused, ResourceLocked) as error:
        raise Busy(str(error)) from error
    drained = Drained(consumer)
    for delivery in deliveries:
        drained.take(delivery, app)
    return drained


async def _filled(link: Link, arrived: asyncio.Event, full: Callable[[], bool], patience: float) -> None:
    """Return when all is there, or nothing more has come for `patience` seconds. Raises ConnectionLost."""
    wake = lambda lost: arrived.set()  # noqa: E731
    link.lost.add_done_callback(wake)
    try:
        while not full():
            arrived.clear()
            if link.lost.done():
                raise ConnectionLost(str(link.lost.result()))
            try:
                await asyncio.wait_for(arrived.wait(), patience)
            except TimeoutError:
                return
    finally:
        link.lost.remove_done_callback(wake)


def _finish(app: Client, queue: str, drained: Drained) -> None:
    """Take the parts off before the queue goes: a double that comes now is alone, and will never be enough."""

    async def finish(link: Link) -> None:
        if drained.last is not None:
            drained.consumer.ack(drained.last.tag, multiple=True)
        await drained.consumer.close()
        await link.delete_queue(queue)

    try:
        app.connection.perform(finish)
    except TransportError as error:
        # The body is out. If the acks were lost, the next part's count, if any comes, publishes it again.
        logger.warning("%s could not be deleted: %s", queue, error)
        if isinstance(error, ConnectionLost):
            raise


def _release(app: Client, drained: Drained) -> None:
    async def release(link: Link) -> None:
        await drained.consumer.close()

    try:
        app.connection.perform(release)
    except TransportError as error:
        logger.debug("releasing a chord's queue: %s", error)


# --- what comes of it -----------------------------------------------------------------------------------------


def _fire(app: Client, chord: str, drained: Drained) -> None:
    """Publish the body with the parts' values, or what follows from its not being run."""
    plan = drained.plan
    assert plan is not None
    body = signature(plan.body, app=app)
    ordered = [drained.parts[index] for index in sorted(drained.parts, key=_order)]
    failed = next((part for part in ordered if part.meta.status != states.SUCCESS), None)
    if failed is not None:
        failing.fail(app, body, dependency_error(failed.meta.task_id, failed.meta.result), chord)
        return
    values = [part.meta.result for part in ordered]
    try:
        _call(body, values, ordered[-1].meta.task_id if ordered else None)
    except Exception as error:
        if not failing.hopeless(error):
            raise
        failing.fail(app, body, _uncallable(chord, len(values), error), chord)


def _call(body: Signature, values: list[Any], parent_id: str | None) -> None:
    for task in leaves(body):
        task.options["headers"] = {**(task.options.get("headers") or {}), JOINED: True}
    send(body.clone((values,), parent_id=parent_id))


def _order(index: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """What `add_to_chord` added comes after the header's own members."""
    return len(index), index


def dependency_error(task_id: str, error: Any) -> ChordError:
    """Return what a body fails with, naming the member that failed."""
    failed = ChordError(f"Dependency {task_id} raised {shown(error)}")
    if isinstance(error, BaseException):
        failed.__cause__ = error
    return failed


def _uncallable(chord: str, count: int, error: Exception) -> ChordError:
    failed = ChordError(
        f"the values of the chord {chord}'s {count} members cannot be given to its body: {error}"
    )
    failed.__cause__ = error
    return failed


def expired(app: Client, chord: str, seconds: float) -> None:
    """Fail a chord whose timeout has run out and whose parts are not all there. Raises as `unlock`."""
    queue = parts.queue_of(chord)
    try:
        count = _ready(app, queue)
    except NotFound:
        return
    drained = _drain(app, queue, count)
    if drained is None:
        return
    try:
        if drained.complete:
            _fire(app, chord, drained)
        elif drained.plan is not None:
            missing = drained.plan.size - len(drained.parts)
            error = ChordError(
                f"{missing} of the {drained.plan.size} members of the chord {chord} did not end within "
                f"{seconds:g} s, the chord's timeout"
            )
            failing.fail(app, signature(drained.plan.body, app=app), error, chord)
        _finish(app, queue, drained)
    except BaseException:
        _release(app, drained)
        raise


def abandon(app: Client, chord: str, error: ChordError, *, least: int = 0, quiet: bool = False) -> None:
    """Fail a chord that cannot be joined, by its plan alone: reading the parts may be what kills. Raises as `unlock`.

    One that has not more than `least` messages is left alone: its other parts will be counted as they come.
    `quiet`: as `failing.fail`.
    """
    queue = parts.queue_of(chord)
    try:
        count = _ready(app, queue)
    except NotFound:
        return
    if count <= least:
        return
    drained = _drain(app, queue, 1, most=1)
    if drained is None:
        return
    try:
        if drained.plan is None:
            logger.error("the chord %s cannot be told that it failed: its plan is not in its queue", chord)
        else:
            failing.fail(app, signature(drained.plan.body, app=app), error, chord, quiet=quiet)
        _finish(app, queue, drained)
    except BaseException:
        _release(app, drained)
        raise


def part_by_call(app: Client, value: Any, place: parts.Place, failed: bool, parent_id: str | None) -> None:
    """Make a part of what a worker of Celery's says, publish it and count."""
    from_id = str(value if failed else parent_id or "")
    result = _reason(app, from_id) if failed else value
    meta = failing.meta_of(from_id, states.FAILURE if failed else states.SUCCESS, result)
    _put(app, place.chord, parts.part_message(place, meta, app.conf), place.size)


def _reason(app: Client, task_id: str) -> Any:
    """Return what a member raised there: the errback of a worker of Celery's has its id alone, but a store that both
    sides share has had the rest before."""
    try:
        meta = app.backend.fetch(task_id) if app.backend.stores else None
    except StoreUnavailable as error:
        logger.warning("what %s raised is not known: %s", task_id, error)
        meta = None
    if meta is None or meta.status == states.SUCCESS:
        return ChordError(f"{task_id} failed on a worker that does not say why: see its own result")
    return meta.result


def late(app: Client, chord: str, part: Parcel) -> None:
    """Leave a part that found no queue before, and count. Raises as `unlock`: QueueDown while the queue's node is."""
    said = parts.read(
        Envelope(Address("", part.routing_key), part.body, codec.decode_header(part.header)), app.conf
    )
    if isinstance(said, parts.Part):
        _put(app, chord, part, said.size)


def _put(app: Client, chord: str, part: Envelope | Parcel, size: int) -> None:
    try:
        app.connection.publish([part])
    except Unroutable:
        try:
            app.connection.inspect(parts.queue_of(chord))
        except NotFound:
            return  # the chord is done, and this part was there before
        raise  # it has come back meanwhile
    unlock(app, chord, size)
