"""`amqptasks inspect`: what workers are doing, asked of them."""

from __future__ import annotations

from typing import Any

import click

from amqptasks.cli.remote import Words, conversation_options, converse
from amqptasks.commands import truth

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
@conversation_options
def command(**given: Any) -> None:
    """Ask the workers COMMAND and show what they answer within the time. `--list` shows the commands,
    with those of your own if -A names your app.

    \b
    amqptasks -A proj inspect active
    amqptasks -A proj inspect stats -d w1@host --json

    Other names are asked too: they may be commands of your own. Exit code 69 when nobody answers, 75 when a
    node that -d names is silent, 1 when a worker answers with an error.
    """
    converse("inspect", COMMANDS, **given)
