"""The settings of workers, beat, events and remote control; `settings` has the others and the conventions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from amqptasks.coercion import Count, Lenient, Natural, Port, Seconds


def _pool(value: Any) -> Any:
    if value in ("eventlet", "gevent"):
        raise ValueError(f"there is no {value} pool here: use 'threads', or 'asyncio' for coroutines")
    return "prefork" if value == "processes" else value


def _prefix(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch("([a-zA-Z_:][a-zA-Z0-9_:]*)?", value):
        raise ValueError("Prometheus takes letters, digits and _ in names, and no digit first")
    return value


class WorkerSettings:
    """The worker; most have a command line option that wins."""

    worker_concurrency: Count | Literal["auto"] | None = None
    """Children, threads or coroutines; None or 'auto': the CPUs that this process may use, 100 coroutines."""
    worker_autoscale_keepalive: Seconds | None = None
    """With `--autoscale`: how long a slot must have been free before the first one goes; None: what the environment's
    AUTOSCALE_KEEPALIVE says, or 30 seconds. Ours."""
    worker_pool: Annotated[Literal["prefork", "threads", "asyncio", "solo"], Lenient(_pool)] = "prefork"
    """What runs the tasks."""
    worker_prefetch_multiplier: Natural | Literal["auto"] = "auto"
    """Messages held per slot of the pool; auto: about 100 ms of work; 0: no limit. Celery: 4."""
    worker_max_tasks_per_child: Count | None = None
    """Tasks after which a child is replaced."""
    worker_max_memory_per_child: Count | None = None
    """Resident memory, in KiB, beyond which a child is replaced after its task."""
    worker_lost_limit: Count = 5
    """Children that a task may kill before it is dead-lettered. Ours."""
    worker_proc_alive_timeout: Seconds = 4.0
    """How long a new child may take to come up."""
    worker_soft_shutdown_timeout: Seconds = 0.0
    """At a cold shutdown, how long running tasks may still take before they are given back."""
    worker_enable_soft_shutdown_on_idle: bool = False
    """Also when nothing runs."""
    worker_cancel_long_running_tasks_on_connection_loss: bool = False
    """Stop late-acknowledged tasks when the connection is lost, since the broker will deliver them again."""
    worker_direct: bool = False
    """Each worker also consumes a queue of its own, `<node name>.dq2`."""
    worker_disable_rate_limits: bool = False
    """Ignore all rate limits."""
    worker_enable_remote_control: bool = True
    """Answer `inspect` and `control`."""
    worker_pool_restarts: bool = False
    """Allow the command `pool_restart`."""
    worker_send_task_events: bool = False
    """Emit task events (`-E`)."""
    worker_state_db: str | None = None
    """File that keeps revoked ids over restarts."""
    worker_revokes_limit: Count = 50_000
    """Revoked ids, and revoked stamps, that a worker knows at most; the oldest are forgotten first. Ours."""
    worker_revokes_retention: Seconds = 7 * 86400.0
    """How long a revoked id is kept, by the workers and on the broker. Ours."""
    worker_health_port: Port | None = None
    """Answer `/livez`, `/readyz` and `/metrics` over HTTP on this port; 0: any, which is logged; None: no. Ours."""
    worker_health_host: str = "127.0.0.1"
    """On this address; "0.0.0.0" or "::" for all of the machine's. Ours."""
    worker_metrics_prefix: Annotated[str, Lenient(_prefix)] = "amqptasks_"
    """What the names at `/metrics` begin with; "celery_" for dashboards made for celery-exporter. Ours."""
    worker_hijack_root_logger: bool = True
    """Set up the root logger; False: logging is the application's."""
    worker_log_color: bool | None = None
    """Colours in the log; None: on a terminal."""
    worker_log_format: str = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
    """Format of log lines."""
    worker_log_datefmt: str | None = None
    """Format of their times."""
    worker_task_log_format: str = (
        "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
    )
    """Format of log lines written by tasks."""
    worker_task_log_datefmt: str | None = None
    """Format of their times."""
    worker_redirect_stdouts: bool = True
    """What tasks print goes to the log."""
    worker_redirect_stdouts_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "WARNING"
    """At this level."""


class BeatSettings:
    """The scheduler."""

    beat_schedule: Mapping[str, Any] = {}
    """{entry: {task, schedule, args, kwargs, options, relative, catch_up}}."""
    beat_name: str | None = None
    """Beats of one name share a lease: one of them leads. None: the app's name. Two projects that share a virtual host
    and have the same name must say."""
    beat_catch_up: Literal["all", "latest", "none"] = "latest"
    """What an entry that says nothing itself does about runs missed while no beat led."""
    beat_scheduler: str | None = None
    """Class of the scheduler, `module:Class`; None: the built-in one."""
    beat_schedule_filename: str = "amqptasks-schedule"
    """No effect: the last runs are kept on the broker. Celery: celerybeat-schedule."""
    beat_max_loop_interval: Seconds = 0.0
    """The longest sleep between two looks at the clock; 0: one second."""
    beat_sync_every: Natural = 0
    """No effect: every run sent is kept with it."""
    beat_cron_starting_deadline: Natural | None = None
    """Seconds by which a crontab's run may be late and still be sent; None: by its policy."""
    beat_enable_remote_control: bool = False
    """No effect: `amqptasks schedule` asks the leading beat."""
    beat_remote_control_max_tick_age: Seconds | None = None
    """No effect, as there is no such control."""


class EventSettings:
    """Events and remote control, on the exchanges that Celery's own tools use."""

    event_exchange: str = "celeryev"
    """Topic exchange of the events: Flower and Celery's tools listen there."""
    event_queue_prefix: str = "celeryev"
    """First part of receivers' queue names."""
    event_queue_expires: Seconds = 60.0
    """How long an unused receiver's queue is kept."""
    event_queue_ttl: Seconds = 5.0
    """How long an event waits for its receiver."""
    event_queue_exclusive: bool = True
    """Receivers' queues are exclusive."""
    event_queue_durable: bool = False
    """Receivers' queues are durable."""
    event_serializer: str = "json"
    """Serializer of events."""
    control_exchange: str = "celery"
    """First part of the names of the exchanges of remote control: `celery.pidbox`."""
    control_queue_ttl: Seconds = 300.0
    """How long a command waits for its worker."""
    control_queue_expires: Seconds = 10.0
    """How long the queue of a worker that is gone is kept."""
    control_queue_exclusive: bool = True
    """These queues are exclusive."""
    control_queue_durable: bool = False
    """These queues are durable."""
