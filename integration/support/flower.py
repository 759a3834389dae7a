"""The real Flower as a process, and what it watches: two workers of ours, a store of results, a client.

Knows Flower's command line and its HTTP API; what its answers must be is the tests' business.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from broker import PrivateNode, free_ports

from amqptasks import App

from .processes import Process, WorkerProcess
from .stores import Redis, store_of
from .waiting import wait_until

APP = "integration.apps.flower_tasks"
NAMES = "integration.apps.flower_names"
FIRST, SECOND = "first@here", "second@here"
STOCK = ("-m", "celery")
PATIENT = (
    "-c",
    """
from celery.app.control import Control
broadcast = Control.broadcast
broadcast.__defaults__ = tuple(60.0 if type(each) is float else each for each in broadcast.__defaults__)
from celery.__main__ import main
main()
""",
)
"""As `STOCK`, but that its control waits for the answer of whom it asks for longer than a second: a machine with one busy
core takes that."""
OTHER = "other"
"""The queue of the second worker; the first has the app's own."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Flower(Process):
    """`celery [celery] flower [options]`, on loopback; its API is open to this machine."""

    def __init__(
        self,
        *options: str,
        celery: tuple[str, ...],
        log: Path,
        env: Mapping[str, str] | None = None,
        program: tuple[str, ...] = PATIENT,
    ) -> None:
        (port,) = free_ports(1)
        self.base = f"http://127.0.0.1:{port}"
        # As long as that takes whoever asks all workers.
        own = [f"--port={port}", "--address=127.0.0.1", "--inspect-timeout=6000"]
        command = [sys.executable, *program, *celery, "flower", *own]
        env = {"FLOWER_UNAUTHENTICATED_API": "true"} | dict(env or {})
        super().__init__([*command, *options], ready="Connected to amqp", env=env, cwd=log.parent, log=log)

    def get(self, path: str, **query: Any) -> Answer:
        return self._ask("GET", path, query, None)

    def post(self, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> Answer:
        return self._ask("POST", path, query, json.dumps(body).encode() if body is not None else b"")

    def _ask(self, method: str, path: str, query: Mapping[str, Any], body: bytes | None) -> Answer:
        url = self.base + quote(path) + (f"?{urlencode(query)}" if query else "")
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, method=method), timeout=30
            ) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode())

    def said(self, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> str:
        """The message of an answer to a POST; it must be 200."""
        answer = self.post(path, body, **query)
        assert answer.status == 200, answer
        return str(answer.json.get("message", ""))

    def task(self, task_id: str, state: str, timeout: float = 15.0) -> dict[str, Any]:
        """What Flower knows of a call, once it is in this state."""

        def known() -> dict[str, Any] | None:
            answer = self.get(f"/api/task/info/{task_id}")
            found = answer.json if answer.status == 200 else {}
            return found if found.get("state") == state else None

        found = wait_until(known, timeout, lambda: self.get(f"/api/task/info/{task_id}").text)
        assert found is not None
        return found

    def online(self, *nodes: str) -> None:
        """Return when it has heard of each of these workers, none is offline, and each has answered it."""

        def alive() -> bool:
            status = self.get("/api/workers", status="true").json
            return all(status.get(node) for node in nodes)

        wait_until(alive, 20, lambda: self.get("/api/workers", status="true").text)
        for node in nodes:
            self.worker(node)

    def worker(self, node: str) -> dict[str, Any]:
        """What it knows of a worker, asked anew."""
        # Twice: the first request may have joined what Flower had begun to ask before, for a page.
        for _ in range(2):
            found = self.get("/api/workers", refresh="true", workername=node).json
        return dict(found[node])


class Watched:
    """Two workers on one vhost, and a client."""

    def __init__(self, url: str, api: str, store: str, folder: Path) -> None:
        self.url, self.api, self.store, self.folder = url, api, store, folder
        self.app = App("client", broker=url, backend=store)
        self._env = {"AMQPTASKS_RESULT_BACKEND": store, "AMQPTASKS_WORKER_POOL_RESTARTS": "true"}
        self._started: list[Process] = []

    def worker(self, node: str, *arguments: str, events: bool = True) -> WorkerProcess:
        log = self.folder / f"{node}-{len(self._started)}.log"
        words = ["-n", node, *(["-E"] if events else []), *arguments]
        process = WorkerProcess(APP, *words, log=log, broker_url=self.url, env=self._env, ready=r" ready\.")
        self._started.append(process)
        return process.start()

    def flower(
        self, *celery: str, env: Mapping[str, str] | None = None, program: tuple[str, ...] = PATIENT
    ) -> Flower:
        """Flower with nothing but the broker's URL and that of its API, unless `celery` says more."""
        log = self.folder / f"flower-{len(self._started)}.log"
        api, broker = f"--broker-api={self.api}", ("-b", self.url)
        flower = Flower(api, celery=(*broker, *celery), log=log, env=env, program=program)
        self._started.append(flower)
        return flower.start()

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        return self.app.send_task(f"{APP}.{task}", args, **options)

    def ask(self, command: str, node: str = FIRST, **arguments: Any) -> Any:
        """What a worker itself answers."""
        return self.app.control.inspect([node], timeout=60.0).request(command, **arguments)[node]

    def end(self) -> None:
        for process in self._started:
            process.end()
        self.app.close()


@contextmanager
def watched(node: PrivateNode, api: str, vhost: str, folder: Path) -> Iterator[Watched]:
    """Both workers started, on a vhost of their own."""
    node.add_vhost(vhost)
    for store in store_of(Redis):
        made = Watched(node.url(vhost), api, store.url, folder)
        starts: list[Callable[[], Any]] = [
            lambda: made.worker(FIRST, "-c", "2"),
            lambda: made.worker(SECOND, "-c", "1", "-Q", OTHER),
        ]
        try:
            with ThreadPoolExecutor() as at_once:
                for started in [at_once.submit(start) for start in starts]:
                    started.result()
            yield made
        finally:
            made.end()
    node.delete_vhost(vhost)
