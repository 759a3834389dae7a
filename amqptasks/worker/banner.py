"""What a worker says of itself when it starts: where it connects, what it runs, which queues it takes from.

Pure text; passwords never appear. Knows neither logging nor terminals.
"""

from __future__ import annotations

import logging
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from amqptasks.masking import mask_url
from amqptasks.transport.url import parse
from amqptasks.worker.options import WorkerOptions
from amqptasks.worker.outcome import Manifest, WorkerQueue


class Slots(Protocol):
    """What the banner shows of a pool."""

    name: str

    @property
    def size(self) -> int: ...


def render(manifest: Manifest, options: WorkerOptions, pool: Slots) -> str:
    """Return the banner, laid out as Celery's users know it. The tasks are listed from log level INFO on."""
    lines = [
        f"{options.node} amqptasks {installed('amqptasks')}",
        f"{platform.platform()}, Python {platform.python_version()}, pid {os.getpid()}",
        "",
        "[config]",
        *(f".> {f'{name}:':<12} {value}" for name, value in _config(manifest, options, pool).items()),
        "",
        "[queues]",
        *_queues(tuple(queue for queue in manifest.queues if not queue.internal)),
    ]
    if getattr(logging, options.loglevel) <= logging.INFO:
        lines += ["", "[tasks]", *(f"  . {name}" for name in _users(manifest))]
    return "\n".join([*lines, ""])


def ready_line(node: str) -> str:
    """Return the line that says that the worker consumes."""
    return f"{node} ready."


def installed(distribution: str) -> str:
    """Return the installed version of a distribution, or `unknown` when it runs from a bare checkout."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _config(manifest: Manifest, options: WorkerOptions, pool: Slots) -> dict[str, str]:
    multiplier = manifest.settings.get("worker_prefetch_multiplier", "auto")
    return {
        "app": manifest.app,
        "transport": _transport(manifest),
        "results": mask_url(manifest.results) or "disabled",
        "concurrency": f"{_slots(options, pool)} ({pool.name})",
        "prefetch": "auto" if multiplier == "auto" else f"{multiplier} per slot",
    }


def _slots(options: WorkerOptions, pool: Slots) -> str:
    if options.autoscale is None:
        return str(pool.size)
    return f"{{min={options.autoscale[1]}, max={options.autoscale[0]}}}"


def _transport(manifest: Manifest) -> str:
    settings = manifest.settings
    hosts = parse(settings["broker_url"], settings.get("broker_use_ssl") or False)
    return "; ".join(host.masked() for host in hosts)


def _users(manifest: Manifest) -> list[str]:
    """The tasks of the app, without those that every app has."""
    return sorted(name for name in manifest.tasks if not name.startswith(("amqptasks.", "celery.")))


def _queues(queues: tuple[WorkerQueue, ...]) -> list[str]:
    width = max((len(queue.name) for queue in queues), default=0)
    return [f".> {queue.name:<{width}} {_address(queue)}" for queue in queues]


def _address(queue: WorkerQueue) -> str:
    return f"exchange={queue.exchange or '(default)'}({queue.exchange_type}) key={queue.routing_key}"
