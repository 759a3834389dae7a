"""A child: takes runs from its socket, has its executor run them, reports. By one thread, or by n.

Lives in a process forked from the zygote. Knows nothing of tasks. What it has taken from the socket it
runs; what it has not taken, the parent may take back.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FrameType

from amqptasks.amqp import Parcel
from amqptasks.errors import SoftTimeLimitExceeded
from amqptasks.worker.outcome import Cause, Outcome, Run
from amqptasks.worker.pools import wire
from amqptasks.worker.pools.base import Executor
from amqptasks.worker.pools.control import ChildSettings
from amqptasks.worker.pools.coroutines import serve_coroutines
from amqptasks.worker.pools.ends import End
from amqptasks.worker.pools.journal import Writing
from amqptasks.worker.pools.signal_actions import dump_on_usr1, ignore_group_signals, restore_after_fork
from amqptasks.worker.pools.system import set_title

logger = logging.getLogger(__name__)

MOST_SILENT = 32
"""Messages in the journal, two a run, until the parent is told to look."""

LONGEST_SILENCE = 0.002
"""Seconds that a message may be in the journal when the next one comes without the parent being told."""

_RSS_UNIT = 1024 if sys.platform == "darwin" else 1
"""What `ru_maxrss` counts: KiB, but bytes on macOS."""


def run_child(
    sock: End,
    journal: Writing | None,
    make_executor: Callable[[], Executor],
    settings: ChildSettings,
    told: End | None = None,
) -> int:
    """A child's whole life after the fork; returns its exit status. `told` brings orders to one of coroutines."""
    ignore_group_signals()
    restore_after_fork()
    dump_on_usr1()
    _reseed()
    multiprocessing.current_process().name = f"child-{settings.number}"
    set_title(f"amqptasks: {settings.node} child {settings.number}")
    try:
        executor = make_executor()
    except BaseException:
        wire.send(sock, wire.encode_failed(traceback.format_exc()))
        return 1
    sock.send(wire.encode_ready(os.getpid()))
    try:
        if told is not None:
            serve_coroutines(sock, told, executor, settings)
        elif settings.threads > 1:
            _serve_with_threads(sock, executor, settings)
        else:
            Child(sock, journal, executor, settings).serve()
    except SystemExit as stop:
        return _status(stop)
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the parent is gone
    executor.close()
    return 0


def _status(stop: SystemExit) -> int:
    """The exit status that the interpreter would give."""
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    sys.stderr.write(f"{stop.code}\n")
    return 1


