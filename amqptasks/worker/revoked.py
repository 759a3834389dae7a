"""The ids and stamps that are revoked, in bounded memory: the oldest are forgotten first. Knows headers; no I/O."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from amqptasks.amqp import Delivery
from amqptasks.bounded import drop_oldest
from amqptasks.errors import AmqptasksError
from amqptasks.transport import codec

STAMPS = ("stamps",)


class Revoked:
    """Used in the loop only. `any` is False as long as nothing is revoked: the hot path looks at nothing else."""

    def __init__(self, limit: int = 50_000, keep: float = 7 * 86400.0) -> None:
        """`limit`: how many ids, and how many stamps, are kept. `keep`: for how many seconds."""
        self.any = False
        self._limit = limit
        self._keep = keep
        self._ids: dict[str, float] = {}
        self._stamps: dict[tuple[str, str], float] = {}

    def bound(self, limit: int, keep: float) -> None:
        self._limit, self._keep = limit, keep

    def add(self, ids: Iterable[str], since: float | None = None) -> None:
        """Revoke these, as of `since` (epoch seconds; None: now)."""
        self._add(self._ids, ids, since)

    def add_stamps(self, stamps: Mapping[str, Any], since: float | None = None) -> None:
        """Revoke what bears one of these stamps: a value, or a list of them, by header."""
        self._add(self._stamps, pairs(stamps), since)

    def _add(self, known: dict[Any, float], keys: Iterable[Any], since: float | None) -> None:
        at = time.time() if since is None else since
        if at + self._keep <= time.time():
            return
        for key in keys:
            known.pop(key, None)  # so that it is the youngest again
            known[key] = at
        drop_oldest(known, self._limit)
        self.any = bool(self._ids or self._stamps)

    def covers(self, task_id: Any, delivery: Delivery) -> bool:
        """Whether this call is revoked: by its id, or by a stamp in its headers."""
        if task_id in self._ids:
            if self._ids[task_id] + self._keep > time.time():
                return True
            self.purge()
        return bool(self._stamps) and not self._stamps.keys().isdisjoint(pairs(_stamps_of(delivery)))

    def bears(self, stamps: Mapping[str, Any], delivery: Delivery) -> bool:
        """Whether a call bears one of these stamps."""
        return not set(pairs(stamps)).isdisjoint(pairs(_stamps_of(delivery)))

    def purge(self) -> None:
        """Forget what is too old."""
        oldest = time.time() - self._keep
        self._ids = {key: at for key, at in self._ids.items() if at > oldest}
        self._stamps = {key: at for key, at in self._stamps.items() if at > oldest}
        self.any = bool(self._ids or self._stamps)

    @property
    def stamps(self) -> dict[str, list[str]]:
        """The stamps, by header."""
        found: dict[str, list[str]] = {}
        for name, value in self._stamps:
            found.setdefault(name, []).append(value)
        return found

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._ids

    def __iter__(self) -> Iterator[str]:
        """The ids, oldest first."""
        return iter(list(self._ids))

    def __len__(self) -> int:
        return len(self._ids)


def pairs(stamps: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each header with each of its values, as text."""
    for name, values in stamps.items():
        for value in values if isinstance(values, list | tuple | set | frozenset) else (values,):
            yield str(name), str(value)


def _stamps_of(delivery: Delivery) -> Mapping[str, Any]:
    try:
        found = codec.select(delivery.header, STAMPS).get("stamps")
    except (AmqptasksError, ValueError, IndexError):
        return {}
    return found if isinstance(found, Mapping) else {}
