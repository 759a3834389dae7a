"""`amqptasks purge`: empties queues, after saying what is lost."""

from __future__ import annotations

import difflib

import click

from amqptasks.cli.apps import load_app
from amqptasks.cli.options import Common, listing_options, names
from amqptasks.cli.output import CONFIG, FAILED, Failure, show_json
from amqptasks.cli.queues import count
from amqptasks.errors import NotFound


@click.command("purge")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-Q", "--queues", type=names, metavar="NAMES", help="These queues only: short,long.")
@click.option("-X", "--exclude-queues", type=names, metavar="NAMES", help="The app's queues but not these.")
@listing_options
def command(force: bool, queues: tuple[str, ...] | None, exclude_queues: tuple[str, ...] | None) -> None:
    """Remove the waiting messages of the app's queues. There is no way back.

    What workers hold already is not touched. Dead-letter queues are emptied when named: -Q short.dead.
    """
    common = Common.current()
    with load_app(common) as app:
        # Names of -Q are taken as they are: dead-letter queues may be emptied, and a typo creates nothing.
        configured = [queue.name for queue in app.router.select(exclude=exclude_queues or ())]
        chosen = [name for name in queues or configured if name not in (exclude_queues or ())]
        waiting = {name: found for name in chosen if (found := count(name, app.connection)) is not None}
        missing = [name for name in chosen if name not in waiting]
        if queues and missing:
            raise Failure(*_no_queue(missing[0], configured))
        held = {name: found.messages for name, found in waiting.items()}
        if not force and any(held.values()):
            listed = ", ".join(f"{name} ({number})" for name, number in held.items())
            if not click.confirm(f"Remove all messages from {listed}?", err=True):
                click.get_current_context().exit(FAILED)
        removed: dict[str, int] = {}
        for name in held:
            try:
                removed[name] = app.connection.purge(name)
            except NotFound:  # deleted since it was counted
                removed[name] = 0
    if common.json:
        show_json(removed)
    elif not common.quiet:
        total = sum(removed.values())
        print(f"{total} message{'' if total == 1 else 's'} removed from {', '.join(removed) or 'no queue'}")


def _no_queue(name: str, known: list[str]) -> tuple[str, int, str]:
    near = difflib.get_close_matches(name, known, n=1)
    cure = f"did you mean {near[0]!r}?" if near else "`amqptasks queues` lists what there is"
    return f"there is no queue {name!r}", CONFIG, cure
