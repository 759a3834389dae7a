"""The zygote: a process that loads the app once and forks children of it, told by the worker's parent.

Single-threaded, in a session of its own. It ends with the parent, by the kernel's hand, and its children
with it. Run as `python -c` by `spawner`; knows neither runs nor outcomes.
"""

from __future__ import annotations

import gc
import io
import os
import select
import signal
import socket
import sys
import threading
import traceback
from dataclasses import replace

from amqptasks.worker.outcome import LoadSpec
from amqptasks.worker.pools import control, ends
from amqptasks.worker.pools.base import Loaded
from amqptasks.worker.pools.child import run_child
from amqptasks.worker.pools.journal import Writing
from amqptasks.worker.pools.loading import load
from amqptasks.worker.pools.signal_actions import dump_on_usr1, ignore_group_signals
from amqptasks.worker.pools.system import die_with_parent, open_pidfd, set_title


def main() -> None:
    """The process' whole life. Its arguments: the control socket's descriptor and the parent's pid."""
    descriptor, parent = map(int, sys.argv[1:3])
    die_with_parent(parent)
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    ignore_group_signals()
    dump_on_usr1()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # what a task prints is seen when it prints it
    try:
        order = control.receive_value(sock)
        if order is None:
            return
        sys.path[:] = order.path
        sys.argv[:] = order.argv
        loaded = _load(sock, order.spec)
        if loaded is None:
            sys.exit(1)
        set_title(f"amqptasks: {order.spec.node} zygote")
        Zygote(sock, loaded).serve()
    except OSError:
        return  # the parent is gone


def _load(sock: socket.socket, spec: LoadSpec) -> Loaded | None:
    """Load the app and tell the parent how that went."""
    try:
        loaded = load(spec)
        control.send_value(sock, replace(loaded.manifest, threads=threading.active_count()))
    except OSError as error:
        _tell_failure(sock, error)
    except SystemExit as error:
        _tell_failure(sock, error, f"it called sys.exit({error.code!r}) while it was imported")
    except BaseException as error:
        _tell_failure(sock, error)
    else:
        return loaded
    return None


def _tell_failure(sock: socket.socket, error: BaseException, message: str = "") -> None:
    text = getattr(error, "remote_traceback", "") or "".join(traceback.format_exception(error))
    control.send_value(sock, control.Failure(type(error).__name__, message or str(error), text))


class Zygote:
    """Forks when told to, reports births and deaths."""

    def __init__(self, sock: socket.socket, loaded: Loaded) -> None:
        self._sock = sock
        self._loaded = loaded
        self._numbers: dict[int, int] = {}  # pid -> number
        self._wake, self._woken = os.pipe()

    def serve(self) -> None:
        """Until the parent closes the control socket."""
        gc.collect()
        gc.freeze()  # what was loaded is no garbage, and a collection would copy its pages into every child
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        while True:
            ready, _, _ = select.select([self._sock.fileno(), self._wake], [], [])
            if self._wake in ready:
                os.read(self._wake, 4096)
                self._reap()
            if self._sock.fileno() in ready and not self._obey():
                return

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            number = self._numbers.pop(pid, None)
            if number is not None:
                code = os.waitstatus_to_exitcode(status)
                self._sock.send(control.encode(control.DIED, number, code))

    def _obey(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._sock, control.NEWS_SIZE, 2)
        if not data:
            return False
        kind, number, _ = control.decode(data)
        if kind == control.FORK:
            settings = control.receive_value(self._sock)
            if settings is None:
                return False
            self._fork(settings, descriptors)
        elif kind == control.KILL:
            for pid, known in self._numbers.items():
                if known == number:
                    os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self, settings: control.ChildSettings, descriptors: list[int]) -> None:
        number = settings.number
        sys.stdout.flush()
        sys.stderr.flush()
        me = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            _close(descriptors)
            self._sock.send(control.encode(control.NOT_BORN, number, error.errno or 0))
            return
        if not pid:
            self._become_child(settings, descriptors, me)
        _close(descriptors)
        self._numbers[pid] = number
        pidfd = open_pidfd(pid)  # the child is unreaped, so the number is still its own
        news = control.encode(control.BORN, number, pid)
        if pidfd is None:
            self._sock.send(news)
            return
        socket.send_fds(self._sock, [news], [pidfd])
        os.close(pidfd)

    def _become_child(self, settings: control.ChildSettings, descriptors: list[int], zygote: int) -> None:
        """Never returns."""
        code = 1
        try:
            die_with_parent(zygote)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._sock.close()
            os.close(self._wake)
            os.close(self._woken)
            sock = ends.adopt(descriptors[0])
            if settings.coroutines:
                journal, told = None, ends.adopt(descriptors[1])
            else:
                journal, told = Writing(descriptors[1]) if len(descriptors) > 1 else None, None
            code = run_child(sock, journal, self._loaded.make_executor, settings, told)
        except BaseException:
            traceback.print_exc()
        finally:
            _flush()
            os._exit(code)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue
