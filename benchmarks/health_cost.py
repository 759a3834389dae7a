"""What a health port costs a worker: processor time of its parent for a drained no-op task, with and without.

    python scripts/broker.py run -- python benchmarks/health_cost.py [tasks] [rounds]

Rounds alternate, so that a busy machine is busy for both. `probed` is asked /livez, /readyz and /metrics once a second,
fifteen times as often as Prometheus asks.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from amqptasks import App

ROOT = Path(__file__).resolve().parents[1]
TICK = os.sysconf("SC_CLK_TCK")
PROBES = ("/livez", "/readyz", "/metrics")
KINDS = ("without", "with", "probed")

app = App("cost", broker=os.environ.get("AMQPTASKS_BROKER_URL", "memory://"))


@app.task(name="cost.nothing", ignore_result=True)
def nothing() -> None:
    """Take no time."""


def spent(pid: int) -> float:
    """Processor seconds of a process, its children not counted."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def ready_messages() -> int:
    """Of the queue."""
    from amqptasks.amqp import Queue

    return app.connection.declare(Queue("amqptasks"), passive=True)[0].messages


def drained(kind: str, tasks: int) -> float:
    """Microseconds of the parent for a task."""
    with app.batch():
        for _ in range(tasks):
            nothing.delay()
    port = free_port()
    options = [] if kind == "without" else ["--health-port", str(port)]
    command = [
        sys.executable,
        "-m",
        "amqptasks",
        "-A",
        "benchmarks.health_cost",
        "worker",
        "-c",
        "2",
        *options,
    ]
    with tempfile.NamedTemporaryFile("w") as said:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        worker = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=said)
        try:
            while " ready" not in Path(said.name).read_text():
                time.sleep(0.01)
            began, probed = spent(worker.pid), time.monotonic()
            while ready_messages():
                time.sleep(0.05)
                if kind == "probed" and time.monotonic() - probed >= 1:
                    probed = time.monotonic()
                    for path in PROBES:
                        urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10).read()
            time.sleep(0.5)
            return (spent(worker.pid) - began) / tasks * 1e6
        finally:
            worker.terminate()
            worker.wait(30)


def free_port() -> int:
    """Of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def main() -> None:
    """Print the medians."""
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            found[kind].append(drained(kind, tasks))
    for kind, values in found.items():
        print(
            f"{kind:8} {statistics.median(values):6.1f} us a task  ({min(values):.1f} to {max(values):.1f})"
        )
    app.close()


if __name__ == "__main__":
    main()
