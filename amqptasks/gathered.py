"""The replies to one question of remote control, as they come. Thread-safe; knows one ticket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from amqptasks import pidbox
from amqptasks.amqp import Delivery
from amqptasks.errors import InvalidMessage
from amqptasks.pidbox import Clock
from amqptasks.transport import codec

Reply = dict[str, Any]
"""A node's name and its answer."""
OnReply = Callable[[Reply], Any]


class Gathered:
    """The replies to one question. `take` is called in the connection's thread."""

    def __init__(self, ticket: str, limit: int | None, callback: OnReply | None, clock: Clock) -> None:
        self._ticket = ticket
        self._limit = limit
        self._callback = callback
        self._clock = clock
        self._arrived = threading.Condition()
        self._replies: list[Reply] = []

    def take(self, delivery: Delivery) -> None:
        try:
            envelope = codec.unpack(delivery)
            body = pidbox.read_json(envelope)
        except InvalidMessage:
            return
        headers = envelope.properties.headers or {}
        if headers.get("ticket") != self._ticket or not isinstance(body, dict):
            return
        self._clock.adjust(headers.get("clock"))
        with self._arrived:
            self._replies.append(body)
            self._arrived.notify()

    def wait(self, timeout: float) -> list[Reply]:
        """Return what came within `timeout` seconds, or the first `limit`."""
        deadline, seen = time.monotonic() + timeout, 0
        while True:
            with self._arrived:
                rest = deadline - time.monotonic()
                if len(self._replies) == seen and rest > 0:
                    self._arrived.wait(rest)
                fresh = self._replies[seen:]
            if self._callback is not None:
                for reply in fresh:
                    self._callback(reply)
            seen += len(fresh)
            if (self._limit is not None and seen >= self._limit) or time.monotonic() >= deadline:
                return self._replies[:seen]
