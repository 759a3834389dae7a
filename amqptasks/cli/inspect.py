"""`amqptasks inspect`: what workers are doing, asked of them."""

from __future__ import annotations

import click

from amqptasks.cli.apps import load_any_app
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.remote import Words, asked, listed, remote_options, show, truth

NONE = Words()
COMMANDS: dict[str, tuple[Words, str]] = {
    "active": (NONE, "calls that run"),
    "active_queues": (NONE, "queues that are consumed"),
    "clock": (NONE, "the logical clock"),
    "conf": (Words((("with_defaults", truth),), shown="[true]"), "settings; true: the defaults too"),
    "memdump": (Words((("samples", int),), shown="[N]"), "memory of the worker's parent process"),
    "memsample": (NONE, "the same, now"),
    "ping": (NONE, "who is there"),
    "query_task": (Words(rest="ids", required=1, shown="ID..."), "where these calls are"),
    "registered": (Words(rest="taskinfoitems", shown="[ATTRIBUTE...]"), "tasks, with these attributes"),
    "report": (NONE, "versions and settings"),
    "reserved": (NONE, "calls that wait in the workers"),
    "revoked": (NONE, "ids that are revoked"),
    "scheduled": (NONE, "calls that wait in the workers for their time"),
    "stats": (NONE, "counts, pool, broker, use of resources"),
}


@click.command("inspect")
@click.argument("name", metavar="COMMAND", required=False)
@click.argument("words", nargs=-1, metavar="[ARGUMENTS]...")
@click.option("--list", "-l", "only_list", is_flag=True, help="List the commands.")
@remote_options
@listing_options
def command(  # noqa: PLR0917 (click passes by name)
    name: str | None,
    words: tuple[str, ...],
    only_list: bool,
    destination: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Ask the workers COMMAND and show what they answer within the time. `--list` shows the commands.

    \b
    amqptasks -A proj inspect active
    amqptasks -A proj inspect stats -d w1@host --json

    Other names are asked too: they may be commands of your own. Exit code 69 when nobody answers.
    """
    common = Common.current()
    if only_list or name is None:
        print(listed(COMMANDS))
        return
    reader = COMMANDS[name][0] if name in COMMANDS else Words()
    arguments = reader.read(name, words)
    with load_any_app(common) as app:
        answers = asked(app, name, arguments, destination, timeout)
    show(answers, as_json=common.json or as_json)
