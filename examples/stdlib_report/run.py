"""A real job on real input: measure Python's standard library through RabbitMQ, and check the answer without it.

    python run.py            needs a broker at AMQPTASKS_BROKER_URL (default amqp://guest@localhost//)

Two worker groups are started from the command line, one for each queue; every module becomes a short task, every
package a long one; results come back over rpc. The same computation in this process has to give the same report.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import analysis
import drawing
from stdlib_tasks import app, read_module, squeeze

from amqptasks import AsyncResult, GroupResult

HERE = Path(__file__).resolve().parent
GROUPS = {"short": 2, "long": 1}
DEADLINE = 300.0


def main() -> int:
    modules, packages = analysis.modules(), analysis.packages()
    print(f"{len(modules)} modules on queue short, {len(packages)} packages on queue long")
    with tempfile.TemporaryDirectory() as logs, workers(Path(logs)):
        began = time.monotonic()
        with app.batch():
            squeezed = [squeeze.delay(name) for name in packages]
            measured = [read_module.delay(name) for name in modules]
        sent = time.monotonic() - began
        print(f"{len(modules) + len(packages)} tasks sent and confirmed in {sent:.2f} s")
        answers = gather([*measured, *squeezed])
        took = time.monotonic() - began
    found = [answers[result.id] for result in measured], [answers[result.id] for result in squeezed]

    print(f"all results after {took:.1f} s\n")
    print(drawing.table(*found))
    picture = Path("stdlib_report.svg")
    picture.write_text(drawing.plot(found[1]), encoding="utf-8")
    print(f"\nplot: {picture}")
    return check(found, modules, packages)


@contextmanager
def workers(logs: Path) -> Iterator[None]:
    """Both worker groups, started as one would in a terminal, stopped by SIGTERM."""
    running = []
    for queue, size in GROUPS.items():
        command = [
            "-m",
            "amqptasks",
            "-A",
            "stdlib_tasks",
            "worker",
            "-Q",
            queue,
            "-c",
            str(size),
            "-n",
            f"{queue}@%h",
        ]
        print("$ amqptasks " + " ".join(command[2:]))
        with (logs / f"{queue}.log").open("wb") as log:
            running.append(subprocess.Popen([sys.executable, *command], cwd=HERE, stdout=log, stderr=log))
    try:
        yield
    finally:
        for process in running:
            process.terminate()
        codes = [process.wait(timeout=30) for process in running]
        if any(codes):
            sys.stderr.write("".join((logs / f"{queue}.log").read_text() for queue in GROUPS))
            raise SystemExit(f"workers ended with {codes}")


def gather(results: Sequence[AsyncResult[Any]]) -> dict[str, Any]:
    """Collect every result as it arrives, drawing progress."""
    answers: dict[str, Any] = {}
    for task_id, meta in GroupResult("stdlib", list(results)).iter_native(timeout=DEADLINE):
        if meta["status"] != "SUCCESS":
            raise SystemExit(f"{task_id}: {meta['result']!r}")
        answers[task_id] = meta["result"]
        progress(len(answers), len(results))
    return answers


def progress(done: int, total: int) -> None:
    if sys.stdout.isatty():
        print(
            f"\r{'#' * (40 * done // total):<40} {done}/{total}",
            end="\n" if done == total else "",
            flush=True,
        )
    elif done % max(1, total // 4) == 0 or done == total:
        print(f"{done}/{total}", flush=True)


def check(found: tuple[list[Any], list[Any]], modules: Sequence[str], packages: Sequence[str]) -> int:
    began = time.monotonic()
    wanted = (
        [analysis.measure_module(name) for name in modules],
        [analysis.squeeze_package(name) for name in packages],
    )
    if found != wanted:
        print("the queue's answer DIFFERS from the one computed here")
        return 1
    print(f"checked: the same report in one process without the queue ({time.monotonic() - began:.1f} s)")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
