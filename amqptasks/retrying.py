"""What `Task.retry` does: the same call once more, later, on the same queue; and retries that need no
`retry`.

The next message is put on the request; whoever runs the task publishes it with the run's outcome, so a crash
never leaves both attempts or none. Knows requests, messages and how an app sends; knows nothing of task
classes.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from amqptasks import backoff
from amqptasks.amqp import Address
from amqptasks.client import Client
from amqptasks.composing import Call
from amqptasks.errors import MaxRetriesExceeded, Retry, TaskPredicate
from amqptasks.options import ROUTING, as_list, check_names, moment
from amqptasks.protocol import TaskMessage
from amqptasks.request import Request
from amqptasks.result import AsyncResult


@dataclass(frozen=True, slots=True)
class When:
    """When the next attempt is due, and how many there may be; None: as the task says."""

    eta: Any = None
    countdown: float | None = None
    max_retries: int | None = None


class Retriable(Protocol):
    """What a retry needs of its task."""

    name: str
    max_retries: int | None
    default_retry_delay: float

    @property
    def app(self) -> Client: ...
    @property
    def request(self) -> Request: ...
    @property
    def preset(self) -> Mapping[str, Any]: ...


def retry(  # noqa: PLR0917 (as Task.retry)
    task: Retriable,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    exc: BaseException | None,
    throw: bool,
    when: When,
    options: Mapping[str, Any],
) -> Retry:
    """See `Task.retry`."""
    check_names(options, task.name)
    request = task.request
    if request.called_directly or request.message is None:
        raise exc or Retry(
            f"{task.name} asks to be retried, but was called directly: only a worker can retry it"
        )
    message = request.message
    most = task.max_retries if when.max_retries is None else when.max_retries
    if most is not None and request.retries >= most:
        raise exc or MaxRetriesExceeded(
            f"{task.name}[{request.id}] was retried {request.retries} times, the most that max_retries "
            "allows",
            task_args=message.args if args is None else args,
            task_kwargs=dict(message.kwargs if kwargs is None else kwargs),
        )
    wait = task.default_retry_delay if when.countdown is None and when.eta is None else when.countdown
    now = datetime.now(UTC)
    eta = moment(when.eta, now) if wait is None else now + timedelta(seconds=wait)
    again = replace(
        message,
        args=message.args if args is None else tuple(args),
        kwargs=message.kwargs if kwargs is None else dict(kwargs),
        retries=request.retries + 1,
        eta=eta,
        argsrepr=None,
        kwargsrepr=None,
    )
    answer = Retry(exc=exc, when=eta if wait is None else wait)
    answer.is_eager = request.is_eager
    answer.call = _addressed(task, request, again, options)
    request.retried = answer
    if throw:
        raise answer
    return answer


def _addressed(task: Retriable, request: Request, again: TaskMessage, options: Mapping[str, Any]) -> Call:
    """Return the next attempt, with the options given to `retry`; without any, to the queue it came from."""
    changed = {key: value for key, value in options.items() if value is not None}
    again = replace(again, **_changes(changed))
    result: AsyncResult[Any] = AsyncResult(again.id, task.app.backend, task.name, task.app)
    queue = request.delivery_info.get("queue")
    if ROUTING.isdisjoint(changed) and queue:
        return Call(again, Address("", queue), queue, result)
    route, _ = task.app.route(task.name, again.args, again.kwargs, changed, task.preset)
    return Call(again, route.address, None if route.queue is None else route.queue.name, result)


def _changes(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the message that options of `retry` change."""
    changes: dict[str, Any] = {
        key: options[key]
        for key in (
            "headers",
            "priority",
            "serializer",
            "compression",
            "shadow",
            "ignore_result",
            "reply_to",
            "chain",
            "chord",
        )
        if key in options
    }
    for option, field in (("link", "callbacks"), ("link_error", "errbacks")):
        if option in options:
            changes[field] = as_list(options[option]) or None
    if "expires" in options:
        changes["expires"] = moment(options["expires"], datetime.now(UTC))
    return changes


class AutoRetriable(Retriable, Protocol):
    """A task that says by itself for what it is to be retried."""

    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool

    def retry(self, *, exc: BaseException, throw: bool, **options: Any) -> Retry: ...


def autoretrying(task: AutoRetriable, body: Callable[..., Any]) -> Callable[..., Any]:
    """Return `body` such that the exceptions in `autoretry_for` make it run again."""
    if inspect.iscoroutinefunction(body):

        @functools.wraps(body)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            try:
                return await body(*args, **kwargs)
            except Exception as error:
                if not _is_retried(task, error):
                    raise
                raise _again(task, error) from error

        return run_async

    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return body(*args, **kwargs)
        except Exception as error:
            if not _is_retried(task, error):
                raise
            raise _again(task, error) from error

    return run


def _is_retried(task: AutoRetriable, error: Exception) -> bool:
    steering = isinstance(error, (TaskPredicate, *task.dont_autoretry_for))
    return not steering and isinstance(error, task.autoretry_for)


def _again(task: AutoRetriable, error: Exception) -> Retry:
    """Arrange the next attempt. Raises `error` itself when there were `max_retries`."""
    options = dict(task.retry_kwargs)
    if task.retry_backoff:
        options["countdown"] = _backoff(task)
    return task.retry(exc=error, throw=False, **options)


def _backoff(task: AutoRetriable) -> float:
    delay = backoff.exponential(
        task.request.retries, factor=max(1.0, float(task.retry_backoff)), maximum=task.retry_backoff_max
    )
    return backoff.full_jitter(delay) if task.retry_jitter else delay
