"""The options of one call, typed and listed once; what a misspelt one is told.

Pure: no I/O, no settings.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, TypedDict

Moment = datetime | timedelta | float | int | str


class RetryPolicy(TypedDict, total=False):
    """How often and how long a publish is tried again when the broker cannot be reached. Seconds."""

    max_retries: int | None
    interval_start: float
    interval_step: float
    interval_max: float


class SendOptions(TypedDict, total=False):
    """What `apply_async` and `send_task` take besides the task's arguments; all are optional."""

    task_id: str
    """A uuid unless given."""
    link: Any
    """Signature(s) to call with the value once the task succeeds."""
    link_error: Any
    """Signature(s) to call once the task fails."""
    shadow: str | None
    """The name shown in logs and monitors."""
    countdown: float | None
    """Seconds until the task may start."""
    eta: Moment | None
    """The time from which the task may start, or seconds from now; a time without a zone is of the app's."""
    expires: Moment | None
    """When the task is no longer to be started: seconds from now, or a time. Not before `eta`."""
    retry: bool
    """False: leave `retry_policy` alone. What the connection tries by itself says `task_publish_retry`."""
    retry_policy: RetryPolicy | None
    """Try again to send when the broker cannot be reached, after the connection's own attempts. Not in a
    batch.
    """
    time_limit: float | None
    """Seconds after which the child that runs the task is killed."""
    soft_time_limit: float | None
    """Seconds after which SoftTimeLimitExceeded is raised in the task."""
    queue: Any
    """Name of the queue, or a Queue."""
    exchange: Any
    exchange_type: str | None
    routing_key: str | None
    priority: int | None
    serializer: str | None
    compression: str | None
    delivery_mode: int | str | None
    headers: Mapping[str, Any] | None
    """Headers of one's own, seen by the task as `self.request.headers`."""
    ignore_result: bool | None
    """True: send no result. Overrides the task's option, which overrides the setting."""
    add_to_parent: bool
    """Count as a child of the task that makes the call."""
    reply_to: str | None
    correlation_id: str | None
    group_id: str | None
    group_index: int | None
    chord: Any
    chain: Sequence[Any] | None
    root_id: str | None
    parent_id: str | None
    retries: int
    replaced_task_nesting: int
    stamped_headers: Sequence[str] | None
    stamps: Mapping[str, Any] | None
    timeout: float | None
    """Seconds that the publish may take."""
    route_name: str | None
    """Route as if the task had this name."""


NAMES: Final = frozenset(SendOptions.__annotations__)
ROUTING: Final = frozenset({"queue", "exchange", "exchange_type", "routing_key", "route_name", "priority"})
"""Options that change where a message goes; without any of them a task's route is computed once."""
ACCEPTED: Final = frozenset(
    {"producer", "connection", "publisher", "router", "declare", "mandatory", "immediate"}
)
"""Celery's options that name its own objects, or switch off what is always on here."""


def check_names(options: Iterable[str], task: str) -> None:
    """Raise TypeError for an option that does not exist, with the nearest one that does."""
    for name in options:
        if name in NAMES:
            continue
        if name in ACCEPTED:
            raise TypeError(
                f"apply_async() of {task}: the option {name!r} has no meaning here; leave it out: every "
                "publish is "
                "mandatory and confirmed over the app's own connection"
            )
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"a task's own arguments go into kwargs={{{name!r}: ...}}"
        )
        raise TypeError(f"apply_async() of {task}: unknown option {name!r}; {hint}")


def moment(value: Moment | None, now: datetime, zone: tzinfo | None = UTC) -> datetime | None:
    """Return an aware time: seconds (or a timedelta) from `now`, a datetime, or ISO-8601 text.

    A time without a zone is of `zone`; None is the machine's own.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    elif isinstance(value, timedelta):
        value = now + value
    elif isinstance(value, int | float):
        value = now + timedelta(seconds=value)
    if value.tzinfo is not None:
        return value
    return value.astimezone() if zone is None else value.replace(tzinfo=zone)


def _is_time(value: Any) -> bool:
    try:
        return moment(value, datetime.now(UTC)) is not None
    except (AttributeError, ArithmeticError, TypeError, ValueError):
        return False


def _is_wait(value: Any) -> bool:
    return isinstance(value, int | float) and _is_time(value)


_VALUES: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "countdown": (_is_wait, "seconds from now, to a time before the year 10000"),
    "eta": (_is_time, "a datetime, ISO 8601 text such as '2030-01-31T12:00:00+00:00', or seconds from now"),
    "expires": (
        _is_time,
        "a datetime, ISO 8601 text such as '2030-01-31T12:00:00+00:00', or seconds from now",
    ),
    "priority": (lambda value: isinstance(value, int) and 0 <= value <= 255, "an integer from 0 to 255"),
    "headers": (lambda value: isinstance(value, Mapping), "a dict"),
    **dict.fromkeys(
        ("time_limit", "soft_time_limit"), (lambda value: isinstance(value, int | float), "seconds")
    ),
    **dict.fromkeys(
        ("task_id", "group_id", "root_id", "parent_id", "reply_to", "shadow", "routing_key", "serializer"),
        (lambda value: isinstance(value, str), "a string"),
    ),
}


def check_values(options: Mapping[str, Any], task: str) -> None:
    """Raise TypeError for the option that has made a call fail, if one has. It takes time: not for calls that work."""
    for name, (is_right, wanted) in _VALUES.items():
        value = options.get(name)
        if value is not None and not is_right(value):
            raise TypeError(f"apply_async() of {task}: {name} must be {wanted}, not {value!r}")


def as_list(value: Any) -> list[Any]:
    """Return the signatures of a `link`: none, one (a signature is a mapping), or several."""
    if not value:
        return []
    return [value] if isinstance(value, Mapping) else list(value)


def sendable(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as `apply_async` takes them: Celery's signatures hold each stamp as an option of its
    own.
    """
    stamped = options.get("stamped_headers") or ()
    ready = {key: value for key, value in options.items() if key not in ACCEPTED and key not in stamped}
    if stamped:
        own = {key: options[key] for key in stamped if key in options}
        ready["stamps"] = {**(options.get("stamps") or {}), **own}
    return ready
