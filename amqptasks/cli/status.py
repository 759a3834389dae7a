"""`amqptasks status`: which workers are there."""

from __future__ import annotations

import click

from amqptasks.cli.apps import load_any_app
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.output import show_json
from amqptasks.cli.remote import TIMEOUT, asked, fail_if_silent, remote_options


@click.command("status")
@remote_options
@listing_options
def command(destination: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """List the workers that answer within the time. Exit code 69 when there is none, 75 when one that -d names
    is silent."""
    common = Common.current()
    with load_any_app(common) as app:
        answers = asked(app, "ping", {}, destination, timeout)
    if common.json or as_json:
        show_json(answers)
    else:
        for node in answers:
            print(f"{node}: OK")
        print(f"\n{len(answers)} {'node' if len(answers) == 1 else 'nodes'} online.")
    fail_if_silent(answers, destination, timeout or TIMEOUT)
