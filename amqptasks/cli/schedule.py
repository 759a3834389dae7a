"""`amqptasks schedule`: what the leading beat sends when; entries are added, paused, run and removed while it runs."""

from __future__ import annotations

import sys
from typing import Any

import click
import orjson

from amqptasks.beat.asking import ask
from amqptasks.beat.entries import POLICIES, read
from amqptasks.cli.apps import load_app
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.output import Failure, show_json, table
from amqptasks.schedules import crontab, schedule


def _tell(command: str, entry: str, given: dict[str, Any] | None = None) -> None:
    common = Common.current()
    with load_app(common) as app:
        answer = ask(app, command, entry, given)
    if "error" in answer:
        raise Failure(str(answer["error"]))
    if common.json:
        show_json(answer)
        return
    if not common.quiet:
        print(" ".join(str(answer[key]) for key in ("ok", "id") if key in answer))
    if "remark" in answer:
        print(f"note: {answer['remark']}", file=sys.stderr)


@click.group("schedule")
def command() -> None:
    """Look at and change what the leading beat sends. Changes are kept on the broker."""


@command.command("list")
@listing_options
def list_() -> None:
    """List the entries: schedule, last and next due time, paused or not."""
    common = Common.current()
    with load_app(common) as app:
        rows = ask(app, "list")["entries"]
    if common.json:
        show_json(rows)
        return
    head = ("entry", "task", "schedule", "last", "next", "state")
    print(table(head, [_cells(row) for row in rows]))


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    following = None if row["paused"] else row["next"]
    return (*(row[key] for key in ("name", "task", "schedule", "last")), following, _state(row))


def _state(row: dict[str, Any]) -> str:
    return "paused" if row["paused"] else "added" if row["added"] else ""


@command.command("add")
@click.argument("name")
@click.argument("task")
@click.option("--every", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="An interval.")
@click.option("--cron", metavar="FIELDS", help="minute hour day month weekday: '*/15 8-18 * * mon-fri'.")
@click.option("--timezone", metavar="ZONE", help="The zone of --cron: Europe/London. [the app's]")
@click.option("-a", "--args", metavar="JSON", default="[]", help="Positional arguments: [1, 2].")
@click.option("-k", "--kwargs", metavar="JSON", default="{}", help='Keyword arguments: {"x": 1}.')
@click.option("-Q", "--queue", metavar="NAME", help="The queue. [the task's]")
@click.option("--catch-up", type=click.Choice(POLICIES), default="latest", help="About runs missed. [latest]")
@listing_options
def add(
    name: str, task: str, every: float | None, cron: str | None, timezone: str | None, **given: Any
) -> None:
    """Add an entry, or change one that was added."""
    if (every is None) == (cron is None):
        raise click.UsageError("give either --every SECONDS or --cron 'FIELDS'")
    if every is not None and timezone is not None:
        raise click.UsageError(
            "an interval has no --timezone; it is for --cron, and for the hours that it names"
        )
    when = schedule(every) if every is not None else crontab.from_string(str(cron), timezone)
    line = {
        "task": task,
        "schedule": when.spec(),
        "args": _json(given["args"], list, "--args"),
        "kwargs": _json(given["kwargs"], dict, "--kwargs"),
        "options": {"queue": given["queue"]} if given["queue"] else {},
        "catch_up": given["catch_up"],
    }
    read(name, line)
    _tell("add", name, line)


def _json(text: str, kind: type[Any], option: str) -> Any:
    try:
        found = orjson.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, kind):
        raise click.UsageError(f"{option} {text!r} is no JSON {'list' if kind is list else 'object'}")
    return found


def _named(name: str, what: str) -> None:
    @click.argument("entry")
    @listing_options
    def told(entry: str) -> None:
        _tell(name, entry)

    told.__doc__ = what
    command.command(name)(told)


_named("pause", "Send an entry no more, until it is resumed.")
_named("resume", "Send a paused entry again, from now on.")
_named("run", "Send an entry now, besides its schedule.")
_named("remove", "Remove an entry that was added; one of the app's own can be paused.")
