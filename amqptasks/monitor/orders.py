"""What an observer sends to workers, on a connection of its own: a broker under alarm stops reading one that publishes.

Used in the loop. Nothing is sent while the broker takes nothing; it is asked for anew, after all.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from amqptasks import pidbox
from amqptasks.errors import AmqptasksError, TransportError
from amqptasks.pidbox import Clock, Request
from amqptasks.transport import codec
from amqptasks.transport.base import Connect, Link

log = logging.getLogger(__name__)

LASTS = 5.0
"""Seconds in which a worker may take a question."""


class Orders:
    """Opened with `open`, again after it was lost; closed with `close`."""

    def __init__(self, connect: Connect, settings: Mapping[str, Any]) -> None:
        self.clock = Clock()
        self._connect = connect
        self._settings = settings
        self._link: Link | None = None

    @property
    def alarm(self) -> str:
        """Why the broker takes no messages now; empty when it does."""
        return "" if self._link is None or self._link.lost.done() else self._link.blocked or ""

    async def open(self) -> None:
        """See to it that there is a connection. Raises nothing: without one nobody is asked, and the rest goes on."""
        if self._link is not None and not self._link.lost.done():
            return
        try:
            self._link = await self._connect()
        except (TransportError, AmqptasksError) as error:
            log.debug("workers cannot be asked: %s", error)

    def send(self, request: Request) -> None:
        """Send a command, if the broker takes messages."""
        link = self._link
        if link is None or link.lost.done() or link.blocked is not None:
            return
        envelope = pidbox.command(request, self._settings, clock=self.clock.forward(), timeout=LASTS)
        # That nobody is there to be told is no error.
        link.post(codec.pack(envelope), lambda _error: None)

    async def close(self) -> None:
        if self._link is not None:
            with contextlib.suppress(TransportError):
                await self._link.close()
