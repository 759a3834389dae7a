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
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Protocol

from amqptasks import backoff
from amqptasks.amqp import Address
from amqptasks.arguments import Arguments
from amqptasks.client import Client
from amqptasks.composing import Call
from amqptasks.errors import MaxRetriesExceeded, Retry, TaskPredicate, TooLarge
from amqptasks.options import ROUTING, as_list, check_names, moment
from amqptasks.protocol import TaskMessage
from amqptasks.request import Request
from amqptasks.result import AsyncResult

_FIELDS = {
    "headers": "headers",
    "priority": "priority",
    "serializer": "serializer",
    "compression": "compression",
    "shadow": "shadow",
    "ignore_result": "ignore_result",
    "reply_to": "reply_to",
    "correlation_id": "correlation_id",
    "chain": "chain",
    "chord": "chord",
    "group_id": "group",
    "group_index": "group_index",
    "root_id": "root_id",
    "parent_id": "parent_id",
    "replaced_task_nesting": "replaced_task_nesting",
    "stamps": "stamps",
    "stamped_headers": "stamped_headers",
}
"""Options of `retry`, and the field of the message that each sets."""
_ELSEWHERE = ROUTING - {"priority"}
"""Options by which the next attempt leaves its queue."""


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
    def arguments(self) -> Arguments: ...
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
    _check(options, task.name)
    request = task.request
    if request.called_directly or request.message is None:
        raise exc or Retry(
            f"{task.name} asks to be retried, but was called directly: only a worker can retry it"
        )
    if when.max_retries is not None:
        request.max_retries = when.max_retries
    args, kwargs = _arguments(task, request.message, args, kwargs)
    if exhausted(task, request, when.max_retries):
        raise given_up(task, request, exc, args, kwargs)
    wait = task.default_retry_delay if when.countdown is None and when.eta is None else when.countdown
    now = datetime.now(UTC)
    eta = moment(when.eta, now, task.app.timezone) if wait is None else now + timedelta(seconds=wait)
    again = replace(
        request.message,
        args=args,
        kwargs=kwargs,
        retries=request.retries + 1,
        eta=eta,
        argsrepr=None,
        kwargsrepr=None,
    )
    answer = Retry(exc=exc, when=eta if wait is None else wait)
    answer.is_eager = request.is_eager
    answer.call = _addressed(task, request, again, options)
    changed = args is not request.message.args or kwargs is not request.message.kwargs or bool(options)
    if changed and not request.is_eager:
        _check_sendable(task, answer.call)
    request.retried = answer
    if throw:
        raise answer
    return answer


def exhausted(task: Retriable, request: Request, most: int | None = None) -> bool:
    """Whether there were as many retries as `most`, or as the task allows."""
    most = task.max_retries if most is None else most
    return most is not None and request.retries >= most


def given_up(
    task: Retriable,
    request: Request,
    exc: BaseException | str | None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> BaseException:
    """Return how a call ends that is not retried any more: with its own exception, if it has one."""
    if isinstance(exc, BaseException):
        return exc
    return MaxRetriesExceeded(
        f"{task.name}[{request.id}] was retried {request.retries} times, the most that max_retries allows",
        task_args=request.args if args is None else args,
        task_kwargs=dict(request.kwargs if kwargs is None else kwargs),
    )


def _check(options: Mapping[str, Any], name: str) -> None:
    check_names(options, name)
    if options.get("task_id") is not None:
        raise TypeError(
            f"retry() of {name}: a retry keeps its id, so that its caller gets the result; leave task_id out, or "
            "call the task anew by apply_async()"
        )


def _arguments(
    task: Retriable, message: TaskMessage, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Return what the next attempt is called with: what is not given is kept, unless it would then be given twice."""
    if args is None and kwargs is None:
        return message.args, message.kwargs
    if kwargs is None:
        assert args is not None
        named = list(task.arguments.signature.parameters.values())[: len(args)]
        taken = {each.name for each in named if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}
        return tuple(args), {key: value for key, value in message.kwargs.items() if key not in taken}
    if args is not None or not message.args:
        return message.args if args is None else tuple(args), dict(kwargs)
    try:
        bound = task.arguments.signature.bind_partial(*message.args)
    except TypeError:  # the next attempt says so
        return message.args, dict(kwargs)
    rest = dict(kwargs)
    for each in task.arguments.signature.parameters.values():
        by_position = each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and each.name in bound.arguments
        if by_position and each.name in rest:
            bound.arguments[each.name] = rest.pop(each.name)
    return bound.args, {**bound.kwargs, **rest}


def _check_sendable(task: Retriable, call: Call) -> None:
    """Raise EncodeError or TooLarge here, as the task's own failure, rather than after its end."""
    size, most = len(call.encode()[0].body), task.app.conf.broker_max_message_size
    if size > most:
        raise TooLarge(
            f"the next attempt of {task.name} has {size} bytes, over the limit of {most} "
            "(broker_max_message_size); store what is large elsewhere and send where it is"
        )


def _addressed(task: Retriable, request: Request, again: TaskMessage, options: Mapping[str, Any]) -> Call:
    """Return the next attempt, with the options given to `retry`; without any, to the queue it came from."""
    changed = {key: value for key, value in options.items() if value is not None}
    again = replace(again, **_changes(changed, again, task.app.timezone))
    result: AsyncResult[Any] = AsyncResult(again.id, task.app.backend, task.name, task.app)
    queue = request.delivery_info.get("queue")
    if _ELSEWHERE.isdisjoint(changed) and queue:
        return Call(again, Address("", queue), queue, result)
    route, _ = task.app.route(task.name, again.args, again.kwargs, changed, task.preset)
    return Call(again, route.address, None if route.queue is None else route.queue.name, result)


def _changes(options: Mapping[str, Any], message: TaskMessage, zone: tzinfo | None) -> dict[str, Any]:
    """Return the fields of the message that options of `retry` change."""
    changes: dict[str, Any] = {_FIELDS[key]: value for key, value in options.items() if key in _FIELDS}
    for option, field in (("link", "callbacks"), ("link_error", "errbacks")):
        if option in options:
            changes[field] = as_list(options[option]) or None
    if "time_limit" in options or "soft_time_limit" in options:
        hard, soft = message.timelimit
        changes["timelimit"] = (options.get("time_limit", hard), options.get("soft_time_limit", soft))
    if "delivery_mode" in options:
        changes["persistent"] = options["delivery_mode"] in (2, "persistent")
    if "expires" in options:
        changes["expires"] = moment(options["expires"], datetime.now(UTC), zone)
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
    said = task.request.max_retries
    if said is not None:  # the body's own `retry` gave up by it: that is no second chance
        options["max_retries"] = said
    return task.retry(exc=error, throw=False, **options)


def _backoff(task: AutoRetriable) -> float:
    delay = backoff.exponential(
        task.request.retries, factor=max(1.0, float(task.retry_backoff)), maximum=task.retry_backoff_max
    )
    return backoff.full_jitter(delay) if task.retry_jitter else delay
