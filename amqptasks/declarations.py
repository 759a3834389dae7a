"""Declares, once a process, what a message needs before it is published: queue, bindings, dead letters,
delays.

Knows the blocking connection and entities; knows nothing of tasks. Thread-safe.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Protocol

from amqptasks.amqp import Binding, Entity, Queue, QueueInfo
from amqptasks.entities import identity
from amqptasks.errors import AccessRefused, NotFound, TopologyMismatch, Unroutable

logger = logging.getLogger(__name__)


class Declarer(Protocol):
    """What this module needs of a connection."""

    def declare(self, *entities: Entity, passive: bool = False) -> list[QueueInfo]: ...


class Declarations:
    """What this process has declared. What was deleted behind its back is declared again after `forget`."""

    def __init__(self, connection: Callable[[], Declarer]) -> None:
        self._connection = connection
        self._queues: set[str] = set()
        self._entities: set[Hashable] = set()
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
        with self._lock:
            if name in self._queues:
                return
            if passive:
                self._look_for(name, near)
            else:
                self._declare_each(topology(name))
            self._queues.add(name)

    def entities(self, entities: Iterable[Entity]) -> None:
        """Declare those that this process has not declared yet."""
        missing = [entity for entity in entities if identity(entity) not in self._entities]
        if not missing:
            return
        with self._lock:
            self._declare_each(missing)
            self._entities.update(identity(entity) for entity in missing)

    def renew_lock(self) -> None:
        """In a forked child: begin with a lock that nobody holds."""
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Declare everything again when it is next needed: something turned out to be missing."""
        with self._lock:
            self._queues.clear()
            self._entities.clear()

    def _declare_each(self, entities: Sequence[Entity]) -> None:
        connection = self._connection()
        try:
            connection.declare(*entities)
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
