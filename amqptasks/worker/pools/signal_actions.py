"""Signals in the zygote and its children: what a terminal or a supervisor sends to whole groups does not
matter.

Ignored by handlers that do nothing, not by SIG_IGN: a program that a task starts would inherit SIG_IGN, and
could not be terminated. A process that a task forks gets the default actions back for the same reason.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Callable

GROUP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def _nothing(_signal: int, _frame: object) -> None:
    """The parent alone decides when its children end."""


def ignore_group_signals() -> None:
    for number in GROUP:
        signal.signal(number, _nothing)


def restore_after_fork() -> None:
    """From now on, a process forked from this one has the default actions. Called in a child."""
    os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_restore)


def _hold() -> None:
    """A signal that comes between the fork and its restored action waits for that."""
    signal.pthread_sigmask(signal.SIG_BLOCK, GROUP)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP)


def _restore() -> None:
    for number in GROUP:
        if signal.getsignal(number) is _nothing:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    _release()


def dump_on_usr1(*, chain: bool = False) -> None:
    """SIGUSR1 writes the stacks of all threads to stderr; with `chain` it then does what it did before."""
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__ or 2, all_threads=True, chain=chain)


def dump_coroutines_too(loop: asyncio.AbstractEventLoop, write: Callable[[], None]) -> None:
    """SIGUSR1 has the loop call `write` besides, when it can; what waits in no thread has no stack there."""
    faulthandler.unregister(signal.SIGUSR1)
    loop.add_signal_handler(signal.SIGUSR1, write)
    dump_on_usr1(chain=True)