def _reseed() -> None:
    """Python's own generator reseeds itself after a fork; numpy's does not."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()


class Child:
    """Serves one socket with one thread; several of them may share socket and executor."""

    def __init__(
        self, sock: End, journal: Writing | None, executor: Executor, settings: ChildSettings
    ) -> None:
        self._sock = sock
        self._journal = journal
        self._executor = executor
        self._settings = settings
        self._limited = settings.threads == 1
        self._mortal = settings.max_tasks is not None or settings.max_memory is not None
        self._served = 0
        self._silent = 0
        """Messages in the journal since the last bell."""
        self._silent_since = 0.0

    def serve(self) -> None:
        """Until the parent closes its side, or this child has served enough."""
        run_one, monotonic = self._run, time.monotonic
        try:
            while data := self._next():
                run = wire.decode_run(data)
                outcome = run_one(run)
                self._served += 1
                if self._mortal and self._is_spent():
                    self._send(wire.encode_finished(run.key, outcome, monotonic(), wire.RETIRING))
                    return
                now = monotonic()
                self._put(wire.encode_finished(run.key, outcome, now), now)
        finally:
            self._ring()

    def _next(self) -> bytes:
        """The next run; who has none tells the parent what it may not have seen."""
        try:
            data = self._sock.recv(wire.LIMIT, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._ring()
            data = self._sock.recv(wire.LIMIT)
        if data and data[0] == wire.ANNOUNCED:
            return wire.gather(self._sock, data)
        return data

    def _run(self, run: Run) -> Outcome:
        outcome: Outcome | None = None
        why = ""
        try:
            try:
                outcome = self._executor.run(run, functools.partial(self._started, run))
            finally:
                if run.soft is not None and self._limited:
                    signal.setitimer(signal.ITIMER_REAL, 0)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            # With an outcome it was the soft limit, which came too late to matter.
            why = repr(error)
        if outcome is None:
            logger.error("the executor failed: %s", why)
            outcome = self._executor.run(replace(run, cause=Cause.LOST, detail=why), lambda _: None)
        return outcome

    def _started(self, run: Run, parcels: Sequence[Parcel]) -> None:
        now = time.monotonic()
        self._put(wire.encode_started(run.key, parcels, now), now)
        if parcels or run.hard is not None:
            self._ring()  # others wait for these: the caller, the clock
        if run.soft is not None and self._limited:
            signal.signal(signal.SIGALRM, functools.partial(_soft_limit, run.soft))
            signal.setitimer(signal.ITIMER_REAL, run.soft)

    def _put(self, message: bytes, now: float) -> None:
        """Tell the parent: in the journal, with a bell now and then, or over the socket."""
        journal = self._journal
        if journal is None or not journal.write(message):
            self._send(message)
            return
        self._silent += 1
        if self._silent == 1:
            self._silent_since = now
        elif self._silent >= MOST_SILENT or now - self._silent_since > LONGEST_SILENCE:
            self._ring()

    def _send(self, message: bytes) -> None:
        if self._journal is not None:
            self._journal.passes()
        wire.send(self._sock, message)

    def _ring(self) -> None:
        """Have the parent look, if there is something that it has not seen."""
        if not self._silent:
            return
        self._silent = 0
        if self._journal is not None and self._journal.unread:
            try:
                self._sock.send(wire.BELL, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return  # so many bells wait there that another one tells nothing new

    def _is_spent(self) -> bool:
        settings = self._settings
        if settings.max_tasks is not None and self._served >= settings.max_tasks:
            return True
        if settings.max_memory is None:
            return False
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // _RSS_UNIT > settings.max_memory


def _soft_limit(seconds: float, _signal: int, _frame: FrameType | None) -> None:
    raise SoftTimeLimitExceeded(seconds)


def _serve_with_threads(sock: End, executor: Executor, settings: ChildSettings) -> None:
    """n threads at one socket: each datagram goes to one of them."""
    receiving, sending = threading.Lock(), threading.Lock()
    threads = [
        threading.Thread(
            target=Thread(sock, executor, settings, receiving, sending).serve_or_die,
            name=f"child-{settings.number}-{index}",
            daemon=True,
        )
        for index in range(1, settings.threads + 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Thread(Child):
    """One of a child's threads. What comes or goes in pieces must not mix with another thread's."""

    def __init__(
        self,
        sock: End,
        executor: Executor,
        settings: ChildSettings,
        receiving: threading.Lock,
        sending: threading.Lock,
    ) -> None:
        super().__init__(sock, None, executor, settings)
        self._receiving = receiving
        self._sending = sending

    def serve_or_die(self) -> None:
        """What ends one thread ends the process: the parent then knows what was lost."""
        code = 1
        try:
            self.serve()
        except SystemExit as stop:
            code = _status(stop)
        except (BrokenPipeError, ConnectionResetError):
            code = 0
        except BaseException:
            traceback.print_exc()
        else:
            return
        os._exit(code)

    def _next(self) -> bytes:
        with self._receiving:
            data = self._sock.recv(wire.LIMIT)
            if data and data[0] == wire.ANNOUNCED:
                data = wire.gather(self._sock, data)
        return data

    def _is_spent(self) -> bool:
        """One thread must not end the others' process."""
        return False

    def _send(self, message: bytes) -> None:
        with self._sending:
            wire.send(self._sock, message)
