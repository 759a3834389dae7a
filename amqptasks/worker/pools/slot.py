"""One child as the parent sees it: its socket, the runs it holds, what it said last. Knows no other child.

The parent keeps a duplicate of the child's end of the socket: there it reads back what the child has not
taken.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from amqptasks.worker.outcome import Cause, Run
from amqptasks.worker.pools import control, ends, wire
from amqptasks.worker.pools.journal import Reading, open_journal

if TYPE_CHECKING:
    from amqptasks.worker.pools.spawner import Spawner

logger = logging.getLogger(__name__)

BURST = 64
"""Datagrams read in a row before the loop serves others."""
DUMP = 0.05
"""Seconds for a child to write its stacks."""
LAST = 10.0
"""Seconds that a child has to end once it has nothing left to do: its receivers of `worker_process_shutdown` run then.
"""


class Slot:
    """A child's process from its order to its end. Used in the loop only."""

    def __init__(self, number: int, spawner: Spawner, threads: int, read: Callable[[Slot], None]) -> None:
        self.number = number
        self.spawner = spawner
        self.threads = threads
        self.pid = 0
        self.pidfd: int | None = None
        self.ready = False
        self.leaving = False
        """Takes nothing more, and ends after what it runs."""
        self.slow = False
        """What it runs takes long, so nothing may wait behind it."""
        self.heard = 0.0
        """When it last said something, or was handed a run while it had none; loop time."""
        self.held: dict[int, Run] = {}
        """Handed over and not finished, oldest first."""
        self.active: set[int] = set()
        """Those that have started."""
        self.inbox: deque[bytes] = deque()
        """What it has said and nobody was told yet."""
        self.is_telling = False
        self.large: int | None = None
        """Key of a run on its way in pieces: until it starts nothing follows it, and nothing is read back"""
        self.sentence: tuple[int, Cause, str] | None = None
        """The run this child is killed for."""
        self.complaint = ""
        """Why it could not start, in its own words."""
        self.timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[bytes | memoryview] = deque()
        self._writing = False
        self._incoming: bytearray | None = None
        self._expected = 0
        self._pages = open_journal() if threads == 1 else None
        self._journal = Reading(self._pages) if self._pages is not None else None
        self._near, self._far = ends.pair()
        self._stream = self._near if isinstance(self._near, ends.Framed) else None
        self._near.settimeout(0)
        self._loop.add_reader(self._near.fileno(), read, self)

    def order(self, settings: control.ChildSettings) -> None:
        """Have the zygote fork it."""
        descriptors = [self._far.fileno()]
        if self._pages is not None:
            descriptors.append(self._pages)
        self.spawner.fork(settings, descriptors)

    # --- room --------------------------------------------------------------------------------------------

    def has_room(self, window: int) -> bool:
        if not self.ready or self.leaving or self.sentence is not None or self.large is not None:
            return False
        if self._writing:
            return False
        return len(self.held) < (self.threads if self.slow else self.threads + window - 1)

    @property
    def is_free(self) -> bool:
        """Whether a run handed over now would start at once."""
        return self.has_room(1) and len(self.held) == len(self.active)

    @property
    def excess(self) -> int:
        """Runs that wait in its socket behind others."""
        return len(self.held) - self.threads

    # --- handing over, taking back -----------------------------------------------------------------------

    def hand(self, run: Run) -> None:
        """Send a run; what the socket does not take now follows when it can."""
        self.held[run.key] = run
        message = wire.encode_run(run)
        if len(message) > wire.LIMIT:
            self.large = run.key
            self._outbox.extend(wire.pieces(message, wire.ANNOUNCED))
            self._write()
            return
        if self._stream is not None:
            self._outbox.append(message)
            self._write()
            return
        try:
            self._near.send(message)
        except BlockingIOError:
            self._outbox.append(message)
            self._write()

    def _write(self) -> None:
        outbox = self._outbox
        try:
            while outbox:
                self._near.send(outbox[0])
                outbox.popleft()
            if self._stream is not None:
                self._stream.finish()
        except BlockingIOError:
            self._writing = True
            self._loop.add_writer(self._near.fileno(), self._write)
            return
        self._written()

    def _written(self) -> None:
        self._writing = False
        self._loop.remove_writer(self._near.fileno())
        if self.leaving and self.large is None:
            self._near.shutdown(socket.SHUT_WR)

    def take_back(self, count: int | None = None) -> list[Run]:
        """Read back up to `count` runs that the child has not taken, oldest first; None: all of them."""
        if self.large is not None:
            return []
        runs: list[Run] = []
        while self._stream is None and (count is None or len(runs) < count):
            try:
                data = self._far.recv(wire.LIMIT, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not data:
                break
            runs.append(self.held.pop(wire.run_key(data)))
        if count is None and self._outbox:
            runs += [self.held.pop(wire.run_key(bytes(message[:16]))) for message in self._outbox]
            self._outbox.clear()
            self._write()
        return runs

    def dismiss(self) -> list[Run]:
        """Let it end after what it runs; returns what it had not taken."""
        runs = self.take_back()
        self.leave()
        return runs

    def leave(self) -> None:
        """Let it end after all that it was handed."""
        self.leaving = True
        if not self._writing and self.large is None:
            self._near.shutdown(socket.SHUT_WR)
        if not self.held:
            self.expect_end()

    def expect_end(self) -> None:
        """It is leaving and has nothing left to do: if it hangs now, it is killed, and its place is free."""
        if self.timer is None:
            self.timer = self._loop.call_later(LAST, self._overstay)

    def _overstay(self) -> None:
        self.timer = None
        logger.error(
            "child %d (pid %d) was to end and still runs after %g s; killing it", self.number, self.pid, LAST
        )
        self.kill()

    # --- reports -----------------------------------------------------------------------------------------

    def receive(self, burst: int = BURST) -> list[bytes]:
        """What the child has said since, in the order it was said: at most `burst` datagrams, and its journal."""
        messages: list[bytes] = []
        for _ in range(burst):
            try:
                data = self._near.recv(wire.LIMIT)
            except (BlockingIOError, ConnectionResetError):
                break
            if not data:
                self._loop.remove_reader(self._near.fileno())
                break
            if data == wire.BELL:
                continue
            whole = data if self._incoming is None and not data[0] & wire.PIECES else self._assemble(data)
            if whole is not None:
                messages += self._passed(whole)
        messages += self.look()
        return messages

    def look(self) -> list[bytes]:
        """What the child has written in its journal since; costs little where there is nothing."""
        return self._journal.read() if self._journal is not None else []

    def _passed(self, message: bytes) -> list[bytes]:
        """A message that came over the socket, after all that was written before it."""
        if self._journal is None or message[0] & (wire.READY | wire.FAILED):
            return [message]
        before = self.look()
        self._journal.passed()
        return [*before, message]

    @property
    def is_heard(self) -> bool:
        """Whether nothing is to be expected of its journal: it has told the start of all that it holds."""
        return self._journal is None or len(self.held) == len(self.active)

    def _assemble(self, data: bytes) -> bytes | None:
        if self._incoming is None:
            self._incoming = bytearray()
            self._expected = wire.announced_size(data)
            return None
        self._incoming += data
        if len(self._incoming) < self._expected:
            return None
        message, self._incoming = bytes(self._incoming), None
        return message

    def came_up(self, pid: int) -> None:
        self.pid = pid
        self.ready = True
        self._stop_timer()

    def started(self, key: int) -> None:
        self.active.add(key)
        self._arrived(key)

    def finished(self, key: int) -> None:
        self.held.pop(key, None)
        self.active.discard(key)
        self.slow = False
        self._arrived(key)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _arrived(self, key: int) -> None:
        if self.large == key:
            self.large = None
            if self.leaving:
                self._near.shutdown(socket.SHUT_WR)

    # --- the end -----------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL, to this very process."""
        self._signal(signal.SIGKILL)

    def ensure_dead(self, timeout: float = 1.0) -> None:
        """Kill it and wait, so that nothing it was about to say comes after its burial."""
        if self.pidfd is None:
            return
        self._signal(signal.SIGKILL)
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll(timeout * 1000)

    def dump(self, place: int) -> None:
        """Have it write its stacks to stderr, when those of `place` others are written: each writes in pieces."""
        self._loop.call_later(place * DUMP, self._dump)

    def _dump(self) -> None:
        if self._near.fileno() < 0:
            return  # closed meanwhile
        runs = ", ".join(map(str, sorted(self.active))) or "none"
        sys.stderr.write(f"--- child {self.number} (pid {self.pid}), runs: {runs}\n")
        sys.stderr.flush()
        self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        if self.pidfd is not None:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                return
        elif number == signal.SIGKILL:
            self.spawner.kill(self.number)
        elif self.pid:
            os.kill(self.pid, number)

    def close(self) -> list[Run]:
        """Forget the process, which has ended; returns what it had not taken from its socket."""
        self._loop.remove_reader(self._near.fileno())
        self._loop.remove_writer(self._near.fileno())
        self._stop_timer()
        runs = self.take_back()
        self._near.close()
        self._far.close()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        for descriptor in (self.pidfd, self._pages):
            if descriptor is not None:
                os.close(descriptor)
        self.pidfd = self._pages = None
        return runs

    def __repr__(self) -> str:
        state = "busy" if self.active else "idle" if self.ready else "starting"
        return f"<Slot {self.number} pid {self.pid} {state} | holds {len(self.held)}>"


def by_load(slot: Slot) -> int:
    """For sorting: the least loaded first."""
    return len(slot.held)
