"""`amqptasks events`: what workers and tasks do, as it happens: lines, a live table, snapshots for a class of yours."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from amqptasks.app import App
from amqptasks.cli.apps import load_any_app
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.output import table
from amqptasks.dotted import find
from amqptasks.event_state import State

CLEAR = "\033[H\033[2J"
ROWS = 20


@click.command("events")
@click.option(
    "-d", "--dump", is_flag=True, help="Print a line for each event. So it is too when piped, or with --json."
)
@click.option(
    "-c", "--camera", metavar="CLASS", help="Call it with the state at each interval: package.module:Class."
)
@click.option("-F", "--frequency", "--freq", type=click.FloatRange(0, min_open=True), default=1.0, metavar="SECONDS",
              help="The interval of the camera, and of the screen. [1.0]")  # fmt: skip
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="End after N events.")
@click.option(
    "-t", "--timeout", type=click.FloatRange(0), metavar="SECONDS", help="End when none has come for so long."
)
@listing_options
def command(
    dump: bool, camera: str | None, frequency: float, limit: int | None, timeout: float | None
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
            _film(app, _camera(camera, app), frequency, limit, timeout)
        elif dump or common.json or not sys.stdout.isatty():
            _print(app, _line if not common.json else _json, limit, timeout)
        else:
            _film(app, _draw, frequency, limit, timeout)


def _print(app: App, line: Callable[[dict[str, Any]], str], limit: int | None, timeout: float | None) -> None:
    for event in app.events.Receiver().itercapture(limit, timeout):
        print(line(event), flush=True)


def _json(event: dict[str, Any]) -> str:
    return json.dumps(event, default=str, ensure_ascii=False)


def _line(event: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(float(event.get("timestamp") or 0.0), UTC).isoformat(" ", "milliseconds")
    shown = ("uuid", "name", "args", "kwargs", "result", "runtime", "exception", "active", "processed")
    told = " ".join(f"{name}={event[name]}" for name in shown if event.get(name) is not None)
    return f"{event.get('hostname')} [{at}] {event['type']} {told}".rstrip()


def _film(
    app: App, shoot: Callable[[State], Any], frequency: float, limit: int | None, timeout: float | None
) -> None:
    """Keep a state of what is received, and show it to `shoot` at each interval and at the end."""
    state, ended = app.events.State(), threading.Event()
    receiver = app.events.Receiver(state=state)
    failures: list[BaseException] = []

    def receive() -> None:
        try:
            receiver.capture(limit, timeout)
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=receive, name="amqptasks-events", daemon=True)
    thread.start()
    try:
        while not ended.wait(frequency):
            shoot(state)
    finally:
        receiver.stop()
        thread.join(5.0)
    if failures:
        raise failures[0]
    shoot(state)


def _camera(name: str, app: App) -> Callable[[State], Any]:
    """Return what is called: `on_shutter` of an object of the class, or a function."""
    found = find(name, "--camera")
    made = found(app) if isinstance(found, type) else found
    return getattr(made, "on_shutter", made)  # type: ignore[no-any-return]


def _draw(state: State) -> None:
    workers = [
        (worker.hostname, worker.status_string, worker.active, worker.processed)
        for worker in sorted(state.workers.values(), key=lambda each: each.hostname)
    ]
    tasks = [
        (uuid, task.state, task.name, task.worker, None if task.runtime is None else f"{task.runtime:.3f}")
        for uuid, task in state.tasks_by_time(ROWS)
    ]
    parts = [
        f"{CLEAR}{time.strftime('%H:%M:%S')}  {state.event_count} events, {state.task_count} tasks",
        table(("worker", "state", "active", "processed"), workers),
        table(("task", "state", "name", "worker", "seconds"), tasks),
    ]
    print("\n\n".join(parts), flush=True)
