"""The guard around a task's body: a soft limit raised at its await, through whatever it awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from amqptasks.errors import SoftTimeLimitExceeded
from amqptasks.worker.awaiting import Guard, Loops, leave, taken


async def interrupted(body: Callable[[], Awaitable[Any]], after: float = 0.02) -> Any:
    """Run the body, whose limit comes while it awaits."""
    guard = Guard(body())  # type: ignore[arg-type]
    asyncio.get_running_loop().call_later(after, guard.interrupt, SoftTimeLimitExceeded(after))
    async with asyncio.timeout(60):
        return await guard


async def in_a_group(ended: list[str]) -> None:
    async def part() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("part")

    async with asyncio.TaskGroup() as group:
        group.create_task(part())
        group.create_task(part())


async def in_gather(ended: list[str]) -> None:
    async def part() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("part")

    await asyncio.gather(part(), part())


async def in_a_condition(ended: list[str]) -> None:
    condition = asyncio.Condition()
    async with condition:
        try:
            await condition.wait()
        finally:
            ended.extend(["part", "part"])


async def under_a_timeout(ended: list[str]) -> None:
    async with asyncio.timeout(30):
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 30)
        finally:
            ended.extend(["part", "part"])


@pytest.mark.parametrize("body", [in_a_group, in_gather, in_a_condition, under_a_timeout])
def test_the_limit_reaches_what_the_body_awaits_and_leaves_as_itself(body):
    ended: list[str] = []

    with pytest.raises(SoftTimeLimitExceeded) as caught:
        asyncio.run(interrupted(lambda: body(ended)))

    assert type(caught.value) is SoftTimeLimitExceeded
    assert caught.value.args == (0.02,)
    assert ended == ["part", "part"]


def test_the_body_can_go_on_after_its_limit():
    async def body() -> list[Any]:
        seen: list[Any] = []
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded as limit:
            seen.append(limit.args)
        async with asyncio.timeout(60):
            await asyncio.sleep(0.01)
        current = asyncio.current_task()
        assert current is not None
        return [*seen, current.cancelling()]

    assert asyncio.run(interrupted(body)) == [(0.02,), 0]


def test_a_limit_before_the_first_await_is_raised_there():
    async def body() -> str:
        raise AssertionError("its limit came before it began")

    async def main() -> None:
        guard = Guard(body())
        guard.interrupt(SoftTimeLimitExceeded(1))
        await guard

    with pytest.raises(SoftTimeLimitExceeded):
        asyncio.run(main())


def test_a_limit_swallowed_by_what_the_body_awaits_is_raised_all_the_same():
    async def deaf() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "deaf"
        return "never"

    async def body() -> str:
        return await asyncio.create_task(deaf())

    with pytest.raises(SoftTimeLimitExceeded):
        asyncio.run(interrupted(body))


def test_a_cancellation_is_one():
    async def main() -> None:
        guard = Guard(asyncio.sleep(30))
        asyncio.get_running_loop().call_later(0.01, guard.cancel)
        await guard

    with pytest.raises(asyncio.CancelledError) as caught:
        asyncio.run(main())

    assert not isinstance(caught.value, SoftTimeLimitExceeded)


def test_a_cancellation_after_the_limit_is_one():
    async def main() -> None:
        limited = asyncio.Event()
        guard = Guard(body(limited))
        asyncio.get_running_loop().call_later(0.01, guard.interrupt, SoftTimeLimitExceeded(1))
        cancelling = asyncio.create_task(cancel(guard, limited))
        try:
            await guard
        finally:
            await cancelling

    async def cancel(guard: Guard, limited: asyncio.Event) -> None:
        await limited.wait()
        guard.cancel()

    async def body(limited: asyncio.Event) -> None:
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            limited.set()
            await asyncio.sleep(30)

    with pytest.raises(asyncio.CancelledError) as caught:
        asyncio.run(main())

    assert not isinstance(caught.value, SoftTimeLimitExceeded)


def test_what_is_left_is_taken_once_and_in_order():
    coroutines = [asyncio.sleep(0, number) for number in range(3)]
    for coroutine in coroutines:
        leave(coroutine)
    loops = Loops()

    values = [loops.complete(coroutine) for coroutine in taken()]
    loops.close()

    assert values == [0, 1, 2]
    assert taken() == ()
