"""The manifest: what the parent must know of an app that it never imports. Read off the app once, in the zygote."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from amqptasks import builtin, signals, task_options
from amqptasks.canvas.parts import internal_queue
from amqptasks.errors import ImproperlyConfigured
from amqptasks.serialization import accept_set, dumps, find
from amqptasks.shown import shown
from amqptasks.worker import custom
from amqptasks.worker.outcome import Manifest, TaskOptions, WorkerQueue
from amqptasks.worker.queues import consumed
from amqptasks.worker.rates import per_second

if TYPE_CHECKING:
    from amqptasks.app import App
    from amqptasks.config import Config
    from amqptasks.task import Task

HOOKS = ("worker_ready", "worker_shutdown", "worker_shutting_down", "task_received")
"""Signals that belong to the worker rather than to a task; the helper child sends them."""

UNSENT = ("heartbeat_sent", "task_internal_error", "user_preload_options", "worker_before_create_process")
"""Celery's signals that load, so that its apps do, and that nothing here sends."""

OPTIONS = tuple(task_options.TaskOptions.__annotations__)

UNREAD_SETTINGS = (
    "broker_login_method",
    "broker_transport_options",
    "task_remote_tracebacks",
    "task_repr_maxlevels",
    "worker_cancel_long_running_tasks_on_connection_loss",
    "worker_direct",
    "worker_enable_soft_shutdown_on_idle",
    "worker_state_db",
)
"""Celery's names that load, so that its configurations do, and that nothing here acts on yet."""


def build(app: App, *, queues: tuple[str, ...], exclude: tuple[str, ...]) -> Manifest:
    """Read the manifest off a finished app.

    Raises ImproperlyConfigured for queues that do not exist, and for serializers and compressions that cannot write.
    """
    chosen = app.router.select(queues or None, exclude)
    _check_writing(app.conf)
    tasks = {
        name: replace(options_of(task, app.conf), described=_described(task, app.conf))
        for name, task in app.tasks.items()
    }
    return Manifest(
        app=f"{app.main or '__main__'}:{hex(id(app))}",
        settings={
            name: _plain(value) for name, value in app.conf.table(with_defaults=True, censored=False).items()
        },
        queues=(*(consumed(queue, app.conf) for queue in chosen), _internal(app.conf)),
        tasks=tasks,
        results=app.backend.url,
        hooks=_hooks(app),
        commands=_commands(app),
        clock=os.environ.get("TZ"),
        warnings=(*_warnings(app, tasks), *_unreadable(app.conf), *_without_effect(app)),
    )


def _check_writing(conf: Config) -> None:
    """What nothing can write would be found out by every task, after it ran."""
    for kind in ("task", "result"):
        serializer, compression = getattr(conf, f"{kind}_serializer"), getattr(conf, f"{kind}_compression")
        try:
            setting = f"{kind}_serializer"
            dumps(None, serializer)
            setting = f"{kind}_compression"
            dumps(None, serializer, compression)
        except ImproperlyConfigured as error:
            raise ImproperlyConfigured(f"{setting}: {error}") from None


def _plain(value: Any) -> Any:
    """Return a setting without the user's code in it: the parent cannot unpickle what it does not import.

    Functions of `task_routes`, methods and objects of `task_annotations`: it needs none of them.
    """
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_plain(each) for each in value)
    if isinstance(value, str):
        return value[:]  # the plain text of a user's own kind, an enumeration's member
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value) if isinstance(value, int) else float(value)
    root = type(value).__module__.partition(".")[0]
    is_ours = root == "amqptasks" or root in sys.stdlib_module_names
    return shown(value) if callable(value) or not is_ours else value


def _hooks(app: App) -> frozenset[str]:
    """What the helper child is to tell: signals with receivers, and what a `Request` class wants to know."""
    hooks = {name for name in HOOKS if getattr(signals, name).receivers}
    if custom.resolve(app.tasks.values()):
        hooks.add(signals.task_received.name)
    return frozenset(hooks)


