"""What becomes of a state that a store does not take: it waits, or is said to be lost; never neither.

A store's write is done before the outcome is reported, so before the message is acknowledged. While the store is down,
the final state of a late-acknowledged task waits for it, its message unacknowledged; that of any other is logged as
lost, since nothing would run the task again. Knows backends; knows nothing of pools.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from amqptasks import states
from amqptasks.amqp import Delivery, Envelope
from amqptasks.backends.base import Backend, Meta
from amqptasks.errors import EncodeError, SoftTimeLimitExceeded, StoreUnavailable
from amqptasks.transport import codec
from amqptasks.worker.awaiting import leave

logger = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds between attempts, on top of those in which the backend itself tried."""


def store(backend: Backend, meta: Meta, *, late: bool) -> list[Envelope]:
    """Store a state, or return the message that carries it. Blocks as long as a store is down, if `late`.

    In a running loop a store's write is left to a thread, which the run waits for. Arguments that a result cannot carry
    (`result_extended`) become their text: what the task made of them is worth more. Raises what makes it impossible:
    EncodeError, TooLarge.
    """
    try:
        return _store(backend, meta, late)
    except EncodeError:
        if not meta.extended:
            raise
    given = {key: repr(meta.extended.get(key)) for key in ("args", "kwargs")}
    return _store(backend, replace(meta, extended={**meta.extended, **given}), late)


def _store(backend: Backend, meta: Meta, late: bool) -> list[Envelope]:
    envelopes: list[Envelope] = []
    if not backend.stores:
        backend.store(meta, envelopes.append)
        return envelopes
    write = backend.prepare(meta, envelopes.append)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        _write(write, meta, late)
    else:
        leave(asyncio.to_thread(_write, write, meta, late))
    return envelopes


def sender_told(backend: Backend, delivery: Delivery, error: Exception) -> list[Envelope]:
    """As `store`, FAILURE for whoever sent a message that may not be readable, if its properties name anybody."""
    try:
        sender = codec.decode_header(delivery.header)
    except Exception:  # the header itself is what cannot be read: nobody to tell
        return []
    if not sender.correlation_id or not (sender.reply_to or backend.stores):
        return []
    meta = Meta(
        task_id=sender.correlation_id,
        status=states.FAILURE,
        result=error,
        reply_to=sender.reply_to,
        correlation_id=sender.correlation_id,
        date_done=datetime.now(UTC).isoformat(),
    )
    return store(backend, meta, late=False)


def _write(write: Callable[[], None], meta: Meta, late: bool) -> None:
    pause = 0.0
    while True:
        try:
            time.sleep(pause)  # within the `try`: the alarm of the task's soft limit may ring here as well
            return write()
        except SoftTimeLimitExceeded:
            continue  # the task has ended; its limit has nothing to say any more
        except StoreUnavailable as error:
            if not (meta.ready and late):
                what = "is LOST" if meta.ready else "is not recorded"
                logger.error("the state %s of task [%s] %s: %s", meta.status, meta.task_id, what, error)
                return None
            text = "the state %s of task [%s] waits, its message unacknowledged: %s"
            logger.error(text, meta.status, meta.task_id, error)
            pause = PAUSE
