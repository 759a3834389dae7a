"""Heartbeats of one connection: two are sent in each interval, and silence for two intervals ends it.

pika's own checker waits up to twice the interval plus ten seconds. Knows a counter and a clock only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

_TICKS: Final = 4
"""Half intervals of silence until the peer counts as dead, as RabbitMQ counts for us."""


class Counted(Protocol):
    """What is watched."""

    bytes_received: int


class Heartbeat:
    """Calls `send` twice in `interval` seconds, and `dead` once after two intervals in which nothing came."""

    def __init__(
        self, stream: Counted, interval: float, *, send: Callable[[], None], dead: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._half = interval / 2
        self._send = send
        self._dead = dead
        self._seen = stream.bytes_received
        self._silent = 0
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._half, self._tick)

    def _tick(self) -> None:
        # Counted in ticks, not seconds: a process that was stopped has not listened meanwhile.
        received = self._stream.bytes_received
        self._silent = self._silent + 1 if received == self._seen else 0
        self._seen = received
        if self._silent >= _TICKS:
            self._dead()
            return
        self._timer = self._loop.call_later(self._half, self._tick)
        self._send()

    def received(self) -> None:
        """Take a heartbeat frame; its bytes are what counts."""

    def stop(self) -> None:
        self._timer.cancel()
