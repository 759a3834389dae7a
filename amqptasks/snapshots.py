"""`Polaroid`: pictures of the state that events add up to, at an interval, as Celery's cameras take them.

A camera subclasses it and says in `on_shutter` what becomes of a picture. Knows the state; receives nothing itself.
"""

from __future__ import annotations

from typing import Any

from amqptasks.event_state import State


class Polaroid:
    """Takes a picture every `freq` seconds, at most `maxrate` of them ("10/m"); cleans up every `cleanup_freq`.

    No event is taken in while a picture is. `clear_after`: then what was seen is forgotten, but for the tasks that have
    not ended.
    """

    clear_after = False

    def __init__(
        self,
        state: State,
        freq: float = 1.0,
        maxrate: str | float | None = None,
        cleanup_freq: float = 3600.0,
        app: Any = None,
    ) -> None:
        self.state = state
        self.freq = freq
        self.maxrate = maxrate
        self.cleanup_freq = cleanup_freq
        self.app = app

    def on_shutter(self, state: State) -> None:
        """Called with each picture."""

    def on_cleanup(self) -> None:
        """Called now and then, to remove what is too old."""
