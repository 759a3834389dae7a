"""Code that may have to wait for the broker, called from an event loop: it is tried there, and if it would wait it
begins anew in a thread, so that the loop never stands still.

What is called so must be harmless to begin twice up to the first place where it waits. Knows nothing of AMQP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_trying: ContextVar[bool] = ContextVar("amqptasks_trying", default=False)


class WouldWait(Exception):
    """Raised instead of waiting; only `aside` sees it."""


def may_wait() -> None:
    """Say that what follows waits: raises WouldWait where it must not."""
    if _trying.get():
        raise WouldWait


async def aside(function: Callable[[], T], turn: asyncio.Lock) -> T:
    """Return what `function` returns; it runs here if it need not wait, else in a thread.

    Of many that would wait, one at a time does: what it waited for serves the others, who then need no thread.
    """
    try:
        return _try(function)
    except WouldWait:
        async with turn:
            try:
                return _try(function)
            except WouldWait:
                return await asyncio.to_thread(function)


def _try(function: Callable[[], T]) -> T:
    token = _trying.set(True)
    try:
        return function()
    finally:
        _trying.reset(token)
