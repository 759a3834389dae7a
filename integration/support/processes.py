"""Workers as real processes, in a session of their own, with their log at hand."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .waiting import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]


class Process:
    """A command in a session of its own. Marked in its environment, so that whatever it leaves behind is found."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | str = ROOT,
        log: Path,
        timeout: float = 20.0,
    ) -> None:
        """`ready` is a regular expression searched in the log; `log` receives stdout and stderr."""
        self.command = [str(word) for word in command]
        self.log_file = log
        self._ready, self._timeout, self._cwd = ready, timeout, cwd
        self._mark = f"AMQPTASKS_TEST_PROCESS={os.getpid()}-{id(self)}-{os.urandom(4).hex()}"
        name, _, value = self._mark.partition("=")
        paths = [str(cwd), str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._env = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        # setproctitle writes its titles over /proc/PID/environ, where the mark is read, unless it is told not to.
        self._env |= dict(env or {}) | {name: value, "SPT_NOENV": "1"}
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Returns once the log shows `ready`."""
        with open(self.log_file, "ab") as out:
            self._popen = subprocess.Popen(
                self.command,
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        if self._ready is not None:
            try:
                self.wait_log(self._ready, self._timeout)
            except AssertionError:
                self.end()
                raise
        return self

    @property
    def pid(self) -> int:
        assert self._popen is not None, "not started"
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative for a signal, as in subprocess."""
        return self._popen.poll() if self._popen is not None else None

    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def wait_log(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """The first match of a regular expression in the log; at once an error if the process ends before."""

        def look() -> re.Match[str] | None:
            running = self.returncode is None
            found = re.search(pattern, self.log())
            assert found or running, (
                f"exited {self.returncode} before its log showed {pattern!r}:\n{self.log()}"
            )
            return found

        found = wait_until(look, timeout, lambda: f"{pattern!r} in the log:\n{self.log()}")
        assert found is not None
        return found

    def signal(self, number: int) -> None:
        """To the process alone; `os.killpg(process.pid, ...)` reaches its group."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = 20.0) -> int:
        """The exit code."""
        assert self._popen is not None, "not started"
        try:
            return self._popen.wait(timeout * PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout * PATIENCE:g} s:\n{self.log()}") from None

    def stop(self, timeout: float = 20.0) -> int:
        """SIGTERM, the exit code, and nothing left behind."""
        if self.returncode is None:
            self.signal(signal.SIGTERM)
        code = self.wait(timeout)
        self.assert_gone()
        return code

    def kill(self) -> None:
        """kill -9 of the process alone, and nothing left behind."""
        self.signal(signal.SIGKILL)
        self.wait()
        self.assert_gone()

    def left(self) -> list[int]:
        """Every process that descends from the command and still runs, whatever its parent and session."""
        mark, found = self._mark.encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    continue
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return sorted(found)

    def children(self) -> list[int]:
        """As `left`, without the process itself."""
        return [pid for pid in self.left() if pid != self.pid]

    def assert_gone(self, timeout: float = 5.0) -> None:
        def names() -> str:
            left = ", ".join(f"{pid} {_command_of(pid)[:80]!r}" for pid in self.left())
            return f"no process left; log:\n{self.log()[-2000:]}\nleft: {left}"

        wait_until(lambda: not self.left(), timeout, names)

    def end(self) -> None:
        """Kill whatever runs: the way out of a failed test."""
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._popen is not None:
            self._popen.wait(10 * PATIENCE)

    def __enter__(self) -> Self:
        return self if self._popen is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            if kind is None and self.returncode is None:
                self.stop()
            elif kind is None:
                self.assert_gone()
        finally:
            self.end()
        if kind is not None and exc is not None:
            exc.add_note(f"--- log of {' '.join(self.command[:6])}\n{self.log()[-4000:]}")


class WorkerProcess(Process):
    """`amqptasks -A app worker ...`; ready once its log says so."""

    def __init__(
        self,
        app: str,
        *arguments: str,
        log: Path,
        broker_url: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | str = ROOT,
        timeout: float = 20.0,
        ready: str | None = r" ready",
    ) -> None:
        command = [sys.executable, "-m", "amqptasks", "-A", app, "worker", "-l", "INFO", *arguments]
        super().__init__(
            command, ready=ready, env=_with_broker(env, broker_url), cwd=cwd, log=log, timeout=timeout
        )


class CeleryWorker(Process):
    """`celery -A app worker ...`: the real thing, as a peer."""

    def __init__(
        self,
        app: str,
        *arguments: str,
        log: Path,
        broker_url: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | str = ROOT,
        timeout: float = 30.0,
    ) -> None:
        beside = Path(sys.executable).with_name("celery")
        celery = str(beside) if beside.exists() else shutil.which("celery")
        assert celery, "celery is a dependency of the tests: pip install -e '.[test]'"
        command = [celery, "-A", app, "worker", "-l", "INFO", *arguments]
        env = {"C_FORCE_ROOT": "1"} | _with_broker(env, broker_url)
        super().__init__(command, ready=r" ready\.", env=env, cwd=cwd, log=log, timeout=timeout)


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b"which has just ended"


def _with_broker(env: Mapping[str, str] | None, broker_url: str | None) -> dict[str, str]:
    return dict(env or {}) | ({"AMQPTASKS_BROKER_URL": broker_url} if broker_url else {})
