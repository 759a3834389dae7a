"""Waiting for what will be true, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 3.0
"""What a test says that something may take holds on a quiet machine; here it may take so many times longer. A deadline
only says when to give up: a test that waits in vain fails later, and no other one is slower."""


def wait_until(
    condition: Callable[[], T],
    timeout: float = 10.0,
    message: str | Callable[[], str] = "",
    interval: float = 0.02,
) -> T:
    """The first true answer of `condition`. `message` says what was waited for; a callable is asked at the end."""
    timeout *= PATIENCE
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() > deadline:
            what = message() if callable(message) else message
            raise AssertionError(f"not within {timeout:g} s: {what or condition}; last answer {answer!r}")
        time.sleep(interval)
    return answer
