"""What a failure does to what comes after it: the rest of a chain, a chord's body, errbacks, a chord's part.

States are told to whoever waits for them; errbacks of the new style run here, those of the old style are sent.
Publishes within the batch that is open: a worker gathers what follows from a run into its outcome.
"""

from __future__ import annotations

import inspect
import logging
import traceback as tracebacks
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from amqptasks import late_parts, states
from amqptasks.amqp import Address, Envelope
from amqptasks.backends import result_format
from amqptasks.backends.base import Meta
from amqptasks.backends.wire import result_envelope
from amqptasks.canvas import parts
from amqptasks.canvas.rules import leaves, members
from amqptasks.canvas.sending import unwrapped
from amqptasks.client import Client
from amqptasks.errors import (
    AccessRefused,
    NotFound,
    PublishError,
    StoreUnavailable,
    TooLarge,
    TopologyMismatch,
    TransportError,
    Unroutable,
)
from amqptasks.options import as_list
from amqptasks.request import Request
from amqptasks.shown import LENGTH, shown
from amqptasks.signatures import Signature, kind_of, signature
from amqptasks.transport import codec

logger = logging.getLogger(__name__)


def fail(
    app: Client, sig: Signature, error: BaseException, parent_id: str | None, *, quiet: bool = False
) -> None:
    """A signature will not run: call the errbacks of those of its tasks that were next, then tell the states of all.

    Those of a group are each member's, of a chain the first step's, of a chord its body's. `quiet`: none runs here.
    """
    error, trace = fitting(app, error, "".join(tracebacks.format_exception(error)))
    results = [each for task in leaves(sig) for each in told(app, task, error, trace, parent_id)]
    counts: list[Envelope] = []
    try:
        with app.batch():
            for task in _next(sig):
                request, errbacks = _unrun(task, parent_id), as_list(task.options.get("link_error"))
                counts += call_errbacks(app, errbacks, request, error, trace, quiet=quiet)
    except PublishError as refused:
        _ask_why(app, refused)
    _publish(app, results)
    if counts:
        app.connection.publish(counts)  # the parts that they count are confirmed by now


def _publish(app: Client, results: Sequence[Envelope]) -> None:
    """Publish results. One that finds no queue waits if the queue's node is down; else its caller is gone."""
    if not results:
        return
    ticket = app.connection.submit([replace(result, fate="raise") for result in results])
    try:
        ticket.wait()
    except TransportError:
        if not all(isinstance(error, Unroutable) for _, error in ticket.failures) or not ticket.failures:
            raise
    to, late = Address(parts.INTERNAL, parts.internal_key(app.conf)), []
    for result, _ in ticket.failures:
        try:
            app.connection.inspect(result.address.routing_key)
        except NotFound:
            logger.info("dropped a result for %s: its caller is gone", result.address.routing_key)
        except TransportError as error:
            logger.warning("a result waits: %s", error)
            late.append(late_parts.result(codec.pack(result), to, app.conf.result_expires))
        else:
            late.append(codec.pack(result))  # it is there by now
    if late:
        app.connection.publish(late)


def _ask_why(app: Client, refused: PublishError) -> None:
    """Have it asked why parts found no queue. Raises what it is given if that may be over when it is tried again;
    an errback that has nowhere to go is given up."""
    found = [codec.pack(each) for each in refused.envelopes]
    late = [each for each in found if each.fate == "part"]
    if len(late) < len(found):
        if not hopeless(refused):
            raise refused
        logger.error("errbacks could not be sent: %s", refused)
    to = Address(parts.INTERNAL, parts.internal_key(app.conf))
    app.connection.publish([late_parts.call(each, to) for each in late])


def _next(sig: Signature) -> list[Signature]:
    match kind_of(sig):
        case "chain":
            return _next(members(sig)[0]) if members(sig) else []
        case "group":
            return [task for member in members(sig) for task in _next(member)]
        case "chord":
            return _next(sig["kwargs"]["body"])
    return [sig]


def _unrun(task: Signature, parent_id: str | None) -> Request:
    """Return the request of a task that was never sent, for its errbacks."""
    options = task.options
    return Request(
        id=options.get("task_id"),
        task=task.task,
        args=task.args,
        kwargs=task.kwargs,
        root_id=options.get("root_id"),
        parent_id=parent_id,
        group=options.get("group_id"),
        group_index=options.get("group_index"),
        reply_to=options.get("reply_to"),
        called_directly=False,
    )


