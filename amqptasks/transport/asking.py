"""Asking the broker something over a `Publisher`'s link: within a time, and again when the link is lost meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from amqptasks.errors import BrokerUnavailable, ConnectionLost, PublishTimeout, TransportError
from amqptasks.transport.base import Link
from amqptasks.transport.keeping import RetryPolicy
from amqptasks.transport.publisher import Publisher

T = TypeVar("T")


async def ask(
    publisher: Publisher, policy: RetryPolicy, function: Callable[[Link], Awaitable[T]], timeout: float
) -> T:
    """Return what `function` answers when given the link. Raises what it raises, BrokerBlocked, BrokerUnavailable."""
    try:
        async with asyncio.timeout(timeout):
            for attempt, delay in enumerate(policy.delays()):
                link = await publisher.connected()
                try:
                    return await function(link)
                except ConnectionLost:
                    # What is asked may itself be what the broker ends connections for.
                    if attempt == policy.max_retries:
                        raise
                await asyncio.sleep(delay)
            raise AssertionError("the delays ended")
    except TimeoutError as exc:
        if isinstance(exc, TransportError):
            raise
        raise _reason_for_delay(publisher, timeout) from None


def _reason_for_delay(publisher: Publisher, timeout: float) -> TransportError:
    error = publisher.reason_for_delay()
    if isinstance(error, PublishTimeout):
        return BrokerUnavailable(f"the broker did not answer within {timeout:g} s")
    return error
