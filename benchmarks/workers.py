"""A contender's worker as processes: started, watched, measured from outside, and always ended by their numbers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from contenders import Contender
from contenders.base import FOLDER, environment
from mode import Mode
from slots import VARIABLE, Counter

TICK = os.sysconf("SC_CLK_TCK")
LOOK = 0.005
"""Seconds between two looks at the counter."""
STILL = 30.0
"""Seconds without a task after which a worker counts as stuck."""
LISTENING = "0A"
"""The state of a listening socket in `/proc/net/tcp`."""


class WorkerProcesses:
    """A running worker, from `with` to its end. The first process is the parent, all below it are children."""

    def __init__(self, contender: Contender, mode: Mode, counter: Counter) -> None:
        self._contender = contender
        self._mode = mode
        self.counter = counter
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the worker)

    def __enter__(self) -> Self:
        command, more = self._contender.worker(self._mode)
        env = environment(self._mode) | more | {VARIABLE: self.counter.path}
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            command, env=env, cwd=FOLDER, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_: object) -> None:
        family = self.pids()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in family[1:]:
            with contextlib.suppress(ProcessLookupError):
                if self._is_ours(pid):
                    os.kill(pid, signal.SIGKILL)
        self._log.close()

    def wait(self, enough: Callable[[int], bool], still: float = STILL) -> tuple[int, float, float]:
        """The counter, once it is `enough`. Raises RuntimeError with the end of the log when it stands still for
        `still` seconds."""
        before, deadline = -1, 0.0
        while not enough((now := self.counter.read())[0]):
            if now[0] != before:
                before, deadline = now[0], time.monotonic() + still
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                tail = self._log.read()[-2000:].decode(errors="replace")
                raise RuntimeError(
                    f"{self._contender.name}: {now[0]} tasks ran, then nothing; its log ends:\n{tail}"
                )
            time.sleep(LOOK)
        return now

    def _is_ours(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return str(FOLDER).encode() in Path(f"/proc/{pid}/environ").read_bytes()
        return False

    def pids(self) -> list[int]:
        """The parent, then everything below it."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        family = [self._process.pid]
        for pid in family:
            family.extend(child for child, parent in parents.items() if parent == pid)
        return family

    def cpu(self) -> tuple[float, float]:
        """Seconds of the processor that the parent and all children have used."""
        used = [cpu_of(pid) for pid in self.pids()]
        return used[0], sum(used[1:])

    def memory(self) -> tuple[float, float]:
        """MiB of the parent and of all children: proportional set size, so what they share is counted once."""
        used = [_pss(pid) for pid in self.pids()]
        return used[0], sum(used[1:])


def cpu_of(pid: int) -> float:
    """Seconds of the processor that one process has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICK


def listener(port: int) -> int | None:
    """The process on this machine that listens on a TCP port: the broker; None when it is elsewhere."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) in inodes:
                return int(descriptor.parts[2])
    return None


def _pss(pid: int) -> float:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
