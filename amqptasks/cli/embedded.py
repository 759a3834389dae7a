"""`worker -B`: a beat in a process beside the worker's, ended with it. The worker itself never imports the app."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType

from amqptasks.cli.output import CONFIG, REFUSED, USAGE

log = logging.getLogger(__name__)

PARENT = "_AMQPTASKS_PARENT"
"""Variable that names the worker's process, with which its beat ends."""
PAUSE = 2.0
"""Seconds before a beat that ended is started again."""
HOPELESS = frozenset({USAGE, REFUSED, CONFIG})
"""Statuses of a beat that would end in the same way again; it has said why."""
PATIENCE = 5.0
"""Seconds that it has to end, before it is killed."""


class EmbeddedBeat:
    """Use as a context manager: the beat runs as long as the body, and is started again should it end, unless its
    schedule or settings are wrong.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "amqptasks", *arguments]
        self._environment = {**os.environ, PARENT: str(os.getpid())}
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        # One thread starts and waits: the kernel ends the process with the thread that started it.
        self._thread = threading.Thread(target=self._keep, name="embedded beat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if self._process is not None:
            self._process.terminate()
        self._thread.join(2 * PATIENCE)

    def _keep(self) -> None:
        while not self._ending.is_set():
            # In a session of its own: Ctrl-C is for the worker, which ends it.
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
            while self._process.poll() is None:
                if self._ending.wait(0.2):
                    self._end(self._process)
            if self._ending.is_set():
                return
            status = self._process.returncode
            if status in HOPELESS:
                log.error(
                    "the embedded beat cannot start (status %d); no periodic task is sent from here", status
                )
                return
            log.error("the embedded beat ended with status %s, and is started again", status)
            self._ending.wait(PAUSE)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
