"""The rows of events and remote control: what it costs to be watched."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

import pika
from bench import Bench
from contenders import Contender
from contenders.base import FOLDER, environment
from mode import Mode
from names import names
from observer import observer
from pika.adapters.blocking_connection import BlockingChannel
from row import Figure, Measured, Row

EXCHANGE = "celeryev"
ASKING = "celery.pidbox"
LISTENER = "bench.events"
ENDED = "task-succeeded"
STRETCH = 0.5
"""Seconds that are measured; then events are switched on or off."""
SWITCHED = 0.2
"""Seconds after a switch that are not measured: it, and what was gathered before, are on their way."""
STRETCHES = 20


class _Monitor:
    """A queue that takes every event, as a monitor's would; it switches them on and off as a monitor does."""

    def __init__(self, channel: BlockingChannel) -> None:
        self._channel = channel
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        channel.queue_declare(LISTENER, exclusive=True)
        channel.queue_bind(LISTENER, EXCHANGE, "#")

    def switch(self, *, on: bool) -> None:
        """From now on, and forget what was told: what lies in the queue for long costs the broker more and more."""
        asked = {"method": "enable_events" if on else "disable_events", "arguments": {}, "destination": None}
        kind = pika.BasicProperties(content_type="application/json", content_encoding="utf-8")
        self._channel.basic_publish(ASKING, "", json.dumps(asked), kind)
        self._channel.queue_purge(LISTENER)

    def heard(self) -> int:
        """Tasks that were told to have succeeded since the last look."""
        ended = 0
        while (body := self._channel.basic_get(LISTENER, auto_ack=True)[2]) is not None:
            told = json.loads(body)
            ended += sum(event["type"] == ENDED for event in (told if isinstance(told, list) else [told]))
        return ended


@contextmanager
def _monitor(url: str) -> Iterator[_Monitor]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        yield _Monitor(connection.channel())


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    done: int
    used: tuple[float, float, float]
    """Seconds of the processor: parent, children, broker."""

    def since(self, before: _Look) -> tuple[float, ...]:
        """Tasks a second, and microseconds a task of each."""
        count = max(1, self.done - before.done)
        each = (1e6 * (now - was) / count for now, was in zip(self.used, before.used, strict=True))
        return (count / (self.at - before.at), *each)


def drain_events(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """One worker drains, its events switched on and off: what disturbs the machine for a while disturbs both."""
    count, stretches = bench.size(80_000, 320_000), bench.size(4, STRETCHES)
    figures: dict[bool, list[tuple[float, ...]]] = {False: [], True: []}
    bench.fill(contender, mode, count)
    with _monitor(bench.url) as monitor, bench.worker(contender, mode) as worker:

        def look() -> _Look:
            done = worker.counter.read()[0]
            return _Look(time.monotonic(), done, (*worker.cpu(), bench.broker_cpu() or 0.0))

        worker.wait(lambda done: done > count // 100)
        for number in range(stretches):
            on = number % 4 in (1, 2)
            monitor.switch(on=on)
            time.sleep(SWITCHED)
            before = look()
            time.sleep(STRETCH)
            after = look()
            if after.done >= count:
                break
            figures[on].append(after.since(before))
    measured: Measured = {"told": _told(bench, contender, mode)}
    for key, on in (("without", False), ("with", True)):
        rate, parent, children, broker = (median(each) for each in zip(*figures[on], strict=True))
        measured |= {
            f"rate_{key}": rate,
            f"parent_{key}": parent,
            f"children_{key}": children,
            f"broker_{key}": broker,
            f"cpu_{key}": median(sum(each[1:]) for each in figures[on]),
        }
    measured["cost"] = 100 * (1 - measured["cpu_without"] / measured["cpu_with"])
    return measured


def _told(bench: Bench, contender: Contender, mode: Mode) -> float:
    """Percent of the tasks that are told to have succeeded, by a worker that tells of all."""
    count = bench.size(4000, 20_000)
    watched = replace(mode, events=True)
    bench.fill(contender, watched, count)
    with _monitor(bench.url) as monitor:
        with bench.worker(contender, watched) as worker:
            worker.wait(lambda done: done >= count)
        return 100 * monitor.heard() / count


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
