"""What parent and children say to each other: a run, its report, its outcome, and the manifest.

Frozen values and nothing else; every one is cheap to pickle. Knows neither the app nor the transport.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amqptasks.amqp import Address, Delivery, Entity, Parcel
from amqptasks.values import quick


class Verdict(enum.IntEnum):
    """How a delivery is settled once the outcome's messages are confirmed."""

    ACK = 1
    REJECT = 2
    """The task's own `Reject`: `basic.reject` without requeue, so that the queue's dead-letter exchange takes it."""
    REQUEUE = 3


@quick
@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run: publish these, in this order, wait for the confirms, then settle."""

    verdict: Verdict = Verdict.ACK
    publish: tuple[Parcel, ...] = ()
    state: str = ""
    event: bytes = b""
    """What only the child knows of the run's last event, if its run is watched: see `telling`."""


class Cause(enum.IntEnum):
    """Why a child is given a delivery: to run it, or to say what follows from its end (an obituary)."""

    RUN = 0
    SPENT = 1
    """The broker has delivered it as often as its queue's `x-delivery-limit` lets it; `detail` says so."""
    BURIED = 2
    """The children that wrote its obituary died too: an obituary without any of the user's code."""
    REVOKED = 3
    EXPIRED = 4
    LOST = 5
    """The child that ran it died; `detail` says how."""
    TIMEOUT = 6
    """The hard time limit killed its child; `detail` is the limit in seconds."""
    TERMINATED = 7
    EARLY = 8
    """Not due yet (a sender that does not use the ladder): put it on the ladder. `detail` is the rest in seconds."""
    HOOK = 9
    """No delivery to run: send the worker's own signal that `detail` names, to the app's receivers."""
    COMMAND = 10
    """Nor here: carry out the app's own command that `detail` names; the body holds its arguments."""


@quick
@dataclass(frozen=True, slots=True)
class Run:
    """A delivery handed to the pool. `key` is the parent's own number for it, unique while the worker lives."""

    key: int
    delivery: Delivery
    cause: Cause = Cause.RUN
    detail: str = ""
    soft: float | None = None
    hard: float | None = None
    watch: bool = False
    """Tell what becomes of it as an event too."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """A task's options with the settings filled in: all that the parent knows of it."""

    name: str
    acks_late: bool = False
    acks_on_failure: bool = True
    acks_on_timeout: bool = True
    reject_on_worker_lost: bool = False
    retry_on_worker_lost: bool = False
    ignore_result: bool = False
    store_errors_even_if_ignored: bool = False
    track_started: bool = False
    soft_time_limit: float | None = None
    """Seconds."""
    time_limit: float | None = None
    """Seconds."""
    rate_limit: float = 0.0
    """Runs that a worker starts in a second; 0: no limit."""
    described: Mapping[str, str] = field(default_factory=dict)
    """Every option as text, for who asks (`inspect registered NAME`)."""


@dataclass(frozen=True, slots=True)
class WorkerQueue:
    """A queue to consume: its name, what to declare before (in order), and what the banner shows."""

    name: str
    declare: tuple[Entity, ...] = ()
    exchange: str = ""
    exchange_type: str = "direct"
    routing_key: str = ""
    consumer_arguments: Mapping[str, Any] = field(default_factory=dict)
    internal: bool = False
    """The workers' own: neither shown nor purged."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the pool tells the parent when the app is loaded."""

    app: str
    """The app's repr-like line for the banner: `proj:0x7f..`."""
    settings: Mapping[str, Any]
    """Every setting, final: after files, environment and command line."""
    queues: tuple[WorkerQueue, ...]
    tasks: Mapping[str, TaskOptions]
    results: str = ""
    """The result backend's URL, password masked."""
    warnings: tuple[str, ...] = ()
    threads: int = 1
    """Threads alive in the zygote after the import; more than one makes forking unsafe."""
    hooks: frozenset[str] = frozenset()
    """Signals of the worker itself that the app connected to; a helper child sends them."""
    commands: Mapping[str, float] = field(default_factory=dict)
    """The app's own commands, by name and alias, with their time limits; the same child carries them out."""
    clock: str | None = None
    """The variable TZ, which loading an app may set (Django does): the log has one clock."""

    @property
    def internal(self) -> Address | None:
        """Where the calls go by which workers do their own work."""
        own = next((queue for queue in self.queues if queue.internal), None)
        return None if own is None else Address(own.exchange, own.routing_key)


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """What to load, told to whoever imports the app.

    `loader` is `module:function`; it is called with this value and returns a `Loaded`.
    """

    loader: str
    app: str = ""
    """What `-A` names."""
    node: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the command line, which win over the app's own."""
    modules: tuple[str, ...] = ()
    """To be imported besides what the app names: those of `control pool_restart`."""
    pool: str | None = None
    """None: as the settings say."""
    concurrency: int | None = None
    """None: as the settings say."""
    options: Any = None
    """Whatever else the loader needs; must be picklable."""
