"""What a worker is told on its command line, as one frozen value. Knows neither click nor the app."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amqptasks.worker import cpus

DEFAULT_NAME = "amqptasks"
POOLS = ("prefork", "threads", "asyncio", "solo")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Everything the worker needs from its command line. None means: not said, so the settings decide."""

    app: str = ""
    """What `-A`, the environment or pyproject.toml names: `pkg.mod:attr`, `script:path`."""
    workdir: str = ""
    """Absolute; the app is searched here first."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Settings that win over the app's own: `-b`, `--result-backend`, `-- name=value`."""

    hostname: str = ""
    """The pattern of `-n`, with %h %n %d; `node` is what it stands for."""
    queues: tuple[str, ...] = ()
    exclude_queues: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    concurrency: int | None = None
    """0 is `auto`: as many as the CPUs that this process may use."""
    autoscale: tuple[int, int] | None = None
    """Most and least slots; the pool begins with the least, whatever `concurrency` says."""
    pool: str | None = None
    prefetch_multiplier: int | str | None = None
    """A number, or "auto"."""
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    """KiB."""
    time_limit: float | None = None
    """Seconds."""
    soft_time_limit: float | None = None
    """Seconds."""
    task_events: bool | None = None
    heartbeats: bool = True
    """Send an event every two seconds that says that the worker is there."""
    health_port: int | None = None
    """Of `/livez`, `/readyz` and `/metrics`; 0: any."""
    health_host: str | None = None
    purge: bool = False
    """Empty the queues before consuming."""

    loglevel: str = "WARNING"
    logfile: str | None = None
    """A path with %h %n %d; None is stderr. One file for all processes of the worker."""
    colour: bool | None = None
    """None: the settings decide, else colour when stderr is a terminal."""
    quiet: bool = False
    """No banner."""

    @property
    def node(self) -> str:
        """The node's name, `name@host`, unique among the workers of a broker."""
        return node_name(self.hostname)

    @property
    def settings(self) -> dict[str, Any]:
        """`overrides` and every option that is a setting too, by the setting's name."""
        said = {
            "worker_concurrency": self.slots,
            "worker_pool": self.pool,
            "worker_prefetch_multiplier": self.prefetch_multiplier,
            "worker_max_tasks_per_child": self.max_tasks_per_child,
            "worker_max_memory_per_child": self.max_memory_per_child,
            "task_time_limit": self.time_limit,
            "task_soft_time_limit": self.soft_time_limit,
            "worker_send_task_events": self.task_events,
            "worker_health_port": self.health_port,
            "worker_health_host": self.health_host,
        }
        given = {name: value for name, value in said.items() if value is not None}
        if self.slots == 0:
            given["worker_concurrency"] = cpus.available()
        return {**self.overrides, **given}

    @property
    def slots(self) -> int | None:
        """What the pool begins with: a number, 0 for as many as there are CPUs, or None: as the settings say."""
        return self.concurrency if self.autoscale is None else self.autoscale[1]


def node_name(pattern: str, host: str | None = None) -> str:
    """Return `name@host` for what `-n` says; `w1@%h`, `w1@` and `@web` are completed, a bare `web` is a host.

    %h is the host's full name, %n its first part, %d its domain, as in Celery.
    """
    host = host or socket.gethostname()
    name, _, place = pattern.rpartition("@") if "@" in pattern else ("", "", pattern)
    return expand(f"{name or DEFAULT_NAME}@{place or host}", f"{host.partition('.')[0]}@{host}")


def expand(pattern: str, node: str) -> str:
    """Replace %h (host), %n (name), %d (domain) and %p (the whole node name) in a node's name or a path.

    Celery's %i and %I number the children, for a log file each; here all write into one: `0`, and nothing.
    """
    name, _, host = node.partition("@")
    _, _, domain = host.partition(".")
    meanings = {
        "h": host,
        "n": name,
        "d": domain,
        "p": node,
        "i": "0",
        "I": "",
        "%": "%",
    }
    text, rest = "", pattern
    while "%" in rest:
        before, _, rest = rest.partition("%")
        text += before + meanings.get(rest[:1], "%" + rest[:1])
        rest = rest[1:]
    return text + rest
