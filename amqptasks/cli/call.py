"""`amqptasks call`: calls a task by name, with or without the app at hand."""

from __future__ import annotations

import difflib
import json
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import click

from amqptasks.app import App
from amqptasks.cli.apps import load_any_app
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.output import USAGE, Failure, show_json
from amqptasks.cli.spec import app_spec
from amqptasks.errors import AmqptasksError
from amqptasks.options import SendOptions
from amqptasks.result import AsyncResult
from amqptasks.waiting import RemoteTraceback
from amqptasks.worker.loading import import_tasks


def _json_of(kind: type[Any], written: str) -> Any:
    def read(text: str) -> Any:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is no JSON ({error}); write for example {written}") from None
        if not isinstance(value, kind):
            raise click.BadParameter(
                f"{text!r} is a JSON {type(value).__name__}; write for example {written}"
            )
        return value

    return read


def _moment(text: str) -> datetime:
    """Read a time in ISO 8601, which may leave the zone to the app, or seconds from now."""
    try:
        if text.replace(".", "", 1).isdigit():
            return datetime.now(UTC) + timedelta(seconds=float(text))
        return datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a time such as 2030-01-31T12:00:00+00:00 nor a number of seconds from now"
        ) from None


@click.command("call")
@click.argument("name")
@click.argument("values", nargs=-1, metavar="[VALUE]...")
@click.option(
    "-a",
    "--args",
    "listed",
    type=_json_of(list, "[2, 3]"),
    metavar="JSON",
    help="Arguments, as a JSON list; or give them after NAME, each as JSON or plain text.",
)
@click.option(
    "-k",
    "--kwargs",
    type=_json_of(dict, '{"x": 2}'),
    metavar="JSON",
    default="{}",
    help="Named arguments: a JSON object.",
)
@click.option(
    "--eta",
    type=_moment,
    metavar="TIME",
    help="Not before this time: ISO 8601, in the app's timezone unless it says.",
)
@click.option("--countdown", type=click.FloatRange(0), metavar="SECONDS", help="Not before so many seconds.")
@click.option("--expires", type=_moment, metavar="TIME", help="Not after: ISO 8601, or seconds from now.")
@click.option("--serializer", metavar="NAME", help="json, msgpack, yaml or pickle. [task_serializer]")
@click.option("--queue", metavar="NAME", help="Send to this queue.")
@click.option("--exchange", metavar="NAME", help="Publish to this exchange, with --routing-key.")
@click.option("--routing-key", metavar="KEY", help="Publish with this routing key.")
@click.option("--priority", type=click.IntRange(0, 255), metavar="N", help="For queues with priorities.")
@click.option("--wait", is_flag=True, help="Wait for the result and print it.")
@click.option(
    "--timeout",
    type=click.FloatRange(0),
    default=60.0,
    metavar="SECONDS",
    help="How long --wait waits. [60]",
)
@click.option("--by-name", is_flag=True, help="Call it although the app does not register it.")
@listing_options
def command(
    name: str,
    values: tuple[str, ...],
    listed: list[Any] | None,
    kwargs: dict[str, Any],
    *,
    wait: bool,
    timeout: float,
    by_name: bool,
    **sending: Any,
) -> None:
    """Call the task NAME and print the id of the call; with --wait its result.

    \b
    amqptasks -A proj call proj.tasks.add 2 3 --wait
    amqptasks -b amqp://broker// call proj.tasks.add -a '[2, 3]' --queue short

    Without an app the call is made by name alone, over the broker of -b.
    """
    common = Common.current()
    if values and listed is not None:
        raise click.UsageError("arguments are given twice; write them after NAME or in -a, not both")
    args = [_value(text) for text in values] if listed is None else listed
    with load_any_app(common) as app:
        known = None if by_name or not app_spec(common) else _checked(app, name)
        given = {key: value for key, value in sending.items() if value is not None}
        options = cast(SendOptions, {**given, "ignore_result": not wait})
        try:
            result = (
                app.send_task(name, args, kwargs, **options)
                if known is None
                else known.apply_async(args, kwargs, **options)
            )
        except TypeError as error:
            raise Failure(str(error), USAGE, "see the task's signature") from error
        _show(result, common, wait, timeout)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _checked(app: App, name: str) -> Any:
    """Return the task. A call of a name that nobody knows would end in a dead-letter queue."""
    import_tasks(app)
    if name in app.tasks:
        return app.tasks[name]
    near = difflib.get_close_matches(name, list(app.tasks), n=1)
    hint = f"did you mean {near[0]!r}?" if near else "the worker may know it: add --by-name"
    raise Failure(f"the app has no task {name!r}", USAGE, hint)


def _show(result: AsyncResult[Any], common: Common, wait: bool, timeout: float) -> None:
    if not wait:
        show_json({"id": result.id}) if common.json else print(result.id)
        return
    try:
        value = result.get(timeout=timeout)
    except AmqptasksError:
        raise
    except Exception as error:
        line = f"task {result.id} raised {type(error).__name__}: {error}"
        text = error.__cause__.text if isinstance(error.__cause__, RemoteTraceback) else ""
        raise Failure(line, hint="see its traceback by --traceback", remote_traceback=text) from error
    show_json({"id": result.id, "state": result.state, "result": value} if common.json else value)
