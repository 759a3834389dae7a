"""The options of a task, as typed attributes with Celery's names and defaults. Does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amqptasks.composing import NOTHING

REQUEST = "amqptasks.worker.request:Request"
"""The worker's own view of a call, which does nothing where a hook of another class would be called."""

SENDING = (
    "serializer",
    "compression",
    "priority",
    "expires",
    "time_limit",
    "soft_time_limit",
    "ignore_result",
    "queue",
    "exchange",
    "routing_key",
    "delivery_mode",
)
"""Those that are defaults of the task's calls; the others are the worker's business."""

FOREIGN: Mapping[str, str] = {
    "backend": "an app has one result backend (the setting `result_backend`)",
    "exchange_type": "an exchange says its own type (exchange=Exchange(name, type=...))",
    "filter": "apply it to the function yourself, below @app.task",
    "lazy": "a task is made at once, and is no proxy",
    "Strategy": "how a worker takes a message is not for tasks to replace; `Request` sees each call",
}
"""Celery's options that are none here, and what is there instead."""


class TaskOptions:
    """Where None is allowed and not explained, the setting `task_<name>` decides."""

    name: str = ""
    """Unique; messages carry it."""
    bind: bool = False
    """The function's first argument is the task."""
    typing: bool | None = None
    """Check arguments against the signature where the task is called; None: as the app (`strict_typing`)."""
    Request: Any = REQUEST
    """A class that inherits from `amqptasks.worker.request.Request`, or its dotted name: its hooks see each
    call.
    """

    # --- models -----------------------------------------------------------------------------------------------

    pydantic: bool = False
    """Parameters annotated with pydantic models get them, and a model that is returned leaves as plain data."""
    pydantic_strict: bool = False
    """Models are made without conversions ("1" is no int)."""
    pydantic_context: Mapping[str, Any] | None = None
    """What validators get as `info.context`, with `celery_app` and `celery_task_name`."""
    pydantic_dump_kwargs: Mapping[str, Any] | None = None
    """Arguments of `model_dump`, over `mode="json"`."""

    # --- retrying -------------------------------------------------------------------------------------------

    max_retries: int | None = 3
    """`retry` raises once this is exceeded; None: never."""
    default_retry_delay: float = 180
    """Seconds, where `retry` is given neither `countdown` nor `eta`."""
    autoretry_for: tuple[type[BaseException], ...] = ()
    """Exceptions for which the task is retried by itself."""
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    """Exceptions among them for which it is not."""
    retry_kwargs: Mapping[str, Any] = NOTHING
    """What an automatic retry gives to `retry`: `max_retries`, `countdown`."""
    retry_backoff: bool | float = False
    """True: 1, 2, 4, 8 ... seconds; a number: that many times as much. Without it automatic retries wait
    `default_retry_delay`, or the `countdown` in `retry_kwargs`.
    """
    retry_backoff_max: float = 600
    """Seconds that a backoff grows to."""
    retry_jitter: bool = True
    """The delay is a random whole number of seconds from 0 to what the backoff says."""

    # --- limits ---------------------------------------------------------------------------------------------

    rate_limit: str | int | float | None = None
    """"10/s", "10/m" or "10/h", for each worker; None: `task_default_rate_limit`."""
    time_limit: float | None = None
    """Seconds after which the child that runs it is killed."""
    soft_time_limit: float | None = None
    """Seconds after which SoftTimeLimitExceeded is raised in it."""

    # --- results and events ---------------------------------------------------------------------------------

    ignore_result: bool | None = None
    """Send no result; a call's own `ignore_result` wins over it."""
    store_errors_even_if_ignored: bool | None = None
    """Send failures all the same."""
    store_eager_result: bool | None = None
    """Store results of runs in place."""
    trail: bool = True
    """Keep the results of the calls it makes as its children."""
    send_events: bool = True
    """Emit task events, where the worker emits any."""
    track_started: bool | None = None
    """Report the state STARTED."""
    resultrepr_maxsize: int = 1024
    """Characters of a value in logs and events."""
    throws: tuple[type[BaseException], ...] = ()
    """Exceptions that are expected: logged without a traceback."""

    # --- acknowledgement ------------------------------------------------------------------------------------

    acks_late: bool | None = None
    """Acknowledge after the task ended, rather than when it starts."""
    acks_on_failure_or_timeout: bool | None = None
    """Acknowledge a late-acknowledged task that failed or timed out; False: reject it."""
    acks_on_failure: bool | None = None
    """The same for failures alone."""
    acks_on_timeout: bool | None = None
    """The same for time limits alone."""
    reject_on_worker_lost: bool | None = None
    """Run a late-acknowledged task again when its child died."""
    retry_on_worker_lost: bool | None = None
    """Retry a task whose child died as `retry()` would, after `default_retry_delay`, at most `max_retries` times;
    wins over `reject_on_worker_lost`.
    """

    # --- its messages ---------------------------------------------------------------------------------------

    expires: Any = None
    """When a call is no longer to be started: seconds from the call, or a time. None: never."""
    priority: int | None = None
    """Priority on classic queues that have one; None: `task_default_priority`."""
    serializer: str | None = None
    """json, msgpack, yaml or pickle."""
    compression: str | None = None
    """gzip, bzip2, lzma or zstd."""
    delivery_mode: int | str | None = None
    """2 or "persistent", 1 or "transient"; None: `task_default_delivery_mode`."""
    queue: Any = None
    """Where its calls go; None: `task_routes`, else the default queue."""
    exchange: Any = None
    """As `queue`, for an exchange of one's own."""
    routing_key: str | None = None
    """The routing key at that exchange."""
