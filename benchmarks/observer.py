"""What watching costs: the processor time of an observer (of the dashboard, of `amqptasks top`) under a load of events.

    python benchmarks/observer.py amqp://guest@localhost// [--rate 5000] [--seconds 20] [--workers 4] [--top]

Events are published as our workers send them: gathered for 50 ms (`batches`), by some workers; and one by one, as
clients send `task-sent` and as other senders do (`singles`). The observer is a process of its own; `--top` has it draw
frames of `amqptasks top` for a terminal of 120 columns, too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pika

WORKERS = 4
GATHERED = 0.05
"""Seconds of events in a batch, as in `amqptasks.worker.eventing`."""
FORMS = ("batches", "singles")
EXCHANGE = "celeryev"
WARM_UP = 3.0
"""Seconds until sampling has settled, which are not measured."""


def events(node: str) -> Iterator[dict[str, Any]]:
    """The events of short calls, one call after the other, for ever."""
    clock = 0
    base = {"hostname": node, "pid": 4242, "utcoffset": 0.0}
    while True:
        id = str(uuid.uuid4())
        received = {
            "name": "shop.orders.confirm", "args": "(123456, 'someone@example.org')", "kwargs": "{'notify': True}",
            "root_id": id, "parent_id": None, "retries": 0, "eta": None, "expires": None,
        }  # fmt: skip
        told = (
            ("received", received),
            ("started", {}),
            ("succeeded", {"result": "'confirmed'", "runtime": 0.0123}),
        )
        for kind, fields in told:
            clock += 1
            yield {
                "type": f"task-{kind}",
                "timestamp": time.time(),
                "clock": clock,
                "uuid": id,
                **base,
                **fields,
            }


def heartbeat(node: str, processed: int) -> dict[str, Any]:
    return {
        "type": "worker-heartbeat", "timestamp": time.time(), "hostname": node, "pid": 4242, "utcoffset": 0.0,
        "clock": 1, "freq": 2.0, "active": 4, "processed": processed, "loadavg": [1.0, 1.0, 1.0],
        "sw_ident": "amqptasks", "sw_ver": "1", "sw_sys": "Linux",
    }  # fmt: skip


def publish(url: str, form: str, rate: float, seconds: float, workers: int) -> int:
    """Publish events at a steady rate; return how many."""
    nodes = [f"w{number}@bench" for number in range(1, workers + 1)]
    sources = {node: events(node) for node in nodes}
    properties = pika.BasicProperties(
        content_type="application/json", content_encoding="utf-8", delivery_mode=1
    )
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        start = beat = time.monotonic()
        sent = 0
        while (now := time.monotonic()) < start + seconds:
            due = int((now - start) * rate)
            for node in nodes:
                told = [next(sources[node]) for _ in range((due - sent) // workers)]
                if form == "batches" and told:
                    channel.basic_publish(EXCHANGE, "task.multi", json.dumps(told).encode(), properties)
                for event in told if form == "singles" else ():
                    key = event["type"].replace("-", ".")
                    channel.basic_publish(EXCHANGE, key, json.dumps(event).encode(), properties)
            sent += (due - sent) // workers * workers
            if now >= beat:
                beat = now + 2.0
                for node in nodes:
                    told_beat = json.dumps(heartbeat(node, sent // 3 // workers)).encode()
                    channel.basic_publish(EXCHANGE, "worker.heartbeat", told_beat, properties)
            connection.sleep(max(0.0, now + GATHERED - time.monotonic()))
        return sent


def watch(url: str, seconds: float, *, top: bool) -> None:
    """Be the observer: print what it used, as JSON, after so many seconds."""
    from amqptasks import App
    from amqptasks.monitor.observer import Observer

    app = App("bench", broker=url, set_as_current=False)
    draw = _screen() if top else None
    with Observer(app, management_url="") as observer:
        while not observer.overview().connected:
            time.sleep(0.01)
        print("watching", flush=True)
        time.sleep(WARM_UP)
        before, start = used(), time.monotonic()
        while time.monotonic() < start + seconds:
            time.sleep(1.0)
            if draw is not None:
                draw(observer)
        overview = observer.overview()
        print(
            json.dumps(
                {
                    "cpu": 100 * (used() - before) / (time.monotonic() - start),
                    "seen": overview.events,
                    "sampled": overview.sampled,
                    "dropped": overview.dropped,
                    "started": overview.rates.get("started"),
                    "kept": sum(overview.states.values()),
                    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                }
            )
        )


def _screen() -> Any:
    from amqptasks.cli.screen import View, frame
    from amqptasks.cli.top import gathered

    return lambda observer: frame(gathered(observer), View(), 120, 40, coloured=True)


def used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def measured(
    url: str, form: str, rate: float, seconds: float, *, workers: int = WORKERS, top: bool = False
) -> dict[str, Any]:
    """Return what an observer used while events of one form came in: `cpu` in percent of a core, and what it saw."""
    command = [
        sys.executable,
        __file__,
        url,
        "--watch",
        "--seconds",
        str(seconds),
        *(["--top"] if top else []),
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as observer:
        assert observer.stdout is not None
        observer.stdout.readline()
        sent = publish(url, form, rate, seconds + WARM_UP + 0.5, workers) if rate else 0
        told = json.loads(observer.stdout.readline())
    return {"rate": sent / (seconds + WARM_UP + 0.5), **told}


def observer(bench: Any, _contender: Any, _mode: Any) -> dict[str, float]:
    """The row of the benchmark: percent of a core, by the form of the events."""
    seconds = bench.size(3, 20)
    told = {form: measured(bench.url, form, 5000.0, seconds, top=True) for form in FORMS}
    figures = {form: each["cpu"] for form, each in told.items()}
    return figures | {"memory": max(each["memory"] for each in told.values())}


def main(given: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument(
        "--rate", type=float, default=5000.0, metavar="EVENTS", help="a second (default: %(default)g)"
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="that are measured (default: %(default)g)"
    )
    parser.add_argument("--workers", type=int, default=WORKERS, help="that send them (default: %(default)s)")
    parser.add_argument("--top", action="store_true", help="draw a frame of `amqptasks top` each second, too")
    parser.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.watch:
        watch(options.url, options.seconds, top=options.top)
        return
    for form, rate in (("idle", 0.0), *((form, options.rate) for form in FORMS)):
        told = measured(options.url, form, rate, options.seconds, workers=options.workers, top=options.top)
        print(
            f"{form:8} {told['rate']:7.0f} events/s: {told['cpu']:5.2f} % of a core, {told['memory']:.0f} MiB; "
            f"took in {told['seen']:.0f}/s, keeps 1 of {told['sampled']}"
            f"{', the broker drops the rest' if told['dropped'] else ''}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
