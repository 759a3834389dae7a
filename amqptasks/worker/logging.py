"""The log of a worker, parent and children: level, place, format, colour on a terminal, no password in it.

Knows the settings by name and the log records of tasks; knows neither app nor pool.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from logging.handlers import WatchedFileHandler
from typing import Any, TextIO

from amqptasks import signals
from amqptasks.errors import WorkerError
from amqptasks.log import TASK_LOGGER
from amqptasks.masking import mask_url
from amqptasks.worker.options import WorkerOptions, expand

FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
TASK_FORMAT = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
COLOURS: Mapping[int, str] = {
    logging.DEBUG: "\033[34m",
    logging.WARNING: "\033[33m",
    logging.ERROR: "\033[31m",
    logging.CRITICAL: "\033[1;31m",
}
RESET = "\033[0m"


@dataclass(frozen=True, slots=True)
class LogSetup:
    """Where the log goes and what its lines look like; cheap to pickle, so that children get the parent's."""

    level: str = "WARNING"
    path: str | None = None
    """None is stderr."""
    colour: bool | None = None
    """None: when stderr is a terminal."""
    line: str = FORMAT
    dates: str | None = None
    task_line: str = TASK_FORMAT
    task_dates: str | None = None
    hijack: bool = True
    """Take the root logger from whoever configured it."""

    @classmethod
    def of(cls, options: WorkerOptions, settings: Mapping[str, Any] | None = None) -> LogSetup:
        """Return what the command line says and, once the app is loaded, its settings."""
        known = settings or {}
        return cls(
            level=options.loglevel,
            path=expand(options.logfile, options.node) if options.logfile else None,
            colour=options.colour if options.colour is not None else known.get("worker_log_color"),
            line=known.get("worker_log_format", FORMAT),
            dates=known.get("worker_log_datefmt"),
            task_line=known.get("worker_task_log_format", TASK_FORMAT),
            task_dates=known.get("worker_task_log_datefmt"),
            hijack=known.get("worker_hijack_root_logger", True),
        )


class Formatter(logging.Formatter):
    """Masks the passwords of URLs, tracebacks included, and colours a line by its level."""

    def __init__(self, line: str, dates: str | None, colour: bool) -> None:
        super().__init__(line, dates)
        self.colour = colour

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if "://" in text:
            text = " ".join(mask_url(word) if "://" in word else word for word in text.split(" "))
        start = COLOURS.get(record.levelno) if self.colour else None
        return f"{start}{text}{RESET}" if start else text


class _ByOrigin(logging.Formatter):
    """Lines that a task wrote carry its name and id; the others have a format of their own."""

    def __init__(self, setup: LogSetup, colour: bool) -> None:
        super().__init__()
        self.plain = Formatter(setup.line, setup.dates, colour)
        self.of_task = Formatter(setup.task_line, setup.task_dates, colour)

    def format(self, record: logging.LogRecord) -> str:
        written_by_task = getattr(record, "task_id", None) is not None
        return (self.of_task if written_by_task else self.plain).format(record)


class _Named(logging.Filter):
    """Says which process of the worker wrote a record: forked children would all be called the same."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def filter(self, record: logging.LogRecord) -> bool:
        record.processName = self.process
        return True


class _Own:
    """Marks the one log handler that we put on the root logger, so that a second call replaces it."""


class _ToStream(_Own, logging.StreamHandler[TextIO]):
    pass


class _ToFile(_Own, WatchedFileHandler):
    """Whoever rotates the file moves it away; parent and children each notice, and begin a new one."""


def install(setup: LogSetup, sender: object = None, process: str = "MainProcess") -> None:
    """Log as `setup` says from now on; a later call replaces an earlier. `process` names this one in lines.

    Where the user connected to `signals.setup_logging` it is his business alone. Raises WorkerError when the
    file cannot be opened.
    """
    named = {"loglevel": setup.level, "logfile": setup.path, "format": setup.line, "colorize": setup.colour}
    if signals.setup_logging.receivers:
        signals.setup_logging.send(sender, **named)
        return
    root = logging.getLogger()
    for old in list(root.handlers):
        if setup.hijack or isinstance(old, _Own):
            root.removeHandler(old)
            old.close()
    own = _opened(setup.path)
    colour = setup.path is None and (_wanted() if setup.colour is None else setup.colour)
    own.setFormatter(_ByOrigin(setup, colour))
    own.addFilter(_Named(process))
    root.addHandler(own)
    root.setLevel(setup.level)
    logging.captureWarnings(capture=True)
    # pika tells of each frame at DEBUG, and at ERROR of a lost connection that we report ourselves.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    signals.after_setup_logger.send(sender, logger=root, **named)
    signals.after_setup_task_logger.send(sender, logger=logging.getLogger(TASK_LOGGER), **named)


def _wanted() -> bool:
    """Colours on a terminal, unless the convention of no-color.org says none."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def _opened(path: str | None) -> logging.Handler:
    if path is None:
        return _ToStream(sys.stderr)
    try:
        return _ToFile(path, encoding="utf-8")
    except OSError as error:
        raise WorkerError(
            f"the log file {path} cannot be opened: {error.strerror}; name another by -f"
        ) from error


class LoggedText:
    """Stands for stdout or stderr in a child: each line that a task prints becomes a log line."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, level: int) -> None:
        self._level = level
        self._logger = logging.getLogger("amqptasks.redirected")
        self._writing = False
        self._begun = ""

    def write(self, text: str) -> int:
        # A log handler that fails prints its traceback here: that must not be logged again.
        if self._writing:
            return len(text)
        *lines, self._begun = (self._begun + text).split("\n")
        self._log(lines)
        return len(text)

    def _log(self, lines: list[str]) -> None:
        self._writing = True
        try:
            for line in lines:
                if line.strip():
                    self._logger.log(self._level, "%s", line.rstrip())
        finally:
            self._writing = False

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log the line that was begun."""
        begun, self._begun = self._begun, ""
        if not self._writing:
            self._log([begun])

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise OSError("the standard streams of a child are logged; they have no descriptor")


def set_clock(zone: str | None) -> None:
    """Write times of this zone (the variable TZ; None: the machine's own) from now on, as the children do."""
    if zone == os.environ.get("TZ"):
        return
    if zone is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = zone
    time.tzset()


def redirect_stdouts(level: str) -> None:
    """Log what is printed from now on. For children, after `install`, which keeps the real stderr."""
    sys.stdout = LoggedText(logging.getLevelName(level))
    sys.stderr = LoggedText(logging.getLevelName(level))
