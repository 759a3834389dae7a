"""A Redis of the benchmark's own, for contenders whose chords need one: nothing on disk, ended with the run."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAM = "redis-server"
START = 20.0
"""Seconds that it may take to answer."""


class Missing(Exception):
    """The machine lacks what a contender needs for a row; the text says what, and the table shows it."""


class RedisServer:
    """Runs from its making to `close`. Raises Missing when the program is not installed."""

    def __init__(self) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise Missing(f"needs {PROGRAM}")
        self._folder = tempfile.TemporaryDirectory()
        self._port = _free_port()
        options = {
            "--bind": "127.0.0.1",
            "--port": str(self._port),
            "--dir": self._folder.name,
            "--save": "",
            "--appendonly": "no",
            "--daemonize": "no",
        }
        self._log = Path(self._folder.name) / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *(each for pair in options.items() for each in pair)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._await()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def _await(self) -> None:
        deadline = time.monotonic() + START
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = self._log.read_bytes()[-1000:].decode(errors="replace")
                raise RuntimeError(f"{PROGRAM} does not answer; its log ends:\n{tail}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), 1) as asking:
                asking.sendall(b"PING\r\n")
                return asking.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def empty(self) -> None:
        """Forget everything that the measurements before have left."""
        with socket.create_connection(("127.0.0.1", self._port), 10) as asking:
            asking.sendall(b"FLUSHALL\r\n")
            asking.recv(64)

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