def hopeless(error: Exception) -> bool:
    """Whether a canvas that could not be sent will not be by trying again either: its fault, not the broker's."""
    reason = error.__cause__ if type(error) is PublishError else error  # a batch names the first of many
    if isinstance(reason, TooLarge | Unroutable | NotFound | TopologyMismatch | AccessRefused):
        return True
    return not isinstance(reason, TransportError | StoreUnavailable)


def fitting(app: Client, error: BaseException, trace: str) -> tuple[BaseException, str]:
    """Return a failure as messages can tell it: as it is, else without most of its traceback, else by its beginning."""
    limit = app.conf.broker_max_message_size
    most = min(LENGTH, limit // 16)
    short = "".join(tracebacks.format_tb(error.__traceback__))[-most:] + shown(error, most=most)
    for told in (trace, short):
        meta = meta_of("", states.FAILURE, error, told)
        if len(result_envelope(meta, "", result_format(app.conf)).body) <= limit:
            return error, told
    beginning = TooLarge(
        f"the task failed with {type(error).__name__}, which is over the limit of {limit} bytes "
        f"(`broker_max_message_size`); raise exceptions that refer to data instead of holding it; "
        f"it begins: {shown(error, most=most)}"
    )
    return beginning, short


def rest_told(
    app: Client,
    rest: Sequence[Mapping[str, Any]],
    error: BaseException,
    trace: str,
    parent_id: str | None,
) -> list[Envelope]:
    """Return what tells the same failure for every task that is left of a chain."""
    return [
        envelope
        for step in rest
        for task in leaves(unwrapped(step, app))
        for envelope in told(app, task, error, trace, parent_id)
    ]


def told(
    app: Client, task: Signature, error: BaseException, trace: str, parent_id: str | None
) -> list[Envelope]:
    """Store a failure for a task that will not run; return the messages that carry it."""
    options = task.options
    if not options.get("task_id") or options.get("ignore_result"):
        return []
    envelopes: list[Envelope] = []
    meta = meta_of(options["task_id"], states.FAILURE, error, trace, parent_id, options.get("reply_to"))
    app.backend.store(meta, envelopes.append)
    return envelopes


def call_errbacks(
    app: Client,
    errbacks: Sequence[Mapping[str, Any]],
    request: Request,
    error: BaseException,
    trace: str,
    *,
    quiet: bool = False,
) -> list[Envelope]:
    """Call what is to be called when a task failed: with (request, exc, traceback) here, else sent with its id.

    Returns the calls that count the parts which were left: to be published once those are confirmed. `quiet`: what
    would run here is left out, and said to be.
    """
    counts: list[Envelope] = []
    for errback in errbacks:
        if errback["task"] == parts.PART:
            counts.append(leave(app, errback, request, states.FAILURE, error))
            continue
        call = signature(errback, app=app)
        task = None if call.get("subtask_type") else app.tasks.get(call.task)
        if task is not None and takes_several(task.run):
            if quiet:
                logger.error("errback %s of %s is left out: it may be what kills", call.task, request.id)
                continue
            try:
                task(request, error, trace, *call.args, **call.kwargs)
            except Exception:
                logger.exception("errback %s raised; the task's outcome is not changed by it", call.task)
        else:
            _send(call, request.id)
    return counts


def _send(errback: Signature, task_id: str | None) -> None:
    """Send an errback; what is wrong with it itself is logged, and keeps nobody from hearing of the failure."""
    try:
        errback.apply_async((task_id,), add_to_parent=False)
    except Exception as error:
        if not hopeless(error):
            raise
        logger.exception("errback %s could not be called", errback.task)


def leave(app: Client, linked: Mapping[str, Any], request: Request, state: str, value: Any) -> Envelope:
    """Leave a member's part in its chord's queue; return the call that counts, for after the part's confirm."""
    place = parts.Place.of(linked["kwargs"])
    meta = meta_of(request.id or "", state, value, parent_id=request.parent_id)
    with app.batch() as batch:
        batch.add(parts.part_message(place, meta, app.conf))
    return parts.unlock_message(place, app.conf)


def meta_of(  # noqa: PLR0917 (the fields of a state, by the order of their use)
    task_id: str,
    state: str,
    value: Any,
    trace: str | None = None,
    parent_id: str | None = None,
    reply_to: str | None = None,
) -> Meta:
    return Meta(
        task_id=task_id,
        status=state,
        result=value,
        traceback=trace,
        date_done=datetime.now(UTC).isoformat(),
        parent_id=parent_id,
        reply_to=reply_to,
        correlation_id=task_id,
    )


def takes_several(function: Any) -> bool:
    """More than one positional argument: Celery's sign of a new-style errback."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
