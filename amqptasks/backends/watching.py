"""Threads that wait for task states, woken one by one when a state of theirs arrives; nobody polls.

Knows ids and whatever is handed to it; the lock is its owner's, so that "what is known" and "who waits"
agree.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Latch(Protocol):
    """What is waited for: a `threading.Event`, or what wakes an event loop."""

    def set(self) -> None: ...


class Watcher(Generic[T]):
    """One thread that waits for some ids: filled by whoever receives, emptied by its owner."""

    __slots__ = ("_event", "arrived", "latch")

    def __init__(self) -> None:
        self.arrived: deque[T] = deque()
        self._event = threading.Event()
        self.latch: Latch = self._event

    def wait(self, seconds: float | None) -> None:
        """Return when something arrived or somebody wakes it, at the latest after `seconds`."""
        self._event.wait(seconds)
        # Cleared before the owner looks at `arrived`, so what comes in between wakes it again.
        self._event.clear()


class Watchers(Generic[T]):
    """All watchers of one backend, by id. Every method is called under the owner's lock, except
    `watching`.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._by_id: dict[str, list[Watcher[T]]] = {}

    def notify(self, task_id: str, news: T) -> None:
        for watcher in self._by_id.get(task_id, ()):
            watcher.arrived.append(news)
            watcher.latch.set()

    def wake(self, task_ids: Iterable[str]) -> None:
        """Let those who wait for these ids look again at how long they should wait."""
        for task_id in task_ids:
            for watcher in self._by_id.get(task_id, ()):
                watcher.latch.set()

    def add(self, watcher: Watcher[T], task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            self._by_id.setdefault(task_id, []).append(watcher)

    @contextmanager
    def removing(self, watcher: Watcher[T], task_ids: Sequence[str]) -> Iterator[None]:
        """Remove the watcher at the end of the block."""
        try:
            yield
        finally:
            with self._lock:
                for task_id in task_ids:
                    self._remove(watcher, task_id)

    def _remove(self, watcher: Watcher[T], task_id: str) -> None:
        others = self._by_id.get(task_id, [])
        if watcher in others:
            others.remove(watcher)
        if not others:
            self._by_id.pop(task_id, None)
