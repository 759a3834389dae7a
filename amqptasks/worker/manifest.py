"""The manifest: what the parent must know of an app that it never imports. Read off the app once, in the zygote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from amqptasks import signals
from amqptasks.entities import declaration
from amqptasks.topology import Queue
from amqptasks.worker.outcome import Manifest, TaskOptions, WorkerQueue

if TYPE_CHECKING:
    from amqptasks.app import App
    from amqptasks.config import Config
    from amqptasks.task import Task

HOOKS = ("worker_ready", "worker_shutdown", "worker_shutting_down", "task_received")
"""Signals that belong to the worker rather than to a task; the helper child sends them."""

UNREAD_SETTINGS = (
    "broker_login_method",
    "broker_transport_options",
    "task_default_rate_limit",
    "task_remote_tracebacks",
    "task_repr_maxlevels",
    "task_retry_on_worker_lost",
    "task_send_sent_event",
    "worker_cancel_long_running_tasks_on_connection_loss",
    "worker_direct",
    "worker_disable_rate_limits",
    "worker_enable_soft_shutdown_on_idle",
    "worker_pool_restarts",
    "worker_send_task_events",
    "worker_state_db",
)
UNREAD_OPTIONS = ("rate_limit", "retry_on_worker_lost")
"""Celery's names that load, so that its configurations do, and that nothing here acts on yet."""


def build(app: App, *, queues: tuple[str, ...], exclude: tuple[str, ...]) -> Manifest:
    """Read the manifest off a finished app. Raises ImproperlyConfigured for queues that do not exist."""
    chosen = app.router.select(queues or None, exclude)
    tasks = {name: options_of(task, app.conf) for name, task in app.tasks.items()}
    return Manifest(
        app=f"{app.main or '__main__'}:{hex(id(app))}",
        settings=app.conf.table(with_defaults=True, censored=False),
        queues=tuple(_queue(queue, app.conf) for queue in chosen),
        tasks=tasks,
        results=app.backend.url,
        hooks=frozenset(name for name in HOOKS if getattr(signals, name).receivers),
        warnings=(*_warnings(app.conf, tasks), *_without_effect(app)),
    )


def _warnings(conf: Config, tasks: Mapping[str, TaskOptions]) -> Iterator[str]:
    limited = [name for name, task in tasks.items() if task.time_limit or task.soft_time_limit]
    if limited and conf.worker_pool != "prefork":
        yield (
            f"time limits are not kept by the {conf.worker_pool} pool, which cannot stop a thread; "
            f"use prefork for {', '.join(sorted(limited)[:5])}"
        )


def _without_effect(app: App) -> Iterator[str]:
    changed = app.conf.changes
    for name in UNREAD_SETTINGS:
        if changed.get(name):
            yield f"setting {name} has no effect in this version; leave it out until it has"
    for option in UNREAD_OPTIONS:
        names = sorted(name for name, task in app.tasks.items() if getattr(task, option))
        if names:
            yield f"{option} of {', '.join(names[:5])} has no effect in this version; do not rely on it"


def _queue(queue: Queue, conf: Config) -> WorkerQueue:
    return WorkerQueue(
        name=queue.name,
        declare=tuple(declaration(queue, conf)),
        exchange=queue.exchange.name if queue.exchange is not None else "",
        exchange_type=queue.exchange.type if queue.exchange is not None else "direct",
        routing_key=queue.routing_key or "",
        consumer_arguments=dict(queue.consumer_arguments or {}),
    )


def options_of(task: Task[..., Any], conf: Config) -> TaskOptions:
    """Fill in what the task leaves to the settings."""

    def chosen(name: str) -> Any:
        own = getattr(task, name)
        return getattr(conf, f"task_{name}") if own is None else own

    either = chosen("acks_on_failure_or_timeout")
    on_failure, on_timeout = chosen("acks_on_failure"), chosen("acks_on_timeout")
    return TaskOptions(
        name=task.name,
        acks_late=bool(chosen("acks_late")),
        acks_on_failure=bool(either if on_failure is None else on_failure),
        acks_on_timeout=bool(either if on_timeout is None else on_timeout),
        reject_on_worker_lost=bool(chosen("reject_on_worker_lost")),
        ignore_result=bool(chosen("ignore_result")),
        store_errors_even_if_ignored=bool(chosen("store_errors_even_if_ignored")),
        track_started=bool(chosen("track_started")),
        soft_time_limit=chosen("soft_time_limit"),
        time_limit=chosen("time_limit"),
    )
