"""The request: what a running task can know of its own call (`self.request`), and which one runs here and
now.

Built from a decoded message and its delivery. The current request is a context variable, so threads and
coroutines each see their own. Runs nothing and sends nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextvars import Token
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from amqptasks import protocol
from amqptasks.amqp import Delivery, Envelope
from amqptasks.errors import Retry
from amqptasks.protocol import TaskMessage
from amqptasks.result import AsyncResult
from amqptasks.serialization import accept_set
from amqptasks.transport import codec, plain
from amqptasks.waiting import running


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """One call of a task, with Celery's attribute names. Outside a run: `called_directly` is True and `id`
    None.
    """

    id: str | None = None
    task: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    retries: int = 0
    eta: datetime | None = None
    expires: datetime | None = None
    group: str | None = None
    group_index: int | None = None
    root_id: str | None = None
    parent_id: str | None = None
    origin: str | None = None
    chain: Sequence[Any] | None = None
    """What is left of the chain, in reverse: the next step is the last element."""
    chord: Any = None
    callbacks: Sequence[Any] | None = None
    errbacks: Sequence[Any] | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    delivery_info: Mapping[str, Any] = field(default_factory=dict)
    """`exchange`, `routing_key`, `priority`, `redelivered`, and `queue`, which Celery has not."""
    hostname: str | None = None
    is_eager: bool = False
    called_directly: bool = True
    utc: bool = True
    timelimit: tuple[float | None, float | None] = (None, None)
    """(hard, soft) seconds, as on the wire."""
    ignore_result: bool | None = False
    shadow: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    """The sender's own headers, without those of the message protocol."""
    delivery: Delivery | None = None
    """What came out of the queue; None for a call in place."""
    replaced_task_nesting: int = 0
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, Any] = field(default_factory=dict)
    children: list[AsyncResult[Any]] = field(default_factory=list)
    """Results of the calls that this run has made."""
    trail: bool = True
    """Whether they are kept: the task's option."""
    custom: Any = None
    """The object of the task's own `Request` class for this call, in a worker, if it has one."""
    decoded: TaskMessage | None = None
    """The message, once it was read as a whole: see `message`."""
    retried: Retry | None = None
    """What `retry()` arranged: `retried.call` is published with this run's outcome, raised or not."""
    replaced: Sequence[Envelope] | None = None
    """What `replace()` composed: it is published with this run's outcome."""
    max_retries: int | None = None
    """The `max_retries` that this run gave to `retry()`."""

    @property
    def message(self) -> TaskMessage | None:
        """What this request was made from; None when called directly."""
        if self.decoded is None and self.delivery is not None:
            found = codec.unpack(self.delivery)
            whole = protocol.decode(found, accept=accept_set(["json"]), limit=0)  # `plain` has accepted it
            self.decoded = replace(whole, args=self.args, kwargs=self.kwargs)
        return self.decoded

    @property
    def time_limit(self) -> float | None:
        return self.timelimit[0]

    @property
    def soft_time_limit(self) -> float | None:
        return self.timelimit[1]

    @property
    def name(self) -> str | None:
        """The name for logs: what `shadow` says, or the task's."""
        return self.shadow or self.task

    @property
    def properties(self) -> Mapping[str, Any]:
        """The AMQP properties of the message, without its headers; those that are not set are missing."""
        if self.delivery is None:
            return {}
        found = codec.decode_header(self.delivery.header)
        every = {each.name: getattr(found, each.name) for each in fields(found) if each.name != "headers"}
        return {name: value for name, value in every.items() if value is not None}

    @property
    def loglevel(self) -> int | None:
        """The level of the worker's log; None outside a run."""
        return None if self.called_directly else logging.getLogger().getEffectiveLevel()

    @property
    def logfile(self) -> str | None:
        """The file of the worker's log; None for a stream, and outside a run."""
        if self.called_directly:
            return None
        files = (each for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler))
        return next((each.baseFilename for each in files), None)

    @property
    def priority(self) -> int | None:
        priority = self.delivery_info.get("priority")
        return priority if isinstance(priority, int) else None

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute by name, like Celery's Context."""
        return getattr(self, name, default)

    @classmethod
    def of(cls, message: TaskMessage, delivery: Delivery, *, hostname: str | None = None) -> Request:
        """Return the request for a message that came out of a queue."""
        request = cls.made_from(
            message,
            hostname=hostname,
            delivery_info={
                "exchange": delivery.exchange,
                "routing_key": delivery.routing_key,
                "priority": message.priority,
                "redelivered": delivery.redelivered,
                "queue": delivery.queue,
            },
        )
        request.delivery = delivery
        return request

    @classmethod
    def made_from(
        cls,
        message: TaskMessage,
        *,
        hostname: str | None = None,
        delivery_info: Mapping[str, Any],
        is_eager: bool = False,
    ) -> Request:
        """Return the request for a message that need not have been delivered (eager calls)."""
        return cls(
            id=message.id,
            task=message.task,
            args=message.args,
            kwargs=message.kwargs,
            retries=message.retries,
            eta=message.eta,
            expires=message.expires,
            group=message.group,
            group_index=message.group_index,
            root_id=message.root_id,
            parent_id=message.parent_id,
            origin=message.origin,
            chain=message.chain,
            chord=message.chord,
            callbacks=message.callbacks,
            errbacks=message.errbacks,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            delivery_info=delivery_info,
            hostname=hostname,
            is_eager=is_eager,
            called_directly=False,
            timelimit=message.timelimit,
            ignore_result=message.ignore_result,
            shadow=message.shadow,
            headers=message.headers,
            replaced_task_nesting=message.replaced_task_nesting,
            stamped_headers=message.stamped_headers,
            stamps=message.stamps,
            decoded=message,
        )

    @classmethod
    def plain(cls, delivery: Delivery, *, hostname: str | None = None) -> Request | None:
        """Return the request for a delivery that is a plain call in JSON, None for any other. See `transport.plain`."""
        said = plain.read(delivery.header)
        given = None if said is None else plain.arguments(delivery.body)
        if said is None or given is None:
            return None
        (
            task_id,
            task,
            retries,
            root_id,
            parent_id,
            origin,
            ignore_result,
            priority,
            correlation_id,
            reply_to,
        ) = said
        return cls(
            id=task_id,
            task=task,
            args=given[0],
            kwargs=given[1],
            retries=retries,
            root_id=root_id,
            parent_id=parent_id,
            origin=origin,
            correlation_id=correlation_id,
            reply_to=reply_to,
            delivery_info={
                "exchange": delivery.exchange,
                "routing_key": delivery.routing_key,
                "priority": priority,
                "redelivered": delivery.redelivered,
                "queue": delivery.queue,
            },
            hostname=hostname,
            called_directly=False,
            ignore_result=ignore_result,
            delivery=delivery,
        )

    def __repr__(self) -> str:
        return f"<Request: {self.task} {self.id} args={self.args!r} kwargs={dict(self.kwargs)!r}>"


def push(request: Request) -> Token[Any]:
    """Make `request` the current one of this thread or coroutine; `pop` the token when its run ends."""
    return running.set(request)


def pop(token: Token[Any]) -> None:
    """Undo the `push` that returned `token`."""
    running.reset(token)


def current() -> Request | None:
    """Return the request that runs in this thread or coroutine, or None outside tasks."""
    request: Request | None = running.get()
    return request
