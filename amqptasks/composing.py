"""From a call to its message: `compose` builds, purely but for the reply queue that it may open.

Knows settings, routes, the current request and the result's backend; publishes nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from amqptasks import batch, delay, protocol
from amqptasks.amqp import Address, Entity, Envelope
from amqptasks.errors import ImproperlyConfigured
from amqptasks.ids import new_id, process
from amqptasks.options import as_list, moment
from amqptasks.protocol import TaskMessage
from amqptasks.resources import Resources
from amqptasks.result import AsyncResult
from amqptasks.waiting import joining_allowed, running

NOTHING: Mapping[str, Any] = {}
_TIMES = frozenset({"countdown", "eta", "expires"})
_CANVAS = frozenset(
    {"link", "link_error", "chain", "chord", "group_id", "group_index", "stamps", "stamped_headers"}
)


@dataclass(slots=True)
class Call:
    """A message, where it goes, and the result that it will have."""

    message: TaskMessage
    address: Address
    queue: str | None
    """The task queue that gets it; None for an address of the caller's own."""
    result: AsyncResult[Any]
    timeout: float | None = None

    def encode(self) -> tuple[Envelope, Sequence[Entity]]:
        """Return what to publish now, and what the ladder needs if the message is to wait for its `eta`."""
        envelope = protocol.encode(self.message, self.address)
        eta = self.message.eta
        if eta is None:
            return envelope, ()
        return delay.delayed(envelope, delay.remaining(eta, datetime.now(UTC)), self.queue)


def compose(  # noqa: PLR0917 (two mappings of options, told apart by order of strength)
    own: Resources,
    name: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
    preset: Mapping[str, Any],
) -> Call:
    """Return the call of a task: its own defaults are `preset`, the caller's options win over them."""
    route, given = own.route(name, args, kwargs, options, preset)
    conf, get = own.conf, given.get
    task_id = get("task_id") or new_id()
    parent = running.get()
    result = _result(own, task_id, name, given)
    message = TaskMessage(
        id=task_id,
        task=name,
        args=args,
        kwargs=kwargs,
        retries=get("retries", 0),
        root_id=get("root_id") or _root(parent) or task_id,
        parent_id=get("parent_id") or (None if parent is None else parent.id),
        origin=_origin(),
        shadow=get("shadow"),
        timelimit=(get("time_limit"), get("soft_time_limit")),
        ignore_result=_said(result, given, preset),
        replaced_task_nesting=get("replaced_task_nesting", 0),
        headers=get("headers") or NOTHING,
        correlation_id=get("correlation_id") or task_id,
        reply_to=get("reply_to") or _reply_to(own, result, parent),
        priority=_priority(own, get("priority"), parent),
        serializer=get("serializer") or conf.task_serializer,
        compression=get("compression") or conf.task_compression,
        persistent=(get("delivery_mode") or conf.task_default_delivery_mode) in (2, "persistent"),
        **(NOTHING if _TIMES.isdisjoint(given) else _times(given, name, own.timezone)),
        **(NOTHING if _CANVAS.isdisjoint(given) else _canvas(given)),
    )
    if parent is not None and parent.trail and given.get("add_to_parent", True):
        parent.children.append(result)
    return Call(
        message, route.address, None if route.queue is None else route.queue.name, result, get("timeout")
    )


def _times(given: Mapping[str, Any], task: str, zone: tzinfo | None) -> dict[str, Any]:
    now = datetime.now(UTC)
    countdown = given.get("countdown")
    eta = moment(given.get("eta"), now, zone) if countdown is None else now + timedelta(seconds=countdown)
    expires = moment(given.get("expires"), now, zone)
    if eta is not None and expires is not None and expires < eta and _can_be_told():
        raise ImproperlyConfigured(
            f"the call of {task} would expire ({expires.isoformat()}) before it may start ({eta.isoformat()}), so "
            "it would never run; give a later expires, or an earlier eta or countdown"
        )
    # No `expiration` property: the broker would dead-letter what has expired, and nobody would tell the caller.
    # The header is enough for the worker that gets it, ours or Celery's, to answer REVOKED.
    return {"eta": eta, "expires": expires}


def _can_be_told() -> bool:
    """Whether a mistake is the caller's: the next step of a chain, late already, is revoked when it is due."""
    opened = batch.current.get()
    return opened is None or opened.answers


def _canvas(given: Mapping[str, Any]) -> dict[str, Any]:
    get = given.get
    return {
        "group": get("group_id"),
        "group_index": get("group_index"),
        "callbacks": as_list(get("link")) or None,
        "errbacks": as_list(get("link_error")) or None,
        "chain": get("chain"),
        "chord": get("chord"),
        "stamped_headers": get("stamped_headers"),
        "stamps": get("stamps") or NOTHING,
    }


def _root(parent: Any) -> str | None:
    return None if parent is None else parent.root_id or parent.id


def _said(result: AsyncResult[Any], given: Mapping[str, Any], preset: Mapping[str, Any]) -> bool | None:
    """Return what the message says of its result: nothing, if all that is known is the task's name."""
    if preset is NOTHING and not result.ignored and given.get("ignore_result") is None:
        return None
    return result.ignored


def _result(own: Resources, task_id: str, name: str, given: Mapping[str, Any]) -> AsyncResult[Any]:
    ignored = given.get("ignore_result")
    if ignored is None:
        ignored = own.conf.task_ignore_result
    return AsyncResult(task_id, own.backend, name, own, ignored=bool(ignored))


def _reply_to(own: Resources, result: AsyncResult[Any], parent: Any) -> str | None:
    # A task may not wait for its subtasks, so what they return is not sent to it, unless it said it will
    # wait.
    if result.ignored or (parent is not None and not joining_allowed.get()):
        return None
    reply_to = own.backend.reply_to()
    result.claim = own.backend.expect(result.id)
    return reply_to


def _priority(own: Resources, priority: int | None, parent: Any) -> int | None:
    if priority is None and parent is not None and own.conf.task_inherit_parent_priority:
        priority = parent.priority
    return own.conf.task_default_priority if priority is None else priority


_own_origin = (0, "")


def _origin() -> str:
    """Return who sends, as Celery names clients; made anew in a forked child."""
    global _own_origin
    pid = process()
    if _own_origin[0] != pid:
        _own_origin = (pid, f"gen{pid}@{socket.gethostname()}")
    return _own_origin[1]
