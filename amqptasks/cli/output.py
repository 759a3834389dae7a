"""What the commands print: tables, JSON, errors in one line, and the exit code of each error.

Knows the error tree and click; knows no command.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from amqptasks import errors

OK = 0
FAILED = 1
USAGE = 2
UNAVAILABLE = 69
INTERNAL = 70
CANNOT_CREATE = 73
TEMPORARY = 75
REFUSED = 77
CONFIG = 78
INTERRUPTED = 130
PIPE_CLOSED = 141

# The first class that fits decides, so the special ones stand before their parents.
_CODES: tuple[tuple[type[BaseException], int], ...] = (
    (errors.AppNotFound, USAGE),
    (errors.AppImportFailed, USAGE),
    (errors.ImproperlyConfigured, CONFIG),
    (errors.DuplicateNode, CANNOT_CREATE),
    (errors.PoolFailed, INTERNAL),
    (errors.WorkerError, CANNOT_CREATE),
    (errors.AccessRefused, REFUSED),
    (errors.VhostNotFound, CONFIG),
    (errors.TLSFailed, CONFIG),
    (errors.BrokerUnavailable, UNAVAILABLE),
    (errors.Unroutable, CONFIG),
    (errors.NotFound, CONFIG),
    (errors.TopologyMismatch, CONFIG),
    (errors.TooLarge, FAILED),
    (errors.TransportError, TEMPORARY),
    (errors.TimeoutError, TEMPORARY),
    (errors.TaskError, FAILED),
    (errors.ResultError, FAILED),
    (errors.MessageError, FAILED),
)


class Failure(click.ClickException):
    """Ends a command with one line and an exit code; `hint` is the cure, which JSON shows apart.

    `remote_traceback` is what `--traceback` shows instead of ours.
    """

    def __init__(
        self, message: str, code: int = FAILED, hint: str = "", *, remote_traceback: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
        self.remote_traceback = remote_traceback


def exit_code(error: BaseException) -> int:
    """Return the documented exit code of an error; 70 for what should not happen."""
    if isinstance(error, Failure):
        return error.code
    if isinstance(error, click.ClickException):
        return error.exit_code
    return next((code for kind, code in _CODES if isinstance(error, kind)), INTERNAL)


def sentence(error: BaseException) -> tuple[str, str]:
    """Return what happened and why, and the cure: our messages separate them by the first semicolon."""
    if isinstance(error, Failure) and error.hint:
        return _line(error.message), _line(error.hint)
    if isinstance(error, click.NoSuchOption):
        return f"there is no option {error.option_name}", _nearest(error)
    if isinstance(error, click.ClickException):
        return _halves(_line(error.format_message()).rstrip("."))
    if isinstance(error, errors.AmqptasksError):
        return _halves(_line(str(error)) or type(error).__name__)
    return f"internal error: {_line(f'{type(error).__name__}: {error}')}", "add --traceback and report it"


def _nearest(error: click.NoSuchOption) -> str:
    if error.possibilities:
        return f"did you mean {error.possibilities[0]}?"
    return f"see `{error.ctx.command_path} --help`" if error.ctx else "see --help"


def _line(text: str) -> str:
    return " ".join(text.split())


def _halves(text: str) -> tuple[str, str]:
    happened, _, cure = text.partition("; ")
    return happened, cure


def report(error: BaseException, *, as_json: bool, with_traceback: bool, coloured: bool = False) -> int:
    """Write the error to stderr in one line (or as JSON to stdout) and return its exit code."""
    code, (happened, cure) = exit_code(error), sentence(error)
    if with_traceback:
        sys.stderr.write(_traceback(error))
    if as_json:
        print(json.dumps({"error": {"code": code, "message": happened, "hint": cure or None}}))
    else:
        start = "\033[1;31merror:\033[0m " if coloured else "error: "
        print(start + "; ".join(filter(None, (happened, cure))), file=sys.stderr)
    return code


def _traceback(error: BaseException) -> str:
    # The user's own frames say more than those through which his module was imported.
    told = getattr(error, "remote_traceback", "")
    return f"{told.rstrip()}\n" if told else "".join(traceback.format_exception(error))


# --- tables ----------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return aligned columns, numbers to the right; None is shown as `-`."""
    texts = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *texts, strict=True)]
    right = [bool(rows) and all(isinstance(row[at], int | None) for row in rows) for at in range(len(head))]
    lines = [head, *texts]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if flag else cell.ljust(width)
            for cell, width, flag in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def show_json(value: Any) -> None:
    """Print a value as JSON, indented on a terminal; what JSON has no word for becomes text."""
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, default=str, ensure_ascii=False))
