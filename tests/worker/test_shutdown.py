"""A stopping worker that is left without its broker."""

import asyncio

import pytest

from amqptasks.worker import shutdown
from amqptasks.worker.shutdown import abandoned
from tests.worker import virtual_time

PATIENCE = 0.2


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutdown, "LOOK", 0.01)


async def has_ended(waiting: asyncio.Task[None]) -> bool:
    """Whether it ends within ten times its patience."""
    done, _ = await asyncio.wait({waiting}, timeout=10 * PATIENCE)
    waiting.cancel()
    return bool(done)


@pytest.mark.parametrize(
    ("idle", "connected", "ends"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_it_waits_as_long_as_something_runs_or_the_broker_is_there(
    idle: bool, connected: bool, ends: bool
) -> None:
    async def wait() -> bool:
        return await has_ended(asyncio.create_task(abandoned(lambda: idle, lambda: connected, PATIENCE)))

    assert virtual_time.run(wait()) is ends


def test_a_broker_that_comes_back_in_between_begins_the_wait_anew() -> None:
    async def wait() -> tuple[bool, bool]:
        there = False
        waiting = asyncio.create_task(abandoned(lambda: True, lambda: there, PATIENCE))
        await asyncio.sleep(PATIENCE / 2)
        there = True
        before = await has_ended(asyncio.create_task(abandoned(lambda: True, lambda: there, PATIENCE)))
        still = not waiting.done()
        there = False
        return before or not still, await has_ended(waiting)

    assert virtual_time.run(wait()) == (False, True)
