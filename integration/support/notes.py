"""What the tasks of `apps.limit_tasks` noted, a client that calls them, and workers on request."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker import PrivateNode

from amqptasks import App, AsyncResult

from .processes import WorkerProcess

APP = "integration.apps.limit_tasks"


@dataclass(frozen=True)
class Note:
    kind: str
    """S: started, F: finished, or what the task says."""
    name: str
    number: int
    pid: int
    at: float
    """Seconds since the epoch."""


class Limits:
    """One vhost, one file of notes, workers on request."""

    def __init__(
        self, node: PrivateNode, vhost: str, folder: Path, start: Callable[..., WorkerProcess]
    ) -> None:
        self.node, self.url = node, node.url(vhost)
        self.path = folder / "notes"
        self._start = start

    def worker(self, *arguments: str, **options: Any) -> WorkerProcess:
        return self._start(
            APP,
            *arguments,
            broker_url=self.url,
            **{"env": {"LIMIT_NOTES": str(self.path)}, "ready": r" ready\."} | options,
        )

    @contextmanager
    def client(self) -> Iterator["Client"]:
        app = App("client", broker=self.url)
        try:
            yield Client(app)
        finally:
            app.close()

    def notes(self, kind: str = "", name: str = "") -> list[Note]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        notes = [
            Note(kind, name, int(number), int(pid), float(at))
            for kind, name, number, pid, at in map(str.split, lines)
        ]
        return [note for note in notes if kind in ("", note.kind) and name in ("", note.name)]


class Client:
    """Calls the tasks by name."""

    def __init__(self, app: App) -> None:
        self.app = app

    def send(self, task: str, *args: object, **options: Any) -> AsyncResult[Any]:
        return self.app.send_task(f"{APP}.{task}", args, **options)

    def send_many(self, *calls: tuple[Any, ...]) -> list[AsyncResult[Any]]:
        with self.app.batch():
            return [self.send(*call) for call in calls]
