"""The error tree. Imports nothing of the package; every floor raises from here.

    AmqptasksError
    ├── ImproperlyConfigured            a setting, URL or option is wrong (also a ValueError)
    ├── TransportError                  the broker, or the way to it
    │   ├── BrokerUnavailable           refused, DNS, connect timeout: nothing answers
    │   │   ├── TLSFailed               certificate or handshake
    │   │   ├── AccessRefused           wrong user or password; no permission (403)
    │   │   └── VhostNotFound           the virtual host does not exist (530)
    │   ├── ConnectionLost              an open connection ended before the answer came
    │   ├── BrokerBlocked               memory or disk alarm: the broker takes no messages
    │   ├── PublishTimeout              not confirmed in time (also a TimeoutError)
    │   ├── Unroutable                  no queue is bound for this address
    │   ├── Nacked                      the broker refused the message (queue full, no majority)
    │   ├── TooLarge                    body or headers over the broker's limit
    │   ├── NotFound                    queue or exchange does not exist (404)
    │   ├── QueueDown                   the queue's node is down (404)
    │   ├── ResourceLocked              exclusive to another connection (405)
    │   ├── TopologyMismatch            declared before with other arguments (406)
    │   └── ChannelClosed               any other channel error
    ├── MessageError                    bytes that are not a message we may run
    │   ├── InvalidMessage              not protocol 1 or 2
    │   ├── EncodeError / DecodeError   a serializer or compressor failed
    │   ├── ContentDisallowed           content type not in `accept_content`
    │   └── Inflated                    decompresses to more than `message_inflate_limit`
    ├── TaskError                       the fate of one task
    │   ├── NotRegistered               the worker has no task of this name (also a KeyError)
    │   ├── TaskRevoked, WorkerLost, TimeLimitExceeded, SoftTimeLimitExceeded, Terminated
    │   ├── MaxRetriesExceeded, ChordError
    │   └── TaskPredicate               not a failure: what a task raises to steer its worker
    │       └── Ignore, Reject, Retry
    ├── ResultError                     the client's side of results
    │   ├── TimeoutError                get(timeout=) ran out (also the builtin TimeoutError)
    │   ├── ResultLost, StoreUnavailable    the broker may have lost the reply; the store does not answer
    │   │   └── StoreTimeout            get(timeout=) ran out while it did not (also a TimeoutError)
    │   ├── ResultElsewhere             an rpc result belongs to the process that sent the task
    │   ├── ResultIgnored, NoBackend    there will never be a result
    │   ├── WouldDeadlock               get() inside a task (also a RuntimeError)
    │   └── RemoteError                 stands for an exception class that is not importable here
    └── WorkerError
        ├── AppNotFound                 `-A` names nothing usable
        ├── AppImportFailed             the user's module raised; carries its traceback
        └── DuplicateNode, PoolFailed   another worker has this node name; children cannot be started

A message says what happened, why, and what to do. Names on Celery's wire are translated in `protocol`.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import Any


class AmqptasksError(Exception):
    """Root of every error that this package raises by itself."""


class ImproperlyConfigured(AmqptasksError, ValueError):
    """A setting, URL or option is wrong; the message names the nearest right one."""


# --- transport -------------------------------------------------------------------------------------------


class TransportError(AmqptasksError):
    """Something between this process and its queues; Celery calls it OperationalError."""


class BrokerUnavailable(TransportError):
    """No host of the broker URL answered; the message lists host, port and reason for each."""


class TLSFailed(BrokerUnavailable):
    """The TLS handshake failed; a retry will not help until a certificate or setting changes."""


class AccessRefused(BrokerUnavailable):
    """The broker refused the user, the password, or the operation (AMQP 403)."""


class VhostNotFound(BrokerUnavailable):
    """The broker has no such virtual host (AMQP 530)."""


class ConnectionLost(TransportError):
    """The connection ended while something was under way; what was not confirmed may or may not be there."""


class BrokerBlocked(TransportError):
    """The broker raised a memory or disk alarm and takes no messages (`connection.blocked`)."""


class PublishTimeout(TransportError, builtins.TimeoutError):
    """The broker did not confirm in time; the message may still arrive."""


class PublishError(TransportError):
    """The broker answered, and the message is in no queue. `envelopes` holds what was refused."""

    def __init__(self, message: str, envelopes: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.envelopes = tuple(envelopes)


class Unroutable(PublishError):
    """No queue is bound for the message's exchange and routing key (`basic.return`, 312)."""


class Nacked(PublishError):
    """The broker negatively acknowledged the message: the queue is full or has no majority."""


class TooLarge(PublishError):
    """Over the broker's limit for bodies (406) or for one header frame; refused before it was written."""


class ChannelClosed(TransportError):
    """The broker closed the channel. `code` is AMQP's reply code, 0 when unknown."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class NotFound(ChannelClosed):
    """The queue or exchange does not exist (AMQP 404)."""


class QueueDown(ChannelClosed):
    """The queue exists, and the cluster's node that holds it is down (AMQP 404); it comes back with the node."""


