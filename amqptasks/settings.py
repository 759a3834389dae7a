"""The settings: one typed, documented field each. Names and defaults are Celery's unless the field says not.

Only declarations: where values come from and how they are checked is `config`'s business. Durations are
seconds (a `timedelta` is accepted), sizes bytes unless the name says otherwise. The settings of worker, beat,
events and remote control stand in `worker_settings`.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Mapping, Sequence
from datetime import UTC, tzinfo
from typing import Annotated, Any, Literal

from amqptasks.coercion import Count, Lenient, Natural, Priority, Seconds, Strings
from amqptasks.worker_settings import BeatSettings, EventSettings, WorkerSettings

_PUBLISH_RETRY_POLICY: Mapping[str, Any] = {
    "max_retries": 3,
    "interval_start": 0,
    "interval_max": 1,
    "interval_step": 0.2,
}


def _policy(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    unknown = [key for key in value if key not in _PUBLISH_RETRY_POLICY and key != "retry_errors"]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(_PUBLISH_RETRY_POLICY)}")
    for key, number in value.items():
        endless = key == "max_retries" and number is None
        if key in _PUBLISH_RETRY_POLICY and not endless and not _counts(number):
            raise ValueError(f"{key!r} must be a number of at least 0, not {number!r}")
    return {**_PUBLISH_RETRY_POLICY, **value}


def _counts(value: Any) -> bool:
    return isinstance(value, int | float) and value >= 0


def _own_exchange(value: Any) -> Any:
    if isinstance(value, str) and (not value or value.startswith("amq.")):
        raise ValueError("it must be an exchange of its own, which the broker's are not; write a name")
    return value


def _zone(value: Any) -> Any:
    """Accept zone objects (zoneinfo, pytz) by their name, and refuse names that are no zone."""
    name = getattr(value, "key", None) or getattr(value, "zone", None) if isinstance(value, tzinfo) else value
    if value is UTC:
        return "UTC"
    if not isinstance(name, str) or name.lower() in ("", "none"):
        return value
    try:
        return zoneinfo.ZoneInfo(name).key
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("this machine knows no such time zone (names are like 'Europe/London')") from None


def _delivery_mode(value: Any) -> Any:
    return {"transient": 1, "persistent": 2}.get(value, value) if isinstance(value, str) else value


def _rate(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class GeneralSettings:
    """What concerns every part."""

    accept_content: Strings = ("json",)
    """Serializers (names or content types) whose messages are decoded; anything else is refused, unread."""
    result_accept_content: Strings | None = None
    """The same for results; None: as `accept_content`."""
    enable_utc: bool = True
    """Whether, with `timezone` unset, times without a zone are UTC (True) or the machine's (False). On the wire every
    time has a zone."""
    timezone: Annotated[str | None, Lenient(_zone)] = None
    """The zone of schedules and of naive times, by its IANA name ('Europe/London'); None: see `enable_utc`."""
    imports: Strings = ()
    """Modules that a worker imports at start, so that their tasks are registered."""
    include: Strings = ()
    """The same, as given to `App(include=...)`."""
    message_inflate_limit: Count = 64 * 1024 * 1024
    """Bytes that a compressed body may grow to; beyond it the message is dead-lettered. Ours."""

    security_certificate: str | None = None
    """Path of the certificate that signs messages (serializer `auth`)."""
    security_cert_store: str | None = None
    """Glob of the certificates whose messages are accepted."""
    security_key: str | None = None
    """Path of the private key that signs messages."""
    security_key_password: str | bytes | None = None
    """Password of that key."""
    security_digest: str = "sha256"
    """Digest of the signatures."""


class BrokerSettings:
    """The way to RabbitMQ."""

    broker_url: str | Strings = "amqp://guest:guest@localhost:5672//"
    """One URL, several separated by `;`, or a list. See `transport.url`. Celery: none."""
    broker_read_url: str | Strings | None = None
    """What workers consume from, if not `broker_url`."""
    broker_write_url: str | Strings | None = None
    """What messages are published to, if not `broker_url`."""
    broker_use_ssl: bool | Mapping[str, Any] = False
    """True, or TLS options (`ca_certs`, `certfile`, `keyfile`, `cert_reqs`, `server_hostname`)."""
    broker_login_method: str | None = None
    """PLAIN (None), AMQPLAIN, or EXTERNAL for client certificates."""
    broker_connection_timeout: Seconds = 4.0
    """Until a connection attempt, over all hosts, counts as failed."""
    broker_connection_retry: bool = True
    """Workers reconnect after the loss of their connection; False: they exit."""
    broker_connection_retry_on_startup: bool | None = None
    """Workers wait for a broker that is not there yet; None: as `broker_connection_retry`."""
    broker_connection_max_retries: Natural | None = None
    """Attempts before a worker gives up; None: never. Celery: 100."""
    broker_failover_strategy: Literal["round-robin", "shuffle"] = "round-robin"
    """The order in which several hosts are tried."""
    broker_heartbeat: Seconds = 15.0
    """Interval agreed with the broker; a dead peer is noticed after two. 0: none. Celery: 120."""
    broker_consumer_timeout: Seconds = 1800.0
    """RabbitMQ's own `consumer_timeout`, which workers stay well below. 0: it is off. Ours."""
    broker_transport_options: Mapping[str, Any] = {}
    """Read for `client_properties` and `login_method`; Celery's other options mean nothing here."""
    broker_publish_timeout: Seconds = 30.0
    """How long a publish waits for its confirm, or for a blocked broker, before it raises. Ours."""
    broker_publish_window: Count = 1000
    """Messages that may be unconfirmed at a time in a process; more wait. Ours."""
    broker_publish_window_bytes: Count = 32 * 1024 * 1024
    """The same in bytes. Ours."""
    broker_max_message_size: Count = 16 * 1024 * 1024
    """A body above it raises TooLarge before it is written: RabbitMQ 4's `max_message_size`. Ours."""


