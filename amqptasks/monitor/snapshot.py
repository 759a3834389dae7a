"""What an observer tells: frozen values, made at one moment, that may be kept and shared between threads.

Moments are seconds since the epoch (by the clock of the observer, or of whoever sent an event), durations are seconds,
rates are per second, sizes are bytes. None means that it is not known: not told by anybody, or to be had from the
management plugin only. Pure; knows no broker and draws nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

QueueKind = Literal["task", "dead", "internal"]
"""A queue of tasks, of dead letters, or one that the system itself uses: delays, replies, mailboxes, the beat's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The whole system in one line."""

    at: float = 0.0
    """When this was made."""
    broker: str = ""
    """Its URL without the password."""
    product: str = ""
    """As the broker says of itself: RabbitMQ 3.13.7. Empty before the first connection."""
    connected: bool = False
    message: str = ""
    """Why the observer is not connected, as a sentence; what is shown besides is then the last that was known."""
    alarm: str = ""
    """Why the broker takes no messages now, in its words: low on memory, low on disk. Empty: it does."""
    management: bool = False
    """Whether the management plugin answers; without it some values of queues are None."""
    management_message: str = ""
    """Why it does not, as a sentence."""
    states: Mapping[str, int] = field(default_factory=dict)
    """Calls that are in memory, by state: those that were looked at, so scaled by nothing."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Calls a second over the last few seconds: sent, received, started, succeeded, failed, retried, revoked, rejected.
    `started` is exact where workers send heartbeats; the others follow from events, scaled up to all."""
    events: float = 0.0
    """Task events a second that came in, before sampling."""
    sampled: int = 1
    """One workflow of so many is looked at as a whole and listed; 1: all of them."""
    dropped: bool = False
    """Whether the broker lately threw events away because more came than are taken: timelines may have gaps."""
    task_events: bool = False
    """Whether any task event came in the last minute; without, `control enable_events` or `worker -E` is the cure."""
    workers_online: int = 0
    workers_known: int = 0
    active: int = 0
    """Calls that run now, on all workers."""
    reserved: int = 0
    """Calls that workers hold and that do not run yet."""
    processed: int = 0
    """Calls that the workers that are online have started so far."""
    ready: int = 0
    """Messages that wait in task queues."""
    unacked: int | None = None
    """Messages of task queues that workers hold."""
    dead: int = 0
    """Dead letters, in all queues together."""
    unconsumed: tuple[str, ...] = ()
    """Task queues that nobody consumes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """A queue. Rates, `unacked`, `oldest_age` and `memory` need the management plugin."""

    name: str
    kind: QueueKind = "task"
    type: str = ""
    """quorum, classic, stream; empty when neither the app nor a worker nor the plugin tells."""
    exists: bool = True
    """False: the app names it and the broker does not have it yet; a worker declares it."""
    ready: int | None = None
    unacked: int | None = None
    consumers: int | None = None
    publish_rate: float | None = None
    deliver_rate: float | None = None
    ack_rate: float | None = None
    oldest_age: float | None = None
    """Age of the oldest message; classic queues and messages with a timestamp only."""
    memory: int | None = None
    dead_letters: int = 0
    """Messages in `<name>.dead`."""
    nobody_consumes: bool = False
    """A task queue that exists and has no consumer."""
    workers: tuple[str, ...] = ()
    """Nodes that say that they consume it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A worker. `pool` and what follows from it is asked every few seconds; a Celery worker tells most of it too."""

    node: str
    alive: bool = True
    pool: str = ""
    """prefork, threads, asyncio, solo; of a Celery worker as it says."""
    concurrency: int | None = None
    autoscale: tuple[int, int] | None = None
    """(most, least)."""
    active: int | None = None
    reserved: int | None = None
    processed: int | None = None
    """Calls started since it began."""
    rate: float | None = None
    """Calls started a second, lately."""
    loadavg: tuple[float, ...] = ()
    queues: tuple[str, ...] = ()
    heartbeat_age: float | None = None
    """Seconds since it was last heard of."""
    software: str = ""
    """amqptasks 0.1.0, or celery 5.5.0."""
    pid: int | None = None
    uptime: float | None = None
    memory: int | None = None
    """The parent's resident memory at its highest."""
    prefetch: int | None = None
    totals: Mapping[str, int] = field(default_factory=dict)
    """Calls started since it began, by task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveCall:
    """A call that a worker runs or holds, as the worker tells it."""

    id: str
    name: str = ""
    args: str = ""
    kwargs: str = ""
    started_at: float | None = None
    """None: it waits."""
    pid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDetail:
    """A worker, asked now. What it did not answer in time is empty, and `message` says so."""

    row: WorkerRow
    active: tuple[ActiveCall, ...] = ()
    reserved: tuple[ActiveCall, ...] = ()
    scheduled: tuple[ActiveCall, ...] = ()
    registered: tuple[str, ...] = ()
    """Its tasks, with their rate limits: `tasks.add [rate_limit=10/s]`."""
    stats: Mapping[str, Any] = field(default_factory=dict)
    """As `inspect stats` answers."""
    conf: Mapping[str, Any] = field(default_factory=dict)
    """Its settings that are not the defaults, secrets masked."""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A call as its events tell it."""

    id: str
    name: str = ""
    state: str = "PENDING"
    at: float = 0.0
    """When its last event was sent."""
    args: str = ""
    """As text, shortened by the sender; so are `kwargs`, `result` and `exception`."""
    kwargs: str = ""
    result: str = ""
    exception: str = ""
    worker: str = ""
    queue: str = ""
    """Told by `task-sent` events only (task_send_sent_event)."""
    retries: int = 0
    runtime: float | None = None
    wait: float | None = None
    """Seconds from sending to starting; from receiving, when nobody told when it was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetail:
    """All that is known of a call. `row` has the short part."""

    row: TaskRow
    traceback: str = ""
    timeline: tuple[tuple[str, float], ...] = ()
    """(state, moment), in order of time."""
    parent: str = ""
    root: str = ""
    children: tuple[str, ...] = ()
    """Ids of calls in memory whose parent this is."""
    exchange: str = ""
    routing_key: str = ""
    eta: str = ""
    expires: str = ""
    received_by: str = ""
    """The node, when it is known that one has it."""
    from_result: bool = False
    """State and result were read from the result backend, since no event told of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """A call in a workflow."""

    id: str
    name: str = ""
    state: str = "PENDING"
    parent: str = ""
    """Empty for the root, and where the parent is not in memory."""
    depth: int = 0
    """Steps from the root."""
    runtime: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The calls of one workflow that are in memory: the root first, parents before children."""

    root: str
    nodes: tuple[GraphNode, ...] = ()
    cut: bool = False
    """Whether there are more than are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterRow:
    """A dead letter."""

    id: str
    """The call's id; without one, the message's. May be empty."""
    task: str = ""
    queue: str = ""
    """The queue that it died in."""
    lies_in: str = ""
    """The queue that it lies in now."""
    reason: str = ""
    """As `DeadLetter.reason`: unknown, crashed, rejected, expired, delivery_limit, lost ..."""
    error: str = ""
    at: float | None = None
    deaths: int = 1
    """How often it has died so far."""
    crashes: int = 0
    node: str = ""
    args: str = ""
    kwargs: str = ""
    retries: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """Some dead letters, the oldest of each queue first."""

    rows: tuple[DeadLetterRow, ...] = ()
    offset: int = 0
    total: int = 0
    """Messages in the queues that were looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """An entry of the leading beat's schedule."""

    name: str
    task: str = ""
    schedule: str = ""
    """As text: ``<crontab: */5 * * * *>``."""
    next_due: float | None = None
    last_due: float | None = None
    paused: bool = False
    added: bool = False
    """Added at run time, so that it can be removed."""
    catch_up: str = ""
    runs: int | None = None
    """Runs sent since the beat leads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulePage:
    """The schedule, or why there is none."""

    rows: tuple[ScheduleRow, ...] = ()
    leader: str = ""
    """Who leads: host and process id. Empty when no beat answers, or an older one."""
    message: str = ""
    """Why nothing is shown: a sentence. Empty when a beat has answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values over time for a chart, the oldest first. All of `values` are as long as `times`."""

    name: str
    unit: str = ""
    """"1/s", "s" or "" (a count)."""
    interval: float = 0.0
    """Seconds between two points."""
    times: tuple[float, ...] = ()
    values: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """By what the line shows: an outcome, "p50", a queue. None: nothing was measured then."""


SERIES = ("throughput", "runtime", "wait", "depth", "workers")
"""Calls a second by outcome; seconds that calls ran (p50, p99); seconds that they waited (p50, p99); ready messages by
queue; workers online, and calls active."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an action: one for each worker that answered, or one of the broker's, without a node."""

    node: str = ""
    ok: bool = True
    text: str = ""
