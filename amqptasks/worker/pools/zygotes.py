"""The pool's zygote, and those it replaced.

A new one loads the app while the old one's children still work; the old one ends with the last of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from amqptasks.backoff import exponential
from amqptasks.errors import AmqptasksError
from amqptasks.worker.outcome import LoadSpec, Manifest
from amqptasks.worker.pools.spawner import Listener, Spawner, open_spawner

logger = logging.getLogger(__name__)

GRACE = 2.0
"""Seconds that a zygote has to end."""


class Zygotes:
    """`current` forks new children; None while there is none."""

    def __init__(self, first: Spawner, listener: Listener) -> None:
        self.current: Spawner | None = first
        self.spec: LoadSpec = first.spec
        self._listener = listener
        self._replaced: list[Spawner] = []
        self._reloading: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._stopped = False
        first.listen(listener)

    async def replace(self, modules: Sequence[str] = ()) -> Manifest | None:
        """Load the app anew, and these modules from now on. None when it is too late for that.

        Raises what `open_spawner` raises, and goes on as before then.
        """
        spec = replace(self.spec, modules=tuple(dict.fromkeys((*self.spec.modules, *modules))))
        fresh = await open_spawner(spec)
        if self._stopped:
            await fresh.close(0)
            return None
        self.spec = spec
        if self.current is not None:
            self._replaced.append(self.current)
        self._become(fresh)
        return fresh.manifest

    def lose(self, spawner: Spawner, then: Callable[[], None]) -> None:
        """One has died. If it was the current one, have another, however often it takes, and call `then`."""
        if spawner in self._replaced:
            self._replaced.remove(spawner)
        if spawner is not self.current or self._stopped:
            return
        self.current = None
        self._reloading = asyncio.get_running_loop().create_task(self._reload(then))

    def close_unused(self, used: Collection[Spawner | None]) -> None:
        """Those that were replaced end with the last of their children."""
        for spawner in [spawner for spawner in self._replaced if spawner not in used]:
            self._replaced.remove(spawner)
            closing = asyncio.get_running_loop().create_task(spawner.close(GRACE))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def stop(self) -> None:
        """Load nothing any more."""
        self._stopped = True
        if self._reloading is not None:
            self._reloading.cancel()

    async def close(self) -> None:
        """End all. Their children, if there are any left, are killed by that."""
        self.stop()
        spawners = [*self._replaced, *([self.current] if self.current else [])]
        self._replaced.clear()
        self.current = None
        await asyncio.gather(*(spawner.close(GRACE) for spawner in spawners), *self._closing)

    def _become(self, spawner: Spawner) -> None:
        self.current = spawner
        spawner.listen(self._listener)

    async def _reload(self, then: Callable[[], None]) -> None:
        attempts = 0
        while self.current is None:
            try:
                self._become(await open_spawner(self.spec))
            except AmqptasksError as error:
                logger.error("cannot load the app again: %s", error)
                await asyncio.sleep(exponential(attempts, factor=0.1, maximum=10))
                attempts += 1
        then()