class ResultSettings:
    """Results and their backends."""

    result_backend: str | None = "rpc://"
    """Where results go: rpc://, db+..., redis://, memory://, 'package.module:Class', or None. Celery: None."""
    result_expires: Seconds | None = 86400.0
    """How long a result that nobody fetches is kept."""
    result_persistent: bool | None = None
    """Results survive a restart of the broker; None: no."""
    result_extended: bool = False
    """Results also carry the task's name, arguments, worker, retries and queue."""
    result_serializer: str = "json"
    """Serializer of results."""
    result_compression: str | None = None
    """gzip, bzip2, lzma or zstd, for results in a store; results sent as messages are not compressed."""
    result_store_timeout: Seconds = 30.0
    """How long a store that is down is tried again, for one write or read. Ours."""
    result_polling_interval: Seconds = 0.5
    """Between two looks at a database, the longest; the first come sooner. Redis wakes who waits. Ours."""
    result_cache_max: int = 10_000
    """Results kept by a client process for a second `get()`; -1: none. Celery: -1."""
    result_queue_expires: Seconds = 600.0
    """How long the broker keeps a reply queue that nobody consumes. Ours."""
    result_chord_join_timeout: Seconds = 3.0
    """How long a chord's join waits for its last parts."""


class TaskSettings:
    """How tasks are sent and run; most are defaults of the task option of the same name."""

    task_acks_late: bool = False
    """Acknowledge after the task ended, rather than when it starts."""
    task_acks_on_failure_or_timeout: bool = True
    """Acknowledge late-acknowledged tasks that failed or timed out; False: they are rejected."""
    task_acks_on_failure: bool | None = None
    """The same for failures alone; None: as `task_acks_on_failure_or_timeout`."""
    task_acks_on_timeout: bool | None = None
    """The same for time limits alone; None: as `task_acks_on_failure_or_timeout`."""
    task_reject_on_worker_lost: bool | None = None
    """Run a late-acknowledged task again when its child died, up to `worker_lost_limit`."""
    task_retry_on_worker_lost: bool = False
    """Retry it as `retry()` would instead, within `max_retries`."""
    task_always_eager: bool = False
    """`delay` and `apply_async` run the task in place."""
    task_eager_propagates: bool = False
    """What a task that runs in place raises, its caller gets."""
    task_store_eager_result: bool = False
    """Results of tasks that run in place go to the backend."""
    task_annotations: Any = None
    """{task name or '*': {option: value}}, or a list of objects with `annotate(task)`."""
    task_serializer: str = "json"
    """Serializer of messages."""
    task_compression: str | None = None
    """gzip, bzip2, lzma or zstd."""
    task_protocol: Literal[2] = 2
    """Version of the message protocol that is sent; versions 1 and 2 are read."""
    task_ignore_result: bool = False
    """Send no results."""
    task_store_errors_even_if_ignored: bool = False
    """Send failures all the same."""
    task_track_started: bool = False
    """Report the state STARTED."""
    task_send_sent_event: bool = False
    """Emit `task-sent` when a task is sent."""
    task_publish_retry: bool = True
    """Try again when a message could not be published."""
    task_publish_retry_policy: Annotated[Mapping[str, Any], Lenient(_policy)] = _PUBLISH_RETRY_POLICY
    """How: attempts (None: for ever), first, longest, added interval. What is left out keeps its default."""
    task_time_limit: Seconds | None = None
    """Hard limit: the child is killed and replaced."""
    task_soft_time_limit: Seconds | None = None
    """Soft limit: SoftTimeLimitExceeded is raised in the task."""
    task_default_rate_limit: Annotated[str | None, Lenient(_rate)] = None
    """'10/s', '10/m' or '10/h', for each task and worker."""
    task_default_priority: Priority | None = None
    """Priority of messages, on classic queues that have one."""
    task_inherit_parent_priority: bool = False
    """Tasks sent by a task have its priority."""
    task_default_delivery_mode: Annotated[Literal[1, 2], Lenient(_delivery_mode)] = 2
    """2 or 'persistent'; 1 or 'transient'."""
    task_remote_tracebacks: bool = False
    """Accepted for Celery's sake: the remote traceback always arrives, as text."""
    task_repr_maxlevels: Natural = 3
    """Depth of arguments in the logs."""
    task_allow_error_cb_on_chord_header: bool = False
    """An errback of a chord's body is also one of its header."""

    task_queues: Mapping[str, Any] | Sequence[Any] | None = None
    """The queues: `Queue` values, names, or {name: {exchange, routing_key, ...}}. None: the default queue."""
    task_routes: Any = None
    """{name, glob or regex: queue or options}, a function, a dotted name, or a list of these."""
    task_create_missing_queues: bool = True
    """Sending to, or consuming from, a queue that nobody declared creates it."""
    task_create_missing_queue_type: Literal["quorum", "classic"] | None = None
    """Type of those; None: `task_default_queue_type`. Celery: classic."""
    task_create_missing_queue_exchange_type: str | None = None
    """Each of those gets an exchange of its own name and this type; None: `task_default_exchange`."""
    task_default_queue: str = "amqptasks"
    """Queue of tasks without a route. Celery: celery."""
    task_default_queue_type: Literal["quorum", "classic"] = "quorum"
    """Type of queues that name none; those with a priority are classic. Celery: classic."""
    task_default_exchange: str | None = "amqptasks"
    """Exchange of queues that name none; None: the queue's name. Celery: None."""
    task_default_exchange_type: str = "direct"
    """Type of exchanges given by name alone."""
    task_default_routing_key: str | None = None
    """Routing key of the default queue; None: its name."""
    task_queue_max_priority: Priority | None = None
    """`x-max-priority` of every queue that is not quorum by its own declaration."""
    task_queue_delivery_limit: Count = 100
    """`x-delivery-limit` of quorum queues: the last net against what kills whole workers. Ours."""
    task_dead_letter_exchange: Annotated[str, Lenient(_own_exchange)] = "amqptasks.dead"
    """Where messages go that cannot be run; queue `<queue>.dead`. Ours."""
    task_unknown_retries: Natural = 3
    """How often a message whose task the worker does not know is sent back, for 5, 30 and then 120 s each, before it
    is a dead letter: while a deployment rolls, another worker may know it. 0: at once. Ours."""
    queue_arguments: Literal["full", "minimal"] = "full"
    """minimal: declare a queue's type alone; a policy does the rest (`amqptasks topology export`). Ours."""


class Settings(
    GeneralSettings, BrokerSettings, ResultSettings, TaskSettings, WorkerSettings, BeatSettings, EventSettings
):
    """Every setting with its type and default."""


NAMES: tuple[str, ...] = tuple(name for group in Settings.__bases__ for name in group.__annotations__)
DEFAULTS: Mapping[str, Any] = {name: getattr(Settings, name) for name in NAMES}
