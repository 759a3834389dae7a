"""Declares, once a process, what a message needs before it is published: queue, bindings, dead letters,
delays.

Knows the blocking connection and entities; knows nothing of tasks. Thread-safe.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextvars import ContextVar
from typing import Protocol

from amqptasks.amqp import Binding, Entity, Exchange, Queue, QueueInfo
from amqptasks.backoff import reconnecting
from amqptasks.entities import identity
from amqptasks.errors import AccessRefused, NotFound, TopologyMismatch, TransportError, Unroutable
from amqptasks.transport.aside import may_wait
from amqptasks.transport.keeping import outage

logger = logging.getLogger(__name__)


outlasting: ContextVar[float] = ContextVar("outlasting", default=0.0)
"""Seconds of an outage that declarations wait for; 0: they raise as everything does."""


class Declarer(Protocol):
    """What this module needs of a connection."""

    def declare(self, *entities: Entity, passive: bool = False) -> list[QueueInfo]: ...


over: ContextVar[Declarer | None] = ContextVar("amqptasks_declarer", default=None)
"""Declares instead of the process's own connection: where an event loop has one."""


class Declarations:
    """What this process has declared. What was deleted behind its back is declared again after `forget`."""

    def __init__(self, connection: Callable[[], Declarer]) -> None:
        self._connection = connection
        self._queues: set[str] = set()
        self._exchanges: set[str] = set()
        self._entities: dict[Hashable, Entity] = {}
        self._seen: set[int] = set()
        self._warned: set[Hashable] = set()
        self._lock = threading.Lock()

    def queue(
        self,
        name: str,
        topology: Callable[[str], Sequence[Entity]],
        *,
        passive: bool,
        near: Callable[[str], str | None],
    ) -> None:
        """Make sure that the queue exists, with what belongs to it; a known one costs a set lookup.

        `passive`: it is only looked for; raises Unroutable when it is not there.
        """
        if name in self._queues:
            return
        may_wait()
        with self._lock:
            if name in self._queues:
                return
            if passive:
                self._look_for(name, near)
            else:
                self._declare_each(topology(name))
            self._queues.add(name)

    def entities(self, entities: Iterable[Entity]) -> None:
        """Declare those that this process has not declared yet; known ones cost a set lookup each."""
        unseen = [entity for entity in entities if id(entity) not in self._seen]
        if not unseen:
            return
        may_wait()
        with self._lock:
            missing = [entity for entity in unseen if identity(entity) not in self._entities]
            if missing:
                self._declare_each(missing)
            for entity in unseen:
                self._see(entity)

    def _see(self, entity: Entity) -> None:
        """Know this very object from now on: while it is kept here, no other has its id."""
        key = identity(entity)
        before = self._entities.get(key)
        if before is not None:
            self._seen.discard(id(before))
        self._entities[key] = entity
        self._seen.add(id(entity))

    def exchange(self, name: str) -> None:
        """Make sure that an exchange of somebody else's exists. Raises NotFound."""
        if not name or name in self._exchanges:
            return
        may_wait()
        with self._lock:
            self._connection().declare(Exchange(name), passive=True)
            self._exchanges.add(name)

    def restore(self) -> None:
        """Declare again what `entities` has declared: something of it turned out to be missing."""
        with self._lock:
            self._declare_each(list(self._entities.values()))

    def renew_lock(self) -> None:
        """In a forked child: begin with a lock that nobody holds."""
        self._lock = threading.Lock()

    def forget_queues(self) -> None:
        """Declare queues again when they are next needed."""
        with self._lock:
            self._queues.clear()

    def forget(self) -> None:
        """Declare everything again when it is next needed: something turned out to be missing."""
        with self._lock:
            self._queues.clear()
            self._exchanges.clear()
            self._seen.clear()
            self._entities.clear()

    def _declare_each(self, entities: Sequence[Entity]) -> None:
        connection = self._connection()
        try:
            _outlast(connection, entities)
        except (TopologyMismatch, AccessRefused):
            # One at a time, so that what differs or is forbidden does not keep the others from being
            # declared.
            for entity in entities:
                self._declare_one(connection, entity)

    def _declare_one(self, connection: Declarer, entity: Entity) -> None:
        try:
            connection.declare(entity)
        except TopologyMismatch as error:
            self._warn_once(entity, f"{error}; it is used as it is")
        except AccessRefused as error:
            if isinstance(entity, Binding):
                self._warn_once(entity, f"{error}; the binding is taken for granted")
            else:
                connection.declare(entity, passive=True)

    def _warn_once(self, entity: Entity, sentence: str) -> None:
        if identity(entity) not in self._warned:
            self._warned.add(identity(entity))
            logger.warning("%s", sentence)

    def _look_for(self, name: str, near: Callable[[str], str | None]) -> None:
        try:
            self._connection().declare(Queue(name), passive=True)
        except NotFound:
            similar = near(name)
            hint = f"; did you mean {similar!r}?" if similar else ""
            raise Unroutable(
                f"there is no queue {name!r} on the broker, and task_create_missing_queues is off: nothing "
                "was "
                f"sent{hint}"
            ) from None


def _outlast(connection: Declarer, entities: Sequence[Entity]) -> None:
    """Declare; in an outage again and again, for as long as `outlasting` says. Blocks."""
    deadline = time.monotonic() + outlasting.get()
    for pause in reconnecting():
        try:
            connection.declare(*entities)
        except TransportError as error:
            if not outage(error) or time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)  # nothing tells when the broker is back; `deadline` bounds it
        else:
            return
