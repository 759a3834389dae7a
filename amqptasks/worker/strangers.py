"""Messages whose task this worker does not know: sent back by the ladder for a while, before they are dead letters.

While a deployment rolls, old workers get messages of new software. How often one came back stands on the message, so
that all workers count together. Declares the ladder's rungs through the child's own connection; publishes nothing.
"""

from __future__ import annotations

import logging

from amqptasks.amqp import Delivery, Envelope
from amqptasks.errors import AmqptasksError
from amqptasks.protocol import UNKNOWN, counted
from amqptasks.transport import codec
from amqptasks.worker.followups import FollowUps

logger = logging.getLogger(__name__)

AWAY = (5.0, 30.0, 120.0)
"""Seconds that it stays away the first, the second and every further time."""


def sent_back(follow: FollowUps, delivery: Delivery, most: int) -> Envelope | None:
    """Return the message for another time; None when it has been sent back `most` times, or cannot be."""
    if not most:
        return None
    try:
        times = counted(codec.decode_header(delivery.header).headers, UNKNOWN)
        if times >= most:
            return None
        away = AWAY[min(times, len(AWAY) - 1)]
        envelope = follow.later(delivery, away, {UNKNOWN: times + 1})
    except AmqptasksError as error:
        logger.warning("an unknown task on %s cannot be sent back: %s", delivery.queue, error)
        return None
    logger.warning(
        "a message on %s calls a task that is unknown here; sent back for %d s (%d of %d)",
        delivery.queue,
        away,
        times + 1,
        most,
    )
    return envelope
