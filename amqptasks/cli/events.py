"""`amqptasks events`: what workers and tasks do, as it happens: lines, a live table, snapshots for a class of yours."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from amqptasks.app import App
from amqptasks.cli.apps import load_any_app
from amqptasks.cli.drawing import printable
from amqptasks.cli.filming import Film, film, made
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.output import table
from amqptasks.dotted import find
from amqptasks.event_state import State

CLEAR = "\033[H\033[2J"
ROWS = 20
NO_TASKS = "no task has told of itself; workers do with -E, or after `amqptasks control enable_events`"


@click.command("events")
@click.option(
    "-d", "--dump", is_flag=True, help="Print a line for each event. So it is too when piped, or with --json."
)
@click.option(
    "-c", "--camera", metavar="CLASS", help="Call it with the state at each interval: package.module:Class."
)
@click.option("-F", "--frequency", "--freq", type=click.FloatRange(0, min_open=True), default=1.0, metavar="SECONDS",
              help="The interval of the camera, and of the screen. [1.0]")  # fmt: skip
@click.option("-r", "--maxrate", metavar="RATE", help='Pictures that the camera takes at most: "10/m".')
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="End after N events.")
@click.option(
    "-t", "--timeout", type=click.FloatRange(0), metavar="SECONDS", help="End when none has come for so long."
)
@listing_options
def command(  # noqa: PLR0917  (click gives them by name)
    dump: bool,
    camera: str | None,
    frequency: float,
    maxrate: str | None,
    limit: int | None,
    timeout: float | None,
) -> None:
    """Show events until Ctrl-C. Task events come from workers started with -E, or after `control enable_events`.

    \b
    amqptasks -A proj events
    amqptasks -A proj events --json | jq .type
    amqptasks -A proj events --camera proj.monitor:Camera -F 5
    """
    common = Common.current()
    with load_any_app(common) as app:
        if camera is not None:
            state = app.events.State()
            shooting = made(find(camera, "--camera"), state, freq=frequency, maxrate=maxrate, app=app)
            film(app, Film(shooting, state, frequency, maxrate), state, limit, timeout)
        elif dump or common.json or not sys.stdout.isatty():
            _print(app, _line if not common.json else _json, limit, timeout)
        else:
            state = app.events.State()
            film(app, Film(_draw, state, frequency), state, limit, timeout)


def _print(app: App, line: Callable[[dict[str, Any]], str], limit: int | None, timeout: float | None) -> None:
    for event in app.events.Receiver().itercapture(limit, timeout):
        print(line(event), flush=True)


def _json(event: dict[str, Any]) -> str:
    return json.dumps(event, default=str, ensure_ascii=False)


def _line(event: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(float(event.get("timestamp") or 0.0), UTC).isoformat(" ", "milliseconds")
    shown = ("uuid", "name", "args", "kwargs", "result", "runtime", "exception", "active", "processed")
    told = " ".join(f"{name}={event[name]}" for name in shown if event.get(name) is not None)
    return printable(f"{event.get('hostname')} [{at}] {event['type']} {told}".rstrip())


def _row(*cells: Any) -> tuple[Any, ...]:
    """What others send must not steer the terminal."""
    return tuple(printable(cell) if isinstance(cell, str) else cell for cell in cells)


def _draw(state: State) -> None:
    workers = [
        _row(worker.hostname, worker.status_string, worker.active, worker.processed)
        for worker in sorted(state.workers.values(), key=lambda each: each.hostname)
    ]
    tasks = [
        _row(
            uuid,
            task.state,
            task.name,
            task.worker and task.worker.hostname,
            f"{task.runtime:.3f}" if task.runtime is not None else None,
        )
        for uuid, task in state.tasks_by_time(ROWS)
    ]
    parts = [
        f"{CLEAR}{time.strftime('%H:%M:%S')}  {state.event_count} events, {state.task_count} tasks  (Ctrl-C ends)",
        table(("worker", "state", "active", "processed"), workers),
        table(("task", "state", "name", "worker", "seconds"), tasks) if tasks else NO_TASKS,
    ]
    print("\n\n".join(parts), flush=True)
