"""What is measured: one small function a row, the same for every contender."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import wire
from bench import Bench
from contenders import Contender
from contenders.base import environment
from mode import Mode
from monitoring import MONITORING
from row import QUEUE, RATE, Figure, Measured, Row
from workflows import WORKFLOWS

# --- publishing ------------------------------------------------------------------------------------------


def publish(what: str, quick: int, full: int) -> Callable[[Bench, Contender, Mode], Measured]:
    def measure(bench: Bench, contender: Contender, mode: Mode) -> Measured:
        bench.empty(QUEUE)
        if what == "batch" and not contender.has_batches:
            return measure_one(bench, contender, mode)
        count = bench.size(quick, full) // 16 * 16
        return {"rate": count / bench.client(contender, mode, what, count)["seconds"]}

    return measure


measure_one = publish("send", 500, 3000)


def limit_one(bench: Bench, mode: Mode) -> Measured:
    sample = _own_template(bench, mode)
    count = bench.size(500, 3000)
    return {"rate": count / wire.pika_one_by_one(bench.url, QUEUE, sample, count)}


def limit_push(bench: Bench, mode: Mode) -> Measured:
    sample = _own_template(bench, mode)
    count = bench.size(5000, 20_000)
    return {"rate": count / wire.push(bench.url, sample.prebuilt(count), count)}


def _own_template(bench: Bench, mode: Mode) -> wire.Template:
    from contenders import CONTENDERS

    return bench.template(CONTENDERS["amqptasks"], mode)


# --- draining --------------------------------------------------------------------------------------------

DRAIN = (
    RATE,
    Figure("cpu_parent", "processor, parent", "us a task"),
    Figure("cpu_children", "processor, children", "us a task"),
    Figure("cpu_broker", "processor, RabbitMQ", "us a task"),
    Figure("memory_parent", "memory, parent", "MiB"),
    Figure("memory_children", "memory, children", "MiB"),
    Figure("memory", "memory, together", "MiB"),
)


def drain(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    count = bench.size(4000, 10_000)
    bench.fill(contender, mode, count)
    return _drained(bench, contender, mode, count)


def _drained(bench: Bench, contender: Contender, mode: Mode, count: int) -> Measured:
    """Rate from the first task to the last; processor time from the first look that finds one, to the last."""
    with bench.worker(contender, mode) as worker:
        before, _, _ = worker.wait(lambda done: done > 0)
        cpu, broker = worker.cpu(), bench.broker_cpu()
        done, first, last = worker.wait(lambda done: done >= count)
        parent, children = (after - was for after, was in zip(worker.cpu(), cpu, strict=True))
        used = bench.broker_cpu()
        memory = worker.memory()
    each = 1e6 / max(1, done - before)
    measured = {
        "rate": (done - 1) / (last - first),
        "cpu_parent": parent * each,
        "cpu_children": children * each,
        "memory_parent": memory[0],
        "memory_children": memory[1],
        "memory": sum(memory),
    }
    if broker is not None and used is not None:
        measured["cpu_broker"] = (used - broker) * each
    return measured


def limit_read(bench: Bench, mode: Mode) -> Measured:
    from contenders import CONTENDERS

    count = bench.size(4000, 10_000)
    bench.fill(CONTENDERS["amqptasks"], mode, count)
    return {"rate": count / wire.read(bench.url, QUEUE, count)}


# --- calling ---------------------------------------------------------------------------------------------


def call(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    bench.empty(QUEUE)
    with bench.worker(contender, mode):
        times = bench.client(contender, mode, "call", bench.size(300, 1000))
    return {name: seconds * 1000 for name, seconds in times.items()}


def limit_echo(bench: Bench, mode: Mode) -> Measured:
    _own_template(bench, mode)
    times = wire.echo(bench.url, QUEUE, bench.size(300, 1000))
    return {"p50": 1000 * times[len(times) // 2], "p99": 1000 * times[int(len(times) * 0.99)]}


def group(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    bench.empty(QUEUE)
    with bench.worker(contender, mode):
        return {"rate": 1000 / bench.client(contender, mode, "group", 1000)["seconds"]}


def gather(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    bench.empty(QUEUE)
    count = bench.size(2000, 10_000)
    with bench.worker(contender, mode):
        return {"rate": count / bench.client(contender, mode, "gather", count)["seconds"]}


def mix(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """How long short tasks wait beside long ones, sixty tasks arriving a second."""
    bench.empty(QUEUE)
    count = bench.size(400, 900)
    bench.client(contender, mode, "send", 0)  # one no-op: the worker is ready when it has run
    with bench.worker(contender, mode) as worker:
        worker.wait(lambda done: done >= 1)
        bench.client(contender, mode, "mix", count)
        worker.wait(lambda done: done >= count + 1)
        waits = sorted(1000 * wait for wait in worker.counter.waits())
    return {"p50": waits[len(waits) // 2], "p99": waits[int(len(waits) * 0.99)], "most": waits[-1]}


# --- waiting ---------------------------------------------------------------------------------------------

LATE = (
    Figure("published", "published", "/s", more_is_better=True),
    Figure("rate", "run (2,000 a second are due)", "/s", more_is_better=True),
    Figure("grown", "memory that those waiting cost the worker", "MiB"),
    Figure("p50", "late, p50", "ms"),
    Figure("p99", "late, p99", "ms"),
)


def late(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """Delayed tasks, published while a worker runs: what it makes of them until the first is due, and after."""
    count = bench.size(2000, 100_000)
    bench.empty(QUEUE)
    bench.client(contender, mode, "send", 0)  # one no-op: the worker is ready when it has run
    with bench.worker(contender, mode) as worker:
        worker.wait(lambda done: done >= 1)
        before = sum(worker.memory())
        sent = bench.client(contender, mode, "late", count, timeout=900)
        early = int(sent["early"])
        most = sum(worker.memory())
        hold = max(0.0, sent["begin"] - time.monotonic())
        worker.wait(lambda done: done > early + 1, hold + 60)
        most = max(most, sum(worker.memory()))
        _, _, last = worker.wait(lambda done: done >= early + count + 1, 60)
        waits = sorted(1000 * wait for wait in worker.counter.waits()[early:])
    return {
        "published": count / sent["seconds"],
        "rate": count / (last - sent["begin"]),
        "grown": max(0.0, most - before),
        "p50": waits[len(waits) // 2],
        "p99": waits[int(len(waits) * 0.99)],
    }


def retries(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """A queue full of tasks that fail twice each: until the last has succeeded."""
    count = bench.size(500, 10_000)
    bench.empty(QUEUE)
    bench.client(contender, mode, "failing", count)
    with bench.worker(contender, mode) as worker:
        _, first, last = worker.wait(lambda done: done >= 3 * count)
        return {"seconds": last - first, "memory_parent": worker.memory()[0]}


def waiting(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """Tasks that only wait, a tenth of a second each; marked when they start and when they end."""
    bench.empty(QUEUE)
    bench.client(contender, mode, "send", 0)
    with bench.worker(contender, mode) as worker:
        worker.wait(lambda done: done >= 1)
        began = bench.client(contender, mode, "waiting", 1000)["began"]
        _, _, last = worker.wait(lambda done: done >= 2001)
        return {"seconds": last - began, "memory": sum(worker.memory())}


# --- starting and growing --------------------------------------------------------------------------------


def start(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """Until the version is printed; until a worker runs its first task, which waits in the queue."""
    began = time.perf_counter()
    subprocess.run(contender.version(), env=environment(mode), capture_output=True, check=True)
    version = time.perf_counter() - began
    bench.empty(QUEUE)
    bench.client(contender, mode, "send", 0)
    with bench.worker(contender, mode) as worker:
        _, first, _ = worker.wait(lambda done: done >= 1)
        return {"version": 1000 * version, "ready": 1000 * (first - worker.began)}


def grow(bench: Bench, contender: Contender, mode: Mode) -> Measured:
    """The first tasks of a short queue and of a long one: what depends on how much is queued."""
    run, few, many = bench.size(2000, 5000), bench.size(4000, 10_000), bench.size(20_000, 300_000)
    measured: Measured = {}
    for key, queued in (("few", few), ("many", many)):
        bench.fill(contender, mode, queued)
        result = _drained(bench, contender, mode, run)
        measured |= {f"rate_{key}": result["rate"], f"memory_{key}": result["memory"]}
    bench.empty(QUEUE)
    return measured


WAITING = (Figure("seconds", "sent and done", "s"), Figure("memory", "memory", "MiB"))

WAITS = (
    Figure("p50", "p50", "ms"),
    Figure("p99", "p99", "ms"),
)

ROWS = (
    Row(
        "publish.one", "publishing one by one, confirmed", (RATE,), {}, publish("send", 500, 3000), limit_one
    ),
    Row(
        "publish.one.defaults",
        "publishing one by one, everyone's defaults (only amqptasks confirms)",
        (RATE,),
        {"results": True},
        measure_one,
        peers_mode={"confirmed": False},
    ),
    Row(
        "publish.batch",
        "publishing in batches, confirmed",
        (RATE,),
        {},
        publish("batch", 4000, 20_000),
        limit_push,
    ),
    Row(
        "publish.batch.defaults",
        "publishing in batches, everyone's defaults (only amqptasks confirms)",
        (RATE,),
        {"results": True},
        publish("batch", 4000, 20_000),
        peers_mode={"confirmed": False},
    ),
    Row(
        "publish.threads",
        "publishing from 16 threads, confirmed",
        (RATE,),
        {},
        publish("threads", 1600, 9600),
    ),
    Row(
        "drain.defaults",
        "draining, everyone's defaults (only amqptasks has results, confirmed)",
        DRAIN,
        {"results": True},
        drain,
        limit_read,
        peers_mode={"confirmed": False},
    ),
    Row("drain.early", "draining, early ack, no results", DRAIN, {"confirmed": False}, drain, limit_read),
    Row(
        "drain.early.results",
        "draining, early ack, results",
        DRAIN,
        {"results": True, "confirmed": False},
        drain,
    ),
    Row("drain.late", "draining, late ack, no results", DRAIN, {"late": True, "confirmed": False}, drain),
    Row(
        "drain.late.results",
        "draining, late ack, results",
        DRAIN,
        {"late": True, "results": True, "confirmed": False},
        drain,
    ),
    Row(
        "drain.prefetch128",
        "draining, prefetch 128 for each",
        DRAIN,
        {"prefetch": 128, "confirmed": False},
        drain,
    ),
    Row(
        "rpc.quorum",
        "round trip, quorum queue",
        WAITS,
        {"results": True, "queue_type": "quorum", "confirmed": False},
        call,
        limit_echo,
    ),
    Row(
        "rpc.classic",
        "round trip, classic queue",
        WAITS,
        {"results": True, "queue_type": "classic", "confirmed": False},
        call,
        limit_echo,
    ),
    Row("group", "group of 1,000 with results", (RATE,), {"results": True, "confirmed": False}, group),
    *WORKFLOWS,
    *MONITORING,
    Row(
        "aio",
        "10,000 calls by as many coroutines, results gathered",
        (RATE,),
        {"results": True, "confirmed": False},
        gather,
    ),
    Row(
        "mix",
        "1 % one-second tasks among short ones: a short one waits",
        (*WAITS, Figure("most", "longest", "ms")),
        {"confirmed": False},
        mix,
    ),
    Row("delayed", "100,000 delayed tasks", LATE, {"confirmed": False}, late),
    Row(
        "retries",
        "10,000 tasks that fail twice, tried again after a second",
        (Figure("seconds", "all done", "s"), Figure("memory_parent", "memory, parent", "MiB")),
        {"confirmed": False},
        retries,
    ),
    Row(
        "waiting.threads",
        "1,000 tasks that wait 100 ms, 100 threads",
        WAITING,
        {"confirmed": False, "pool": "threads", "slots": 100},
        waiting,
    ),
    Row(
        "waiting.asyncio",
        "1,000 coroutines that wait 100 ms, 500 at a time",
        WAITING,
        {"confirmed": False, "pool": "asyncio", "slots": 500},
        waiting,
    ),
    Row(
        "start",
        "start",
        (Figure("version", "`--version`", "ms"), Figure("ready", "worker to its first task", "ms")),
        {"confirmed": False},
        start,
    ),
    Row(
        "growth",
        "growth: the first tasks of a short queue (10,000) and of a long one (300,000)",
        (
            Figure("rate_few", "short", "/s", more_is_better=True),
            Figure("rate_many", "long", "/s", more_is_better=True),
            Figure("memory_few", "short, memory", "MiB"),
            Figure("memory_many", "long, memory", "MiB"),
        ),
        {"confirmed": False},
        grow,
    ),
)