class ResourceLocked(ChannelClosed):
    """The queue is exclusive to another connection (AMQP 405)."""


class TopologyMismatch(ChannelClosed):
    """It exists with other arguments (AMQP 406); the message names the argument, what it is and what was asked."""


# --- messages --------------------------------------------------------------------------------------------


class MessageError(AmqptasksError):
    """Bytes from a queue that are not a message this process may run."""


class InvalidMessage(MessageError, ValueError):
    """Neither message protocol 2 nor 1, or a header of the wrong type."""


class EncodeError(MessageError, ValueError):
    """A value cannot be written by the chosen serializer; the message names value and serializer."""


class DecodeError(MessageError, ValueError):
    """The body is not what its content type says."""


class ContentDisallowed(MessageError):
    """The content type is not in `accept_content` (json alone by default)."""


class Inflated(MessageError):
    """The body decompresses to more than `message_inflate_limit` bytes."""


# --- tasks -----------------------------------------------------------------------------------------------


class TaskError(AmqptasksError):
    """The fate of one task."""


class NotRegistered(TaskError, KeyError):
    """No task of this name; is its module listed in `include`?"""

    def __str__(self) -> str:  # KeyError shows the repr of a lone argument
        return Exception.__str__(self)


class TaskRevoked(TaskError):
    """The task was revoked, or expired, before it ran."""


class WorkerLost(TaskError):
    """The process that ran the task died; the message says by what."""


class TimeLimitExceeded(TaskError):
    """The hard time limit killed the child that ran the task."""


class SoftTimeLimitExceeded(TaskError):
    """Raised inside the task at its soft time limit; may be caught."""


class Terminated(TaskError):
    """The task was terminated by a control command."""


class MaxRetriesExceeded(TaskError):
    """`retry()` was called once more than `max_retries` allows."""

    def __init__(
        self, *args: Any, task_args: Sequence[Any] = (), task_kwargs: dict[str, Any] | None = None
    ) -> None:
        super().__init__(*args)
        self.task_args = tuple(task_args)
        self.task_kwargs = task_kwargs or {}


class ChordError(TaskError):
    """A member of a chord's header failed, so its body did not run."""


class TaskPredicate(TaskError):
    """Not a failure: raised by a task to steer the worker."""


class Ignore(TaskPredicate):
    """Acknowledge the message and store no state."""


class Reject(TaskPredicate):
    """Answer the message with `basic.reject`; works for late-acknowledged tasks only.

    `reason` is shown in the log; `requeue=True` puts the message back, otherwise the queue's dead-letter
    exchange takes it.
    """

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"


class Retry(TaskPredicate):
    """Raised by `Task.retry` after the next attempt was arranged.

    `exc` is the original exception or None, `when` the delay in seconds, the time of the next attempt, or None.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.message = message
        self.exc = exc
        self.when = when
        self.is_eager = False
        self.call: Any = None  # the next attempt, composed; published with this one's outcome

    def humanize(self) -> str:
        if isinstance(self.when, datetime):
            return f"at {self.when.isoformat()}"
        return "now" if self.when is None else f"in {self.when}s"

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry {self.humanize()}" + (f": {self.exc!r}" if self.exc is not None else "")


# --- results ---------------------------------------------------------------------------------------------


class ResultError(AmqptasksError):
    """The client's side of results."""


class TimeoutError(ResultError, builtins.TimeoutError):
    """`get(timeout=)` ran out; the task may still finish."""


class ResultLost(ResultError):
    """The broker may have lost the reply (restart of a transient result, deleted reply queue)."""


class StoreUnavailable(ResultError):
    """The database or Redis that keeps results did not answer within `result_store_timeout`."""


class StoreTimeout(TimeoutError, StoreUnavailable):
    """`get(timeout=)` ran out while the store did not answer, before `result_store_timeout`."""


class ResultElsewhere(ResultError):
    """An rpc result belongs to the process that sent the task; share results through another backend."""


class ResultIgnored(ResultError):
    """The task was called with `ignore_result`, so there will be no result."""


class NoBackend(ResultError):
    """The app was made with `backend=None`."""


class WouldDeadlock(ResultError, RuntimeError):
    """`get()` inside a task waits for a worker that may be this one; use a chain or a callback."""


class RemoteError(ResultError):
    """Stands for an exception class that cannot be imported here; `exc_type`, `exc_module` name the original."""

    exc_type: str = "Exception"
    exc_module: str = "builtins"


class WorkerError(AmqptasksError):
    """A worker cannot start or go on."""


class AppNotFound(WorkerError):
    """`-A` names nothing usable; the message says which part was not found."""


class AppImportFailed(WorkerError):
    """The user's module raised while it was imported. `remote_traceback` is its text."""

    def __init__(self, message: str, remote_traceback: str = "") -> None:
        super().__init__(message)
        self.remote_traceback = remote_traceback


class DuplicateNode(WorkerError):
    """Another worker that is alive has the same node name."""


class PoolFailed(WorkerError):
    """The pool cannot start its processes."""
