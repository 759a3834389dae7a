"""Declaring with few permissions: what exists is enough, and the workers' own queue may be missing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amqptasks.amqp import Queue
from amqptasks.errors import AccessRefused, NotFound
from amqptasks.worker.outcome import WorkerQueue
from amqptasks.worker.topology import declared


class Strict:
    """A link whose user may configure nothing, on a broker that has `existing`."""

    def __init__(self, *existing: str) -> None:
        self.existing = existing

    async def declare(self, *entities: Any, passive: bool = False) -> list[Any]:
        if not passive:
            raise AccessRefused("configure access refused")
        if entities[0].name not in self.existing:
            raise NotFound("no queue")
        return []


def queue(name: str, *, internal: bool = False) -> WorkerQueue:
    return WorkerQueue(name, (Queue(name),), internal=internal)


def test_what_an_administrator_made_is_consumed() -> None:
    told: set[str] = set()

    assert asyncio.run(declared(Strict("q"), queue("q"), told))  # type: ignore[arg-type]


def test_without_the_workers_own_queue_the_others_are_consumed_all_the_same() -> None:
    told: set[str] = set()

    assert not asyncio.run(declared(Strict("q"), queue("internal", internal=True), told))  # type: ignore[arg-type]
    assert any("joins no chords until an administrator makes internal" in text for text in told)


def test_a_task_queue_that_is_missing_keeps_the_worker_from_starting() -> None:
    with pytest.raises(NotFound):
        asyncio.run(declared(Strict(), queue("q"), set()))  # type: ignore[arg-type]
