"""A program in a pseudo terminal: its last frame as text, keys, the size of its window, and how it leaves the terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

HOME, END = "\x1b[H", "\x1b[J"
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_OTHER = re.compile(r"\x1b\[\??[0-9;]*[A-Za-z]")


class Terminal:
    """Use as a context manager; whatever happens, the program is gone afterwards."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cells: int = 120,
        lines: int = 30,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> None:
        self.master, self.slave = pty.openpty()
        self.read = ""
        self.resize(cells, lines)
        self.before = self.settings()
        # In a session of its own with this terminal as the controlling one, as a shell's child has it.
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=os.environ | {"TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"} | dict(env or {}),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (no threads)
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        os.close(self.master)
        os.close(self.slave)

    def resize(self, cells: int, lines: int) -> None:
        """The kernel tells the program by SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, cells, 0, 0))

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def drain(self, seconds: float = 0.0) -> str:
        """All that was written so far."""
        while select.select([self.master], [], [], seconds)[0]:
            try:
                self.read += os.read(self.master, 65_536).decode("utf-8", "replace")
            except OSError:
                break
            seconds = 0.0
        return self.read

    @property
    def frame(self) -> list[str]:
        """The lines of the last frame that is complete; "" at the end of a line is cut."""
        start = self.read.rfind(HOME, 0, self.read.rfind(END) + 1)
        text = self.read[start + len(HOME) : self.read.find(END, start)] if start >= 0 else ""
        return [_OTHER.sub("", line).rstrip() for line in text.split("\r\n")]

    @property
    def styled(self) -> str:
        """The last frame with its styles."""
        start = self.read.rfind(HOME, 0, self.read.rfind(END) + 1)
        return self.read[start:]

    def wait(self, wanted: Callable[[list[str]], Any] | str, seconds: float = 60.0) -> list[str]:
        """Return the first frame that has a text, or fulfils a condition."""
        deadline = time.monotonic() + seconds
        check = (lambda frame: any(wanted in line for line in frame)) if isinstance(wanted, str) else wanted
        while not check(self.frame):
            ended = self.process.poll()
            shown = "\n".join(self.frame)
            assert time.monotonic() < deadline, f"{wanted!r} was never shown; shown is:\n{shown}"
            assert ended is None, f"ended with {ended} before {wanted!r} was shown:\n{self.drain()[-3000:]}"
            self.drain(0.05)
        return self.frame

    def wait_end(self, seconds: float = 60.0) -> int:
        """The exit code; what was written is read meanwhile, so that the program is not held up."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on; written was:\n{self.read[-3000:]}"
            self.drain(0.05)
        self.drain()
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def assert_restored(self) -> None:
        """The terminal is as it was: settings, the other screen left, the cursor shown, lines wrapped."""
        assert self.settings() == self.before
        text = self.drain()
        for on, off in (("\x1b[?1049h", "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h"), ("\x1b[?7l", "\x1b[?7h")):
            assert text.rfind(off) > text.rfind(on) >= 0, f"{off!r} was not written last"
