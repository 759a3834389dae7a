"""What a process tells the supervisor that started it with NOTIFY_SOCKET: systemd's protocol, sd_notify(3).

Knows one datagram socket and an event loop; knows nothing of workers or brokers. Without a supervisor nothing is
opened, and no timer runs.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

STATUS_EVERY = 5.0
"""Seconds between two looks at whether the status line has changed."""


@contextmanager
def supervised(*, wanted: bool = True) -> Iterator[Notifier | None]:
    """While the body runs, the supervisor hears that the running loop turns; without one, or not `wanted`, it gets
    None."""
    notifier = Notifier.of() if wanted else None
    if notifier is not None:
        notifier.start()
    try:
        yield notifier
    finally:
        if notifier is not None:
            notifier.close()


class Notifier:
    """Tells the supervisor that we are ready, alive, stopping. Used from one loop; nothing blocks or raises."""

    def __init__(self, address: str, watchdog: float = 0.0) -> None:
        """`watchdog` is how often the supervisor wants to hear that we are alive, in seconds; 0: it does not ask."""
        # "@name" is how the environment writes an abstract socket, whose name begins with a zero byte.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog = watchdog
        self.status: Callable[[], str] = lambda: "starting"
        """What `systemctl status` shows, in one line; asked every few seconds."""
        self._said = ""
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Notifier | None:
        """Return what the environment asks for; None when nobody supervises this process."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")) or len(address) == 1:
            return None
        meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        wanted = environment.get("WATCHDOG_USEC", "")
        return cls(address, int(wanted) / 1e6 if meant and wanted.isdecimal() else 0.0)

    def start(self) -> None:
        """From now on say that the running loop turns, twice in each of the supervisor's periods."""
        self._turn()

    def ready(self) -> None:
        self.tell(READY="1")

    def stopping(self, *, restart: bool = False) -> None:
        """It ends; or, with `restart`, the same process begins anew, and says then that it is ready."""
        if restart:
            self.tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        else:
            self.tell(STOPPING="1")

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def tell(self, **fields: str) -> None:
        """Send one datagram, with the status line if it has changed."""
        status = self.status().replace("\n", " ")
        if status != self._said:
            self._said = fields["STATUS"] = status
        if not fields:
            return
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        # Opened anew each time: the supervisor may have been replaced meanwhile, and this is seldom.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)
            sock.sendto(text.encode("utf-8", "surrogateescape"), self._address)

    def _turn(self) -> None:
        """The loop turns, or this would not be called: nothing else may stand between it and the supervisor."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self.watchdog and now >= self._due:
            self._due = now + self.watchdog / 2
            self.tell(WATCHDOG="1")
        else:
            self.tell()
        rest = self._due - now if self.watchdog else STATUS_EVERY
        self._timer = loop.call_later(min(STATUS_EVERY, rest), self._turn)
