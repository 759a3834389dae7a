"""How a worker is told to stop: signals become phases. Knows signals; knows nothing of tasks or brokers.

TERM                warm: take nothing more, finish what runs, give back what has not started, exit 0
INT                 warm; a second one is cold
QUIT                cold: running tasks get `worker_soft_shutdown_timeout` seconds, then their children are killed
HUP                 warm, then start again with the same arguments
USR1                write the stacks of parent and children to stderr
again               TERM or INT during a warm shutdown makes it cold; during a cold one it ends the grace period
"""

from __future__ import annotations

import asyncio
import enum
import logging
import signal
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)

HEARD = 0.02
"""Seconds after which the parent has surely heard of a run that has begun: it looks every five milliseconds."""
LOOK = 0.25
"""Seconds between two looks at whether a stopping worker is left without its broker."""


class Phase(enum.IntEnum):
    """Only ever grows."""

    RUNNING = 0
    WARM = 1
    COLD = 2
    NOW = 3


class Shutdown:
    """Turns signals into phases; `changed` is set at every step up."""

    def __init__(self) -> None:
        self.phase = Phase.RUNNING
        self.restart = False
        self.signal: signal.Signals | None = None
        self.changed = asyncio.Event()

    def listen(self, dump_stacks: Callable[[], None]) -> None:
        """Install the handlers on the running loop; only the main thread may."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            loop.add_signal_handler(number, self.on_signal, number)
        loop.add_signal_handler(signal.SIGUSR1, loop.call_later, HEARD, dump_stacks)

    def on_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP and self.phase is Phase.RUNNING:
            self.restart = True
        following = Phase(min(Phase.NOW, self.phase + 1))
        self.request(max(Phase.COLD, following) if number is signal.SIGQUIT else following, number)

    def request(self, phase: Phase, number: signal.Signals | None = None) -> None:
        """Go up to `phase`; asking for less than is under way changes nothing."""
        if phase <= self.phase:
            return
        self.phase = phase
        self.signal = number
        self._announce()
        self.changed.set()

    @property
    def told(self) -> dict[str, Any]:
        """What `worker_shutting_down` says; `sig` is None when it was not a signal that stopped the worker."""
        cold = self.phase > Phase.WARM
        return {
            "sig": self.signal.name if self.signal is not None else None,
            "how": "Cold" if cold else "Warm",
            "exitcode": int(cold),
        }

    def _announce(self) -> None:
        # Told by the program that holds the worker, it need not be said.
        level = logging.WARNING if self.signal is not None else logging.INFO
        if self.phase is Phase.WARM:
            logger.log(level, "worker: Warm shutdown (MainProcess)")
            if self.signal is signal.SIGINT:
                logger.warning(
                    "worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!"
                )
        elif self.phase is Phase.COLD:
            logger.log(level, "worker: Cold shutdown (MainProcess)")

    async def reached(self, phase: Phase) -> None:
        """Wait until the phase is at least `phase`."""
        while self.phase < phase:
            self.changed.clear()
            await self.changed.wait()


async def abandoned(nothing_runs: Callable[[], bool], connected: Callable[[], bool], patience: float) -> None:
    """Return once nothing has run, and there has been no broker, for `patience` seconds on end."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    while loop.time() - since < patience:
        if connected() or not nothing_runs():
            since = loop.time()
        await asyncio.sleep(min(LOOK, patience / 4))
