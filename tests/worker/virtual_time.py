"""An event loop whose clock jumps to the next timer: hours of waiting in no time, and to the microsecond."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """Every sleep takes `late` seconds longer than asked for, as on a busy machine."""

    def __init__(self, late: float = 0.0) -> None:
        super().__init__()
        self.late = late
        self._now = 1000.0
        self._look = self._selector.select
        self._selector.select = self._jump

    def time(self) -> float:
        return self._now

    def _jump(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "nothing is left that could ever happen"
        if timeout > 0:
            self._now += timeout + self.late
        return self._look(0)


def run(scenario: Coroutine[Any, Any, Any], late: float = 0.0) -> Any:
    """As asyncio.run, in virtual time."""
    loop = VirtualLoop(late)
    try:
        return loop.run_until_complete(scenario)
    finally:
        loop.close()
