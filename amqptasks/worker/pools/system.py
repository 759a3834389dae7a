"""The few calls to the operating system that Linux alone has; elsewhere they do nothing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; exits if `parent` is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def set_title(title: str) -> None:
    """Name this process in `ps`, if setproctitle is installed."""
    try:
        import setproctitle  # noqa: PLC0415
    except ImportError:
        return
    setproctitle.setproctitle(title)


def open_pidfd(pid: int) -> int | None:
    """A descriptor that stands for this very process, however its number is used again; None without such."""
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
