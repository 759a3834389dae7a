"""The program `amqptasks`: finds and imports the command; turns every error into a line and an exit code.

Imports click alone, so that `--version`, `--help` and completion answer at once.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from amqptasks import __version__
from amqptasks.cli.options import listing_options
from amqptasks.cli.output import INTERRUPTED, PIPE_CLOSED, USAGE, report

PROGRAM = "amqptasks"
ENVIRONMENT = "AMQPTASKS"

# name -> one line for the list; the command itself is `amqptasks.cli.<name>:command`
COMMANDS = {
    "worker": "Run a worker: take messages from queues and run their tasks.",
    "beat": "Run a scheduler: send periodic tasks when they are due; any number may run.",
    "schedule": "List, add, pause, resume, run or remove periodic tasks, while beat runs.",
    "multi": "Start, stop and restart several workers on this machine.",
    "call": "Call a task by name, and wait for its result if wanted.",
    "result": "Show a task's state and result.",
    "dead": "List, show, replay or drop dead letters.",
    "purge": "Empty queues.",
    "inspect": "Ask the workers what they are doing.",
    "control": "Change running workers: rate limits, revokes, queues, pool.",
    "status": "List the workers that answer.",
    "events": "Show what workers and tasks do, as it happens.",
    "dashboard": "Serve pages that show queues, workers and tasks, and steer them.",
    "top": "Watch queues, workers and calls, live, in the terminal.",
    "queues": "List the app's queues with messages and consumers.",
    "topology": "Export exchanges, queues and policies for the broker.",
    "report": "Show versions, settings and broker, for a bug report.",
    "shell": "Open a Python shell with the app and its tasks.",
    "completion": "Print the completion script of a shell.",
}

# Commands of Celery's that have their turn later, or never, each with what to do instead.
ABSENT = {
    "list": "`amqptasks queues` lists the queues, `amqptasks topology export` the bindings",
    "graph": "`amqptasks report` shows the settings, `amqptasks queues` the queues",
    "migrate": "move messages with RabbitMQ's shovel plugin",
    "upgrade": "settings have their lower-case names here; an unknown one is named at start",
    "amqp": "use rabbitmqadmin, or `amqptasks queues` and `amqptasks purge`",
    "logtool": "use grep on the worker's log",
}

# Raised by click from 8.2 on; before, it printed the help itself.
NO_COMMAND: tuple[type[click.UsageError], ...] = tuple(
    filter(None, [getattr(click.exceptions, "NoArgsIsHelpError", None)])
)

EPILOG = """\b
Exit codes:
   0  done
   1  the task or the command failed
   2  wrong usage, or the app cannot be imported
  69  the broker does not answer, or no worker does
  70  internal error
  73  another worker has this node name or port, or a file cannot be created
  75  temporary failure: try again
  77  the broker refused user, password or permission
  78  wrong configuration: setting, virtual host, queue or certificate
 128+n  ended by signal n

Every option can be given in the environment: AMQPTASKS_APP, AMQPTASKS_WORKER_QUEUES.
"""

REMOTE = {"inspect", "control", "status"}
"""Where -j is --json, as for Celery's commands."""


class Program(click.Group):
    """The list of commands, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(f"amqptasks.cli.{cmd_name}").command
        return found if isinstance(found, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in COMMANDS or name.startswith("-"):
            return super().resolve_command(ctx, args)
        if name in ABSENT:
            raise click.UsageError(f"there is no command {name!r}; {ABSENT[name]}", ctx)
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        cure = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
        raise click.UsageError(f"there is no command {name!r}; {cure}", ctx)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # which click would make exit code 1 of
            return _reader_gone()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    click.echo(f"{PROGRAM} {__version__}")
    context.exit()


@click.group(
    cls=Program,
    name=PROGRAM,
    epilog=EPILOG,
    context_settings={"help_option_names": ["--help", "-h"], "auto_envvar_prefix": ENVIRONMENT},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)
@listing_options
def program() -> None:
    """A distributed task queue for RabbitMQ.

    The options below stand before or after the command.
    """


def _reader_gone() -> int:
    """`| head` has what it wanted; the interpreter must not try to flush into the pipe again. Return the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def _plain(options: Sequence[str]) -> bool:
    """Whether colours are unwanted: told so, or by the convention of no-color.org."""
    return "-C" in options or "--no-color" in options or bool(os.environ.get("NO_COLOR"))


def _as_json(options: Sequence[str]) -> bool:
    """Whether errors are to be JSON. The words decide: those that make no sense are an error too."""
    if "--json" in options:
        return True
    return not REMOTE.isdisjoint(options) and any(re.fullmatch("-j[a-zA-Z]*", word) for word in options)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `args` defaults to those of the process."""
    given = list(sys.argv[1:] if args is None else args)
    options = given[: given.index("--")] if "--" in given else given
    try:
        answer = program.main(given, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return answer if isinstance(answer, int) else 0
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except NO_COMMAND as error:
        error.show()  # the help, which is no error in one line
        return USAGE
    except BrokenPipeError:
        return _reader_gone()
    except Exception as error:
        return report(
            error,
            as_json=_as_json(options),
            with_traceback="--traceback" in options or bool(os.environ.get(f"{ENVIRONMENT}_TRACEBACK")),
            coloured=sys.stderr.isatty() and not _plain(options),
        )
