"""Declaring what a worker consumes, and living with what somebody else declared otherwise.

Declares actively; an argument that differs is named once and the queue used as it is; without the permission to
declare, what exists is enough. (A passive declare tells nothing of arguments: measured on RabbitMQ 3.10.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from amqptasks import delay
from amqptasks.amqp import Binding, Entity, Exchange
from amqptasks.errors import AccessRefused, NotFound, TopologyMismatch, TransportError
from amqptasks.transport.base import Link
from amqptasks.worker.outcome import WorkerQueue

logger = logging.getLogger(__name__)


async def declared(link: Link, queue: WorkerQueue, told: set[str]) -> bool:
    """Declare a queue and what belongs to it; False for the workers' own, where it is not there and may not be made.

    All but joining chords works without that one.
    """
    try:
        await declare(link, queue.declare, told)
    except (AccessRefused, NotFound) as error:
        if not queue.internal:
            raise
        _tell_once(told, f"{error}; this worker joins no chords until an administrator makes {queue.name}")
        return False
    return True


async def declare(link: Link, entities: Sequence[Entity], told: set[str]) -> None:
    """Declare in order. `told` remembers which differences were logged. Raises the other transport errors."""
    try:
        await link.declare(*entities)
        return
    except (TopologyMismatch, AccessRefused):
        # One of them differs: go through them one by one, so that the others are declared all the same.
        for entity in entities:
            await _declare_one(link, entity, told)


async def reach_by_ladder(link: Link, queues: Sequence[str], told: set[str]) -> None:
    """Bind the queues to the ladder, if there is one.

    Who sends with a delay has done so already; but a queue that was deleted and declared anew has lost that binding,
    and the ladder may hold messages for it.
    """
    try:
        await link.declare(Exchange(delay.OUT, "topic"), passive=True)
    except NotFound:
        return
    except TransportError as error:
        logger.debug("whether there are delays is not known: %s", error)
        return
    try:
        await declare(link, [delay.destination(queue) for queue in queues], told)
    except TransportError as error:
        _tell_once(told, f"delayed messages may not find their queue: {error}")


async def _declare_one(link: Link, entity: Entity, told: set[str]) -> None:
    try:
        await link.declare(entity)
    except TopologyMismatch as error:
        _tell_once(told, f"{error}; using it as it is")
    except AccessRefused as error:
        if isinstance(entity, Binding):
            _tell_once(told, f"{error}; assuming that an administrator bound it")
            return
        _tell_once(told, f"{error}; using what exists")
        await link.declare(entity, passive=True)


def _tell_once(told: set[str], text: str) -> None:
    if text not in told:
        told.add(text)
        logger.warning("%s", text)
