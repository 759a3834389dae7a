"""`app.control.inspect()`: questions to workers, answered by node, under Celery's names.

Knows the commands' names and arguments; who asks is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Asks(Protocol):
    """See `Control.broadcast`."""

    def broadcast(self, command: str, arguments: Mapping[str, Any] | None = None, **options: Any) -> Any: ...


class Inspect:
    """Each method returns `{node: answer}`, or None when nobody has answered within `timeout` seconds."""

    def __init__(
        self,
        control: Asks,
        *,
        destination: Sequence[str] | str | None = None,
        timeout: float = 1.0,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self._control = control
        self._options = {
            "destination": destination,
            "timeout": timeout,
            "callback": callback,
            "limit": limit,
            "pattern": pattern,
            "matcher": matcher,
        }

    def request(self, command: str, **arguments: Any) -> dict[str, Any] | None:
        """Ask any command, one of your own too."""
        replies = self._control.broadcast(command, arguments, reply=True, **self._options)
        return {node: answer for reply in replies for node, answer in reply.items()} or None

    def ping(self, destination: Sequence[str] | None = None) -> dict[str, Any] | None:
        if destination:
            self._options["destination"] = destination
        return self.request("ping")

    def active(self, safe: bool | None = None) -> dict[str, Any] | None:
        """Return the calls that run, by node."""
        return self.request("active", safe=bool(safe))

    def reserved(self, safe: bool | None = None) -> dict[str, Any] | None:
        """Return the calls that were received and wait for a free slot or for their rate limit."""
        return self.request("reserved")

    def scheduled(self, safe: bool | None = None) -> dict[str, Any] | None:
        """Return the calls that wait in a worker for their last second; earlier ones wait on the broker."""
        return self.request("scheduled")

    def revoked(self) -> dict[str, Any] | None:
        return self.request("revoked")

    def registered(self, *taskinfoitems: str) -> dict[str, Any] | None:
        """Return the tasks' names, with these attributes."""
        return self.request("registered", taskinfoitems=list(taskinfoitems))

    registered_tasks = registered

    def query_task(self, *ids: Any) -> dict[str, Any] | None:
        """Return what each worker knows of these calls: `{id: [state, call]}`."""
        wanted = ids[0] if len(ids) == 1 and not isinstance(ids[0], str) else ids
        return self.request("query_task", ids=list(wanted))

    def stats(self) -> dict[str, Any] | None:
        return self.request("stats")

    def conf(self, with_defaults: bool = False) -> dict[str, Any] | None:
        """Return the settings, secrets masked."""
        return self.request("conf", with_defaults=with_defaults)

    def active_queues(self) -> dict[str, Any] | None:
        return self.request("active_queues")

    def report(self) -> dict[str, Any] | None:
        return self.request("report")

    def clock(self) -> dict[str, Any] | None:
        return self.request("clock")

    def hello(self, from_node: str, revoked: Sequence[str] | None = None) -> dict[str, Any] | None:
        return self.request("hello", from_node=from_node, revoked=list(revoked or ()))

    def memsample(self) -> dict[str, Any] | None:
        return self.request("memsample")

    def memdump(self, samples: int = 10) -> dict[str, Any] | None:
        return self.request("memdump", samples=samples)
