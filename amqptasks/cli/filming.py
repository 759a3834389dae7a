"""Pictures of the state that events add up to, while it is fed: for cameras, and for the live screen.

Knows a receiver's life and when a picture is due; nothing of what is on it.
"""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from typing import Any

from amqptasks.app import App
from amqptasks.event_state import State
from amqptasks.worker.rates import per_second


class Film:
    """Has a camera take its pictures when they are due. `seconds` between them; used by one thread."""

    def __init__(self, camera: Any, state: State, seconds: float, maxrate: str | float | None = None) -> None:
        self._shutter: Callable[[State], Any] = getattr(camera, "on_shutter", camera)
        self._cleanup: Callable[[], Any] | None = getattr(camera, "on_cleanup", None)
        self._clear_after = bool(getattr(camera, "clear_after", False))
        self._state = state
        rate = per_second(maxrate)
        self.seconds = max(seconds, 1 / rate) if rate else seconds
        self._cleaning = float(getattr(camera, "cleanup_freq", 3600.0))
        self._clean_at = time.monotonic() + self._cleaning

    def shoot(self) -> None:
        """Take a picture, and clean up if it is time. Raises what the camera raises."""
        self._state.freeze_while(self._shutter, self._state, clear_after=self._clear_after)
        if self._cleanup is not None and time.monotonic() >= self._clean_at:
            self._clean_at = time.monotonic() + self._cleaning
            self._cleanup()


def made(camera: Any, state: State, *, freq: float, maxrate: str | float | None, app: Any) -> Any:
    """Return the camera: a class is called as Celery calls one if it takes a `state`, else with the app; anything else
    is a camera already, or a function of the state."""
    if not isinstance(camera, type):
        return camera
    parameters = inspect.signature(camera).parameters
    if "state" not in parameters:
        return camera(app)
    anything = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    said = {"freq": freq, "maxrate": maxrate, "app": app}
    return camera(state, **{name: value for name, value in said.items() if anything or name in parameters})


def film(app: App, film: Film, state: State, limit: int | None, timeout: float | None) -> None:
    """Feed `state` with what is received, and take a picture at each interval and at the end. Blocks."""
    ended = threading.Event()
    receiver = app.events.Receiver(state=state)
    failures: list[BaseException] = []

    def receive() -> None:
        try:
            receiver.capture(limit, timeout)
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=receive, name="amqptasks-events", daemon=True)
    thread.start()
    try:
        while not ended.wait(film.seconds):
            film.shoot()
    finally:
        receiver.stop()
        thread.join(5.0)
    if failures:
        raise failures[0]
    film.shoot()
