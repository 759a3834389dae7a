"""A terminal taken over for a while: the other screen, keys as they are pressed, and all as it was afterwards.

What is written to stderr meanwhile, a log for instance, is shown afterwards. Restored after an error, Ctrl-C, Ctrl-Z,
SIGTERM and SIGHUP. Used in the main thread only. Knows nothing of what is drawn.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO, Any, Self

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE = "\x1b[?7h\x1b[?25h\x1b[0m\x1b[?1049l"
MOST = 16_384
"""Bytes of what was written to stderr that are shown afterwards, the last ones."""
HOME, REST_OF_LINE, REST = "\x1b[H", "\x1b[K", "\x1b[J"
ENDS = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # no SIGHUP on Windows, which only prints

_SEQUENCES = {
    "[A": "up", "[B": "down", "[C": "right", "[D": "left", "OA": "up", "OB": "down", "OC": "right", "OD": "left",
    "[Z": "backtab", "[5~": "pageup", "[6~": "pagedown", "[H": "home", "[F": "end", "[1~": "home", "[4~": "end",
}  # fmt: skip
_CONTROLS = {"\t": "tab", "\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace"}


class Ended(SystemExit):
    """A signal wants the program to end."""


class Terminal:
    """Use as a context manager. Without a terminal to read from there are no keys."""

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        self._in = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else -1
        self._before: list[Any] | None = None
        self._signals: dict[int, Any] = {}
        self._wake = (-1, -1)
        self._fd_before = -1
        self._errors: tuple[int, IO[bytes]] | None = None
        """The real stderr, and what stands for it."""

    @staticmethod
    def width(otherwise: int) -> int:
        """Columns of what is printed to: as COLUMNS says, or the terminal, if it is one."""
        return shutil.get_terminal_size((otherwise, 24)).columns

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            found = os.get_terminal_size(self._out)
        except OSError:
            found = shutil.get_terminal_size()
        return (found.columns or 80, found.lines or 24)

    def __enter__(self) -> Self:
        self._wake = os.pipe()
        for end in self._wake:
            os.set_blocking(end, False)
        self._fd_before = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        for number, handle in (
            *((each, self._end) for each in ENDS),
            (signal.SIGWINCH, self._resize),
            (signal.SIGTSTP, self._suspend),
        ):
            self._signals[number] = signal.signal(number, handle)
        self._set_errors_aside()
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        # Another Ctrl-C, now, must not leave the terminal half restored.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self._give_back()
            self._show_errors()
        finally:
            for number, before in self._signals.items():
                signal.signal(number, before)
            signal.set_wakeup_fd(self._fd_before)
            for end in self._wake:
                os.close(end)
            signal.signal(signal.SIGINT, interrupt)

    def show(self, lines: Sequence[str]) -> None:
        """Draw lines over what is there; what they do not cover is blank."""
        self._write(HOME + "\r\n".join(line + REST_OF_LINE for line in lines) + REST)

    def keys(self, seconds: float) -> list[str]:
        """Return the keys that are pressed, or nothing after so many seconds, or sooner when the window changes.

        Characters are themselves; others have names: up, down, left, right, tab, backtab, enter, escape, backspace,
        pageup, pagedown, home, end. Raises EOFError when the terminal is gone.
        """
        sources = [self._wake[0], *([self._in] if self._in >= 0 else [])]
        ready, _, _ = select.select(sources, [], [], max(0.0, seconds))
        if self._wake[0] in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake[0], 4096)
        if self._in not in ready:
            return []
        read = os.read(self._in, 4096)
        if not read:
            raise EOFError("the terminal is gone")
        return list(_named(read.decode("utf-8", "ignore")))

    # --- parts -------------------------------------------------------------------------------------------

    def _take(self) -> None:
        if self._in >= 0:
            import termios  # noqa: PLC0415 (not on Windows)
            import tty  # noqa: PLC0415

            self._before = termios.tcgetattr(self._in)
            tty.setcbreak(self._in)
        self._write(ENTER)

    def _give_back(self) -> None:
        with contextlib.suppress(OSError):  # a terminal that is gone need not be restored
            self._write(LEAVE)
        if self._before is not None:
            import termios  # noqa: PLC0415

            with contextlib.suppress(termios.error, OSError):
                termios.tcsetattr(self._in, termios.TCSADRAIN, self._before)
            self._before = None

    def _set_errors_aside(self) -> None:
        if sys.stderr is None or not os.isatty(2):
            return
        sys.stderr.flush()
        aside = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `_show_errors`)
        self._errors = os.dup(2), aside
        os.dup2(aside.fileno(), 2)

    def _show_errors(self) -> None:
        if self._errors is None:
            return
        (real, aside), self._errors = self._errors, None
        sys.stderr.flush()
        os.dup2(real, 2)
        os.close(real)
        with aside:
            aside.seek(max(0, aside.seek(0, os.SEEK_END) - MOST))
            with contextlib.suppress(OSError):  # as above
                os.write(2, aside.read())

    def _write(self, text: str) -> None:
        rest = text.encode("utf-8", "replace")
        while rest:
            rest = rest[os.write(self._out, rest) :]

    def _end(self, number: int, _frame: FrameType | None) -> None:
        raise Ended(128 + number)

    def _resize(self, _number: int, _frame: FrameType | None) -> None:
        """The wake-up alone matters: the next frame has the new size."""

    def _suspend(self, _number: int, _frame: FrameType | None) -> None:
        self._give_back()
        # Not SIGTSTP again, which the kernel keeps from a process that has no shell above it.
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()


def _named(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        if text[at] == "\x1b":
            found = next((code for code in _SEQUENCES if text.startswith(code, at + 1)), None)
            if found is not None:
                yield _SEQUENCES[found]
                at += 1 + len(found)
            elif text[at + 1 : at + 2] in ("[", "O"):  # one that is not known, as a whole
                end = at + 2
                while end < len(text) and not "@" <= text[end] <= "~":
                    end += 1
                at = end + 1
            else:
                yield "escape"
                at += 1
            continue
        yield _CONTROLS.get(text[at], text[at])
        at += 1
