"""The options that stand before or after every command.

`amqptasks -A proj worker` and `amqptasks worker -A proj` are the same: both places write into the context's
`meta`, and what is nearer to the user wins: command line, then environment. Knows no command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])

KEY = "amqptasks."


@dataclass(frozen=True, slots=True)
class Common:
    """What was said of the options that every command has."""

    app: str | None = None
    broker: str | None = None
    result_backend: str | None = None
    workdir: str | None = None
    no_color: bool = False
    quiet: bool = False
    traceback: bool = False
    json: bool = False

    @classmethod
    def current(cls) -> Common:
        """Return what this run of the command line was told."""
        meta = click.get_current_context().meta
        return cls(**{name: meta[KEY + name][1] for name in cls.__slots__ if KEY + name in meta})

    @property
    def folder(self) -> Path:
        """The working folder, absolute."""
        return Path(self.workdir or Path.cwd())


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    name = str(parameter.name)
    source = context.get_parameter_source(name)
    if source not in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
        return
    rank = 1 if source is ParameterSource.COMMANDLINE else 0
    if rank >= context.meta.get(KEY + name, (0, None))[0]:
        context.meta[KEY + name] = (rank, value)


def _option(*names: str, **attributes: Any) -> Callable[[F], F]:
    return click.option(*names, callback=_remember, expose_value=False, **attributes)


_BASIC = (
    _option(
        "-A",
        "--app",
        metavar="APP",
        help="The app: pkg, pkg.module, pkg.module:attribute or a function returning it.",
    ),
    _option("-b", "--broker", metavar="URL", help="Broker URL: amqp://user:password@host:port/vhost."),
    _option("--result-backend", metavar="URL", help="Where results go: rpc:// by default."),
    _option(
        "--workdir",
        metavar="DIR",
        type=click.Path(file_okay=False, exists=True, resolve_path=True),
        help="Start in this folder.",
    ),
    _option("-C", "--no-color", is_flag=True, help="No colours."),
    _option("-q", "--quiet", is_flag=True, help="Print results and errors only."),
    _option("--traceback", is_flag=True, help="Show the whole traceback of an error."),
)
_JSON = _option("--json", is_flag=True, help="Print JSON, errors included.")


def common_options(function: F) -> F:
    """Give a command the options that every command has."""
    for option in reversed(_BASIC):
        function = option(function)
    return function


def listing_options(function: F) -> F:
    """Give a command that shows something the common options and `--json`."""
    return common_options(_JSON(function))


def names(text: str) -> tuple[str, ...]:
    """Read names separated by commas."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise click.BadParameter("no name in it; separate names by commas: short,long")
    return found


def trailing_settings(
    _context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]
) -> dict[str, str]:
    """Read the `name=value` words after `--`."""
    pairs = [word.removeprefix("--").partition("=") for word in words]
    for word, (name, equals, _) in zip(words, pairs, strict=True):
        if not equals or not name.isidentifier():
            raise click.UsageError(f"unexpected argument {word!r}; settings are written name=value, after --")
    return {name.lower(): value for name, _, value in pairs}
