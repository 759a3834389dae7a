"""`amqptasks control`: change running workers."""

from __future__ import annotations

from typing import Any

import click

from amqptasks.cli.remote import Words, conversation_options, converse

NONE = Words()
_N = Words((("n", int),), shown="[N]")
COMMANDS: dict[str, tuple[Words, str]] = {
    "add_consumer": (
        Words(
            (("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)),
            required=1,
            shown="QUEUE [EXCHANGE [TYPE [KEY]]]",
        ),
        "consume one more queue",
    ),
    "autoscale": (
        Words((("max", int), ("min", int)), shown="[MAX [MIN]]"),
        "change the limits of autoscaling",
    ),
    "cancel_consumer": (Words((("queue", str),), required=1, shown="QUEUE"), "consume a queue no more"),
    "disable_events": (NONE, "send no task events"),
    "enable_events": (NONE, "send task events"),
    "heartbeat": (NONE, "send a heartbeat event now"),
    "pool_grow": (_N, "N slots more"),
    "pool_restart": (
        Words(rest="modules", shown="[MODULE...]"),
        "load the app anew, and these modules (worker_pool_restarts)",
    ),
    "pool_shrink": (_N, "N slots less"),
    "rate_limit": (
        Words((("task_name", str), ("rate_limit", str)), required=2, shown="TASK 10/s|100/m|1000/h|0"),
        "start a task at most so often",
    ),
    "revoke": (Words(rest="task_id", required=1, shown="ID..."), "never run these calls"),
    "revoke_by_stamped_headers": (
        Words(rest="headers", required=1, shown="NAME=VALUE..."),
        "never run what bears such a stamp",
    ),
    "shutdown": (NONE, "finish what runs, give back the rest, end"),
    "terminate": (
        Words((("signal", str),), rest="task_id", required=2, shown="SIGNAL ID..."),
        "revoke, and kill what runs these calls",
    ),
    "time_limit": (
        Words((("task_name", str), ("soft", float), ("hard", float)), required=2, shown="TASK SOFT [HARD]"),
        "limits in seconds, for what is received from now on",
    ),
}


@click.command("control")
@conversation_options
def command(**given: Any) -> None:
    """Tell the workers COMMAND and show what they answer within the time. `--list` shows the commands,
    with those of your own if -A names your app.

    \b
    amqptasks -A proj control rate_limit proj.tasks.mail 10/m
    amqptasks -A proj control shutdown -d w1@host

    Exit code 69 when nobody answers, 75 when a node that -d names is silent, 1
    when a worker answers with an error.
    """
    converse("control", COMMANDS, **given)
