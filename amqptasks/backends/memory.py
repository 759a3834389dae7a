"""States kept in this process, under `memory://name`: for tests and for workers of the `solo` and `threads`
kind.

Every backend of the same name in this process shares one store. Nothing survives the process.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from amqptasks import states
from amqptasks.backends.awaiting import LoopWatcher, Watch
from amqptasks.backends.base import Backend, Meta, Publish
from amqptasks.backends.watching import Watcher, Watchers
from amqptasks.errors import TimeoutError


class _Store:
    """What all backends of one name share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.watchers: Watchers[Meta] = Watchers(self.lock)
        self.states: OrderedDict[str, tuple[float, Meta]] = OrderedDict()
        self.groups: dict[str, Any] = {}


_stores: dict[str, _Store] = {}
_stores_lock = threading.Lock()


class MemoryBackend(Backend):
    """`memory://`. Thread-safe. States are dropped `expires` seconds after they were stored (None: kept)."""

    def __init__(self, url: str = "memory://", *, expires: float | None = 86400.0) -> None:
        self.url = url
        self._expires = expires
        with _stores_lock:
            self._store = _stores.setdefault(url, _Store())

    def store(self, meta: Meta, publish: Publish) -> None:
        store, now = self._store, time.monotonic()
        with store.lock:
            known = store.states.pop(meta.task_id, None)
            if known is not None and known[1].ready and not meta.ready:
                # A task that ended does not begin again: a late STARTED must not hide its value.
                meta = known[1]
            store.states[meta.task_id] = (now, meta)
            self._expire(now)
            store.watchers.notify(meta.task_id, meta)

    def _expire(self, now: float) -> None:
        kept = self._store.states
        while self._expires is not None and kept and now - next(iter(kept.values()))[0] > self._expires:
            kept.popitem(last=False)

    def fetch(self, task_id: str) -> Meta | None:
        with self._store.lock:
            self._expire(time.monotonic())
            known = self._store.states.get(task_id)
        return None if known is None else known[1]

    def watch(self, task_ids: Sequence[str], timeout: float | None) -> Iterator[Meta]:
        with self._watching(Watcher(), task_ids, timeout) as watch:
            yield from watch.blocking()

    async def awatch(self, task_ids: Sequence[str], timeout: float | None) -> AsyncIterator[Meta]:
        with self._watching(LoopWatcher(), task_ids, timeout) as watch:
            async for meta in watch.awaited():
                yield meta

    @contextmanager
    def _watching(
        self, watcher: Watcher[Meta], task_ids: Sequence[str], timeout: float | None
    ) -> Iterator[Watch[Meta]]:
        deadline = None if timeout is None else time.monotonic() + timeout
        store = self._store
        with store.lock:
            watcher.arrived.extend(store.states[id][1] for id in task_ids if id in store.states)
            store.watchers.add(watcher, task_ids)
        with store.watchers.removing(watcher, task_ids):
            yield Watch(
                watcher,
                set(task_ids),
                lambda meta: meta,
                lambda left: self._patience(left, deadline, timeout),
            )

    def _patience(self, left: set[str], deadline: float | None, timeout: float | None) -> float | None:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            first = min(left)
            known = self.fetch(first)
            raise TimeoutError(
                f"no result of {first} within {timeout:g} s; its last known state is "
                f"{states.PENDING if known is None else known.status}; the task may still finish"
            )
        return remaining

    def forget(self, task_id: str) -> None:
        with self._store.lock:
            self._store.states.pop(task_id, None)

    def save_group(self, group_id: str, members: Any) -> None:
        self._store.groups[group_id] = members

    def restore_group(self, group_id: str) -> Any:
        return self._store.groups.get(group_id)

    def forget_group(self, group_id: str) -> None:
        self._store.groups.pop(group_id, None)

    def clear(self) -> None:
        """Forget everything that is stored under this name."""
        with self._store.lock:
            self._store.groups.clear()
            self._store.states.clear()
