"""The rows of events and remote control: what it costs to be watched."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pika
from bench import Bench
from contenders import Contender
from contenders.base import FOLDER, environment
from mode import Mode
from names import names
from observer import observer
from row import Figure, Measured, Row

EXCHANGE = "celeryev"
LISTENER = "bench.events"
KINDS = ("task-received", "task-started", "task-succeeded")
SETTLED = 0.2
"""Seconds after the last task in which its events are sent; counted for both."""


@contextmanager
def _listened(url: str) -> Iterator[Callable[[], int]]:
    """A queue that takes every event, as a monitor's would; what counts the tasks' events in it, and empties it."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        channel.queue_declare(LISTENER, exclusive=True)
        channel.queue_bind(LISTENER, EXCHANGE, "#")

        def count() -> int:
            events = 0
            while (body := channel.basic_get(LISTENER, auto_ack=True)[2]) is not None:
                told = json.loads(body)
                told = told if isinstance(told, list) else [told]
                events += sum(event["type"] in KINDS for event in told)
            return events

        yield count


def drain_events(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """Drained without, with, with, without: what disturbs the machine for a while disturbs both."""
    count = bench.size(4000, 10_000)
    used = {False: [0.0] * 4, True: [0.0] * 4}
    told = 0
    with _listened(bench.url) as heard:
        for events in (False, True, True, False):
            watched = replace(mode, events=events)
            bench.fill(contender, watched, count)
            heard()
            figures = _drained(bench, contender, watched, count)
            told += heard()
            used[events] = [a + b for a, b in zip(used[events], figures, strict=True)]
    measured: Measured = {}
    for key, events in (("without", False), ("with", True)):
        seconds, parent, children, broker = (each * 1e6 / (2 * count) for each in used[events])
        measured |= {
            f"rate_{key}": 1e6 / seconds,
            f"parent_{key}": parent,
            f"children_{key}": children,
            f"broker_{key}": broker,
            f"cpu_{key}": parent + children + broker,
        }
    measured["told"] = 100 * told / (2 * count * len(KINDS))
    measured["cost"] = 100 * (1 - measured["cpu_without"] / measured["cpu_with"])
    return measured


def _drained(bench: Bench, contender: Contender, mode: Mode, count: int) -> tuple[float, ...]:
    """Seconds from the first task to the last; of the processor, from the first look to the last event."""
    with bench.worker(contender, mode) as worker:
        before, _, _ = worker.wait(lambda done: done > 0)
        cpu, broker = worker.cpu(), bench.broker_cpu() or 0.0
        _, first, last = worker.wait(lambda done: done >= count)
        time.sleep(SETTLED)
        parent, children = (after - was for after, was in zip(worker.cpu(), cpu, strict=True))
        broker = (bench.broker_cpu() or 0.0) - broker
    share = count / max(1, count - before)
    return last - first, parent * share, children * share, broker * share


# --- many workers ----------------------------------------------------------------------------------------

SIZES = (50, 100, 200)
WINDOW = 6.0
"""Seconds that are measured: three heartbeats of each."""
PINGED = 50


@contextmanager
def _fleet(bench: Bench, mode: Mode, *sizes: int) -> Iterator[Iterator[dict[str, float]]]:
    """Workers without tasks, in a process of their own; what they tell and hear at each size, as it is reached."""
    command = [sys.executable, str(FOLDER / "fleet.py"), str(WINDOW), *map(str, sizes)]
    env = environment(mode) | {"AMQPTASKS_BROKER_URL": bench.url}
    with subprocess.Popen(
        command, env=env, cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield map(json.loads, process.stdout)
            process.stdin.close()
            process.wait(60)
        finally:
            process.kill()


def fleet(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """Idle workers, more and more of them: what goes over all their connections."""
    measured: Measured = {}
    sizes = SIZES[: bench.size(1, len(SIZES))]
    with _fleet(bench, mode, *sizes) as told:
        for size in sizes:
            counted = next(told, None)
            if counted is None:
                raise RuntimeError(f"the fleet did not grow to {size}")
            for key in ("published", "delivered", "processor"):
                measured[f"{key}_{size}"] = counted[key]
    return measured


def ping(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """Until the last of 50 workers of ours has answered, asked by name; Celery's own client asks the same ones."""
    with _fleet(bench, mode, PINGED) as told:
        if next(told, None) is None:
            raise RuntimeError("the fleet did not start")
        times = bench.client(contender, mode, "ping", PINGED, rounds=bench.size(5, 20))
        began = time.perf_counter()
        subprocess.run(
            contender.ping(names(PINGED)), env=environment(mode), cwd=FOLDER, capture_output=True, check=True
        )
        command = time.perf_counter() - began
    return {name: 1000 * seconds for name, seconds in times.items()} | {"command": 1000 * command}


_EVENTS = (
    Figure("rate_without", "without events", "/s", more_is_better=True),
    Figure("rate_with", "with events", "/s", more_is_better=True),
    Figure("cpu_without", "processor, without", "us a task"),
    Figure("cpu_with", "processor, with", "us a task"),
    Figure("parent_with", "parent, with", "us a task"),
    Figure("children_with", "children, with", "us a task"),
    Figure("broker_with", "RabbitMQ, with", "us a task"),
    Figure("told", "events that came", "%"),
    Figure("cost", "throughput that events cost, by processor time", "%"),
)

_PING = (
    Figure("first", "the first, which connects", "ms"),
    Figure("p50", "p50", "ms"),
    Figure("most", "slowest", "ms"),
    Figure("command", "the command, from its start to its end", "ms"),
)
_OBSERVER = (
    Figure("batches", "processor, in batches", "% of a core"),
    Figure("singles", "processor, one by one", "% of a core"),
    Figure("memory", "memory", "MiB"),
)

MONITORING = (
    Row(
        "drain.events",
        "draining, everyone's defaults: every task told to monitors",
        _EVENTS,
        {"results": True},
        drain_events,
        peers_mode={"confirmed": False},
        monitored=True,
    ),
    Row(
        "drain.events.early",
        "draining, early ack, no results: every task told to monitors",
        _EVENTS,
        {"confirmed": False},
        drain_events,
        monitored=True,
    ),
    Row(
        "ping",
        f"`inspect ping` of {PINGED} workers of amqptasks, by each one's client",
        _PING,
        {"confirmed": False},
        ping,
        monitored=True,
    ),
    Row(
        "fleet",
        "idle workers: what goes over all their connections",
        tuple(
            Figure(f"{key}_{size}", f"{size} workers, {title}", unit)
            for key, title, unit in (
                ("published", "published", "/s"),
                ("delivered", "delivered", "/s"),
                ("processor", "processor of all", "%"),
            )
            for size in SIZES
        ),
        {"confirmed": False},
        fleet,
        monitored=True,
        alone=True,
    ),
    Row(
        "observer",
        "an observer under 5,000 events a second, drawing `top`",
        _OBSERVER,
        {"confirmed": False},
        observer,
        alone=True,
    ),
)
