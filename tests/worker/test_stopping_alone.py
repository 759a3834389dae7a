"""A worker that is told to stop while its broker is away, or takes no messages."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from amqptasks import App
from amqptasks.testing import running_worker
from amqptasks.transport import memory
from amqptasks.transport.memory_broker import MemoryBroker
from amqptasks.worker import worker
from tests.transport.contract import message


@pytest.fixture
def broker() -> MemoryBroker:
    return memory.broker(uuid.uuid4().hex)


def away(broker: MemoryBroker) -> None:
    broker.refuse_connections()
    broker.drop_connections()


def alarmed(broker: MemoryBroker) -> None:
    broker.block()


@pytest.mark.parametrize("fault", [away, alarmed])
def test_what_nobody_misses_does_not_keep_it(
    monkeypatch: pytest.MonkeyPatch, broker: MemoryBroker, fault: Any
) -> None:
    """As events, each of which has its deadline."""
    monkeypatch.setattr(worker, "LAST_CONFIRMS", 600.0)
    app = App("alone", broker=f"memory://{broker.name}", set_as_current=False)

    with app, running_worker(app, timeout=100.0) as running:
        fault(broker)
        asyncio.run_coroutine_threadsafe(post(running._worker), running._loop).result(60)


async def post(running: worker.Worker) -> None:
    deadline = asyncio.get_running_loop().time() + 600.0
    running.publisher.post(message("nowhere"), lambda error: None, deadline)
