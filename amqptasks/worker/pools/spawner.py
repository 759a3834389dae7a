"""The parent's side of a zygote: starts it, asks it for children, hears of births and deaths.

Runs in the worker's event loop; nothing here blocks it for longer than starting a process takes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from amqptasks.errors import PoolFailed
from amqptasks.worker.outcome import LoadSpec, Manifest
from amqptasks.worker.pools import control, ends

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])

_PROGRAM = (
    f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); "
    "from amqptasks.worker.pools.zygote import main; main()"
)


class Listener(Protocol):
    """Who wants to hear of a spawner's children. Called in the loop."""

    def born(self, number: int, pidfd: int | None) -> None:
        """Its process runs; not yet ready."""

    def died(self, number: int, status: int) -> None:
        """Ended: an exit code, or minus a signal's number."""

    def not_born(self, number: int, reason: str) -> None:
        """The system refused to fork."""

    def orphaned(self, spawner: Spawner, reason: str) -> None:
        """The zygote is gone, and its children with it."""


class Spawner:
    """One zygote that has loaded the app. Made by `open_spawner`."""

    def __init__(
        self, process: subprocess.Popen[bytes], sock: socket.socket, manifest: Manifest, spec: LoadSpec
    ) -> None:
        self.manifest = manifest
        self.spec = spec
        self._process = process
        self._sock = sock
        self._listener: Listener
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def listen(self, listener: Listener) -> None:
        self._listener = listener
        self._loop.add_reader(self._sock.fileno(), self._hear)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fork(self, settings: control.ChildSettings, descriptors: Sequence[int]) -> None:
        """Ask for a child that serves a socket and has a journal.

        Its birth is reported; or `orphaned`, if the zygote is gone.
        """
        try:
            socket.send_fds(self._sock, [control.encode(control.FORK, settings.number)], list(descriptors))
            control.send_value(self._sock, settings)
        except OSError:
            return  # its end will be heard

    def kill(self, number: int) -> None:
        """SIGKILL by way of the zygote, which knows whether the child still lives."""
        try:
            self._sock.send(control.encode(control.KILL, number))
        except OSError:
            return

    async def close(self, timeout: float) -> None:
        """End the zygote; its children, if any are left, are killed by its end."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        await end_process(self._process, timeout)

    def _hear(self) -> None:
        while not self._closed:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._sock, control.NEWS_SIZE, 1)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                self._lose()
                return
            self._tell(data, descriptors)

    def _tell(self, data: bytes, descriptors: list[int]) -> None:
        kind, number, value = control.decode(data)
        if kind == control.BORN:
            self._listener.born(number, descriptors[0] if descriptors else None)
        elif kind == control.DIED:
            self._listener.died(number, value)
        else:
            self._listener.not_born(number, os.strerror(value))

    def _lose(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        try:
            status = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._listener.orphaned(self, describe(status))


async def open_spawner(spec: LoadSpec) -> Spawner:
    """Start a zygote and have it load the app.

    Raises what the loader raised there: AppNotFound, AppImportFailed, ImproperlyConfigured; PoolFailed when
    the process died meanwhile. Takes as long as the import does.
    """
    near, far = socket.socketpair(socket.AF_UNIX, ends.KIND)
    process = subprocess.Popen(  # noqa: ASYNC220  (a millisecond, before there is anything to delay)
        [sys.executable, *_interpreter_flags(), "-c", _PROGRAM, str(far.fileno()), str(os.getpid())],
        pass_fds=[far.fileno()],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
    )
    far.close()
    try:
        control.send_value(near, control.Order(spec, tuple(sys.path), tuple(sys.argv)))
        near.settimeout(0)
        answer = await _receive_value(near)
        if isinstance(answer, Manifest):
            return Spawner(process, near, answer, spec)
        status = await end_process(process, 1.0)
        if isinstance(answer, control.Failure):
            raise answer.error()
        raise PoolFailed(f"the process that imports the app ended by {describe(status)} before it was done")
    except BaseException:
        near.close()
        await end_process(process, 0.0)
        raise


async def _receive_value(sock: socket.socket) -> Any:
    """`control.receive_value` for a loop; None when the zygote is gone."""
    loop = asyncio.get_running_loop()
    received = control.Receiving()
    while not received.complete:
        try:
            piece = await loop.sock_recv(sock, received.next)
        except ConnectionError:
            return None
        if not piece:
            return None
        received.add(piece)
    return received.value()


async def end_process(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Wait for a process of ours; kill it after `timeout` seconds. Returns its status."""
    deadline = asyncio.get_running_loop().time() + timeout
    while process.poll() is None:
        if asyncio.get_running_loop().time() >= deadline:
            process.kill()
            return process.wait()
        await asyncio.sleep(0.005)
    return process.returncode


def _interpreter_flags() -> list[str]:
    """The switches that this interpreter was started with, for one that behaves the same."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing does
    return list(flags)


def describe(status: int) -> str:
    """An exit status in words: "exited with status 3", "signal 11 (SIGSEGV)"."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    if name == "SIGKILL":
        return f"signal {-status} (SIGKILL), perhaps the kernel's: out of memory"
    return f"signal {-status} ({name})"
