"""A call that carries a workflow on and will never be done: its process died too often, it failed, it was revoked.

Whoever waits for the workflow is told, by a call of its own that leaves with the outcome of the one that is given up:
telling waits for the broker and runs errbacks, and it is tried again like every call that carries a workflow on. Should
it kill its process too, the last attempt runs no code but ours. Knows calls and chords; knows nothing of workers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amqptasks import protocol
from amqptasks.amqp import Address, Envelope
from amqptasks.canvas import failing, joining, parts, sending
from amqptasks.client import Client
from amqptasks.errors import ChordError
from amqptasks.late_parts import LATE, RESULT
from amqptasks.protocol import TaskMessage
from amqptasks.request import Request
from amqptasks.settings import Settings
from amqptasks.shown import shown
from amqptasks.signatures import KINDS

logger = logging.getLogger(__name__)

GAVE_UP = "amqptasks.gave_up"

_OF_CHORDS = {
    parts.UNLOCK: "the join",
    parts.EXPIRED: "the end of the timeout",
    parts.PART: "a part",
    LATE: "a part",
}


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A call that was given up; its wire form is the keyword arguments of `amqptasks.gave_up`."""

    id: str
    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    error: Mapping[str, Any]
    """As exceptions travel."""
    quiet: bool = False
    """Leave out the errbacks that would run in the process that tells: they may be what kills it."""


def call(request: Request, error: BaseException, conf: Settings) -> Envelope | None:
    """Return the call that tells of a call which is given up; None when telling is what was given up twice, and for a
    late result, for which nobody else waits."""
    if request.task == RESULT:
        return None
    if request.task == GAVE_UP:
        given = GivenUp(**request.kwargs)
        if given.quiet:
            logger.critical(
                "who waits for what %s[%s] carried on cannot be told: %r", given.task, given.id, error
            )
            return None
        given = replace(given, quiet=True)
    else:
        kwargs = request.kwargs
        if request.task in _OF_CHORDS:  # a part may be large
            kwargs = {"chord": kwargs.get("group_id") or kwargs.get("chord"), "size": kwargs.get("size")}
        stored = protocol.encode_exception(error)
        given = GivenUp(request.id or "", request.task or "", request.args, kwargs, stored)
    message = TaskMessage(
        # The same call each time that it is given up: a worker drops a second one.
        id=f"{given.id}.{'told-quietly' if given.quiet else 'told'}",
        task=GAVE_UP,
        kwargs={name: getattr(given, name) for name in GivenUp.__slots__},
        root_id=request.root_id,
        parent_id=request.id,
        ignore_result=True,
        argsrepr="",
        kwargsrepr="",
        serializer=request.message.serializer if request.message is not None else "json",
    )
    return protocol.encode(message, Address(parts.INTERNAL, parts.internal_key(conf)))


def tell(app: Client, given: GivenUp) -> None:
    """Tell whoever waits for it. Raises as `joining.unlock`: then it is to be tried again."""
    error = protocol.decode_exception(given.error)
    kind = given.task.removeprefix(sending.WRAPPED)
    if kind in KINDS:
        sig = sending.held(kind, given.args, given.kwargs, app)
        failing.fail(app, sig, error, given.id, quiet=given.quiet)
        return
    chord = str(given.kwargs["chord"])
    least = int(given.kwargs["size"]) if given.task == parts.UNLOCK else 0
    failed = ChordError(f"{_OF_CHORDS[given.task]} of the chord {chord} was given up: {shown(error)}")
    failed.__cause__ = error
    joining.abandon(app, chord, failed, least=least, quiet=given.quiet)