def _commands(app: App) -> Mapping[str, float]:
    return {
        name: command.time_limit
        for command in app.commands.values()
        for name in (command.name, command.alias)
        if name
    }


def _warnings(app: App, tasks: Mapping[str, TaskOptions]) -> Iterator[str]:
    pool = app.conf.worker_pool
    limited = [name for name, task in tasks.items() if task.time_limit or task.soft_time_limit]
    if pool == "asyncio":
        limited = [name for name in limited if not inspect.iscoroutinefunction(app.tasks[name].run)]
    if limited and pool != "prefork":
        yield (
            f"time limits are not kept by the {pool} pool, which cannot stop a thread; "
            f"use prefork for {', '.join(sorted(limited)[:5])}"
        )
    if pool != "prefork" and (app.conf.worker_max_tasks_per_child or app.conf.worker_max_memory_per_child):
        yield (
            f"worker_max_tasks_per_child and worker_max_memory_per_child have no effect in the {pool} pool, where "
            "the child has other tasks when one ends; use prefork"
        )


def _unreadable(conf: Config) -> Iterator[str]:
    for kind, names in (("task", conf.accept_content), ("result", conf.result_accept_content)):
        serializer = getattr(conf, f"{kind}_serializer")
        accepted = accept_set(conf.accept_content if names is None else names)
        if find(serializer).content_type not in accepted:
            setting = "accept_content" if names is None or kind == "task" else "result_accept_content"
            yield f"{kind}_serializer is {serializer!r}, which {setting} lets nobody read; add it there"


def _without_effect(app: App) -> Iterator[str]:
    changed = app.conf.changes
    for signal in UNSENT:
        if getattr(signals, signal).receivers:
            yield f"the signal {signal} has receivers, and is not sent; see the page of differences from Celery"
    for name in UNREAD_SETTINGS:
        if changed.get(name):
            yield f"setting {name} has no effect in this version; leave it out until it has"


def _internal(conf: Config) -> WorkerQueue:
    """What every worker consumes, whatever `-Q` and `-X` say: chords are joined there."""
    return replace(consumed(internal_queue(conf), conf), internal=True)


def options_of(task: Task[..., Any], conf: Config) -> TaskOptions:
    """Fill in what the task leaves to the settings."""

    def chosen(name: str) -> Any:
        own = getattr(task, name)
        return getattr(conf, f"task_{name}") if own is None else own

    def limit(name: str) -> float | None:
        """No limit of 0 s: as in Celery, it is none."""
        return getattr(task, name) or getattr(conf, f"task_{name}") or None

    joins = task.name in builtin.LATE_TASKS  # cut short, it would leave a workflow where it is
    either = chosen("acks_on_failure_or_timeout")
    on_failure, on_timeout = chosen("acks_on_failure"), chosen("acks_on_timeout")
    return TaskOptions(
        name=task.name,
        acks_late=bool(chosen("acks_late")),
        acks_on_failure=bool(either if on_failure is None else on_failure),
        acks_on_timeout=bool(either if on_timeout is None else on_timeout),
        reject_on_worker_lost=bool(chosen("reject_on_worker_lost")),
        retry_on_worker_lost=bool(chosen("retry_on_worker_lost")),
        ignore_result=bool(chosen("ignore_result")),
        store_errors_even_if_ignored=bool(chosen("store_errors_even_if_ignored")),
        track_started=bool(chosen("track_started")),
        soft_time_limit=None if joins else limit("soft_time_limit"),
        time_limit=None if joins else limit("time_limit"),
        rate_limit=_rate(task, conf),
    )


def _described(task: Task[..., Any], conf: Config) -> Mapping[str, str]:
    own = {name: getattr(task, name) for name in OPTIONS}
    found = {
        name: getattr(conf, f"task_{name}", None) if value is None else value for name, value in own.items()
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _rate(task: Task[..., Any], conf: Config) -> float:
    if conf.worker_disable_rate_limits:
        return 0.0
    try:
        return per_second(conf.task_default_rate_limit if task.rate_limit is None else task.rate_limit)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"rate_limit of task {task.name}: {error}") from None
