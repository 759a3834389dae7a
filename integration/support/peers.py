"""Both kinds of worker and both kinds of client on one vhost: what the interoperation tests share."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kombu import pools

from integration.apps import interop_ours, interop_theirs

from .processes import ROOT, CeleryWorker, WorkerProcess

OURS, THEIRS = "integration.apps.interop_ours", "integration.apps.interop_theirs"
LEAN = ("--without-gossip", "--without-mingle", "--without-heartbeat")
"""What a Celery worker can start without."""


@dataclass(frozen=True, slots=True)
class Peers:
    """`ours` and `theirs` are client apps; a worker of ours consumes `ours`, one of Celery's `theirs`."""

    url: str
    ours: Any
    theirs: Any
    our_worker: WorkerProcess
    their_worker: CeleryWorker


@dataclass(frozen=True, slots=True)
class Way:
    """One direction: a client, and the queue of the other side's worker."""

    app: Any
    queue: str
    worker: str
    """What that worker calls itself."""
    process: WorkerProcess | CeleryWorker

    def call(self, task: str, *args: Any, **options: Any) -> Any:
        """Call `interop.<task>`; keyword arguments are options. Return the result's handle."""
        return self.app.send_task(f"interop.{task}", args, **{"queue": self.queue} | options)

    def signature(self, task: str, *args: Any, **kwargs: Any) -> Any:
        return self.app.signature(f"interop.{task}", args, kwargs).set(queue=self.queue)


def printed_queues(broker_url: str, folder: Path, app: str = OURS) -> str:
    """Run `amqptasks queues --celery` and return the file with what it printed."""
    command = [sys.executable, "-m", "amqptasks", "-A", app, "-b", broker_url, "queues", "--celery"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    file = folder / "celery_queues.py"
    file.write_text(answer.stdout)
    return str(file)


def close_celery(app: Any) -> None:
    """Close every connection that a Celery client has opened; its own `close` leaves that of its results."""
    consumer = app.backend.result_consumer
    if consumer._consumer is not None:
        consumer.stop()
    app.close()
    pools.reset()


@contextmanager
def working(broker_url: str, folder: Path) -> Iterator[Peers]:
    """Start both workers and open both clients."""
    queues = printed_queues(broker_url, folder)
    their_worker = CeleryWorker(
        THEIRS, "-Q", "theirs", "-c", "2", *LEAN,
        log=folder / "celery.log", broker_url=broker_url, env={"INTEROP_QUEUES": queues},
    )  # fmt: skip
    our_worker = WorkerProcess(OURS, "-c", "2", log=folder / "ours.log", broker_url=broker_url)
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(lambda worker: worker.start(), (our_worker, their_worker)))
    with our_worker, their_worker, interop_ours.make(broker_url) as ours:
        theirs = interop_theirs.make(broker_url, queues)
        yield Peers(broker_url, ours, theirs, our_worker, their_worker)
        close_celery(theirs)
        their_worker.end()  # its warm shutdown takes seconds, and is not ours to test


@pytest.fixture(scope="module")
def peers(broker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    """Both workers, started once for the module."""
    with working(broker_url, tmp_path_factory.mktemp("peers")) as both:
        yield both


@pytest.fixture(params=["from_celery", "to_celery"])
def way(request: pytest.FixtureRequest, peers: Peers) -> Way:
    """Celery's client calling our worker, then our client calling Celery's."""
    if request.param == "from_celery":
        return Way(peers.theirs, "ours", "amqptasks", peers.our_worker)
    return Way(peers.ours, "theirs", "celery", peers.their_worker)
