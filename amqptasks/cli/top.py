"""`amqptasks top`: the running system in a terminal: queues, workers, calls, dead letters and the schedule, live."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import click

from amqptasks.cli.apps import load_any_app
from amqptasks.cli.columns import LETTERS, QUEUES, SCHEDULE, TASKS, WORKERS, Row
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.screen import SPARK, Gathered, View, frame, room_of
from amqptasks.cli.terminal import Terminal
from amqptasks.errors import AmqptasksError, BrokerUnavailable
from amqptasks.monitor.observer import Observer

PATIENCE = 10.0
"""Seconds in which the broker has to answer where nobody watches."""
SETTLING = 2.5
"""Seconds in which workers tell of themselves, before a frame that is the only one."""
SOON = 0.5
"""Seconds for what is still on its way: counts of queues, a worker that is slow to answer."""
RECENT = 200
"""Calls that are looked at for a frame."""
EVERY = 5.0
"""Seconds between two looks at the dead letters, or at the schedule, while they are shown."""
HISTORY = 300.0
"""Seconds that sparklines go back."""
PRINTED = 20
"""Calls in a frame that is printed."""
WIDE = 160
"""Columns of what is printed where there is no terminal, unless COLUMNS says otherwise."""
PAGE = 200
"""Dead letters that are looked at."""


@click.command("top")
@click.option(
    "-n", "--interval", type=click.FloatRange(0.1), default=1.0, metavar="SECONDS", help="Between frames. [1]"
)
@click.option("--iterations", type=click.IntRange(1), metavar="N", help="End after N frames.")
@click.option("--once", is_flag=True, help="Print one frame, of everything, and end.")
@click.option(
    "--management-url",
    metavar="URL",
    help="Of RabbitMQ's management plugin; '' for none. [the broker's host, 15672]",
)
@listing_options
def command(interval: float, iterations: int | None, once: bool, management_url: str | None) -> None:
    """Watch queues, workers and calls until q. Without a terminal, or with --json, print a frame at each interval.

    Calls are listed where workers tell of them: started with -E, or after `amqptasks control enable_events`.

    \b
    amqptasks -A proj top
    amqptasks -A proj top --once
    amqptasks -A proj top --json --iterations 10 | jq .overview.ready
    """
    common = Common.current()
    with (
        load_any_app(common) as app,
        Observer(
            app, interval=max(interval, 0.5), history=HISTORY, management_url=management_url
        ) as observer,
    ):
        plain = common.no_color or bool(os.environ.get("NO_COLOR"))
        if common.json or once or not sys.stdout.isatty():
            _print(observer, interval, 1 if once else iterations, as_json=common.json, plain=plain)
        else:
            _watch(observer, interval, iterations, coloured=not plain)


# --- lines -----------------------------------------------------------------------------------------------


def _print(
    observer: Observer, interval: float, iterations: int | None, *, as_json: bool, plain: bool
) -> None:
    _settle(observer, PATIENCE)
    view, left = View(), iterations
    cells = Terminal.width(WIDE)
    while left is None or left > 0:
        left = None if left is None else left - 1
        told = gathered(observer, recent=PRINTED)
        if as_json:
            print(json.dumps(_json(told), ensure_ascii=False), flush=True)
        else:
            coloured = sys.stdout.isatty() and not plain
            print(
                "\n".join(line.rstrip() for line in frame(told, view, cells, None, coloured=coloured)),
                flush=True,
            )
        if left != 0:
            time.sleep(interval)


def _settle(observer: Observer, patience: float) -> None:
    """Wait until there is something to tell. Raises BrokerUnavailable when no broker answers."""
    start = time.monotonic()
    while not (overview := observer.overview()).connected:
        if time.monotonic() > start + patience:
            raise BrokerUnavailable(overview.message)
        time.sleep(0.02)
    while time.monotonic() < start + SETTLING:
        workers = [row for row in observer.workers() if row.alive]
        # Who is heard of is asked at once; who is there and was not heard of yet, beats every two seconds.
        if (
            workers
            and all(row.pool and row.active is not None for row in workers)
            and overview.workers_online
        ):
            break
        overview = observer.overview()
        time.sleep(0.02)
    time.sleep(SOON)


def _json(told: Gathered) -> dict[str, Any]:
    return {
        "overview": asdict(told.overview),
        **{name.replace(" ", "_"): [asdict(row) for row in rows] for name, rows in told.rows.items()},
    }


# --- the screen ------------------------------------------------------------------------------------------


def gathered(observer: Observer, *asked: Asked, recent: int = RECENT, internal: bool = False) -> Gathered:
    """Return what a frame shows, of now, with so many of the youngest calls; `internal`: with all queues."""
    rows: dict[str, Sequence[Row]] = {
        QUEUES.name: observer.queues(internal=internal),
        WORKERS.name: observer.workers(),
        TASKS.name: observer.tasks(limit=recent),
        **{each.name: each.rows for each in asked},
    }
    series = {name: observer.series(name, SPARK) for name in ("throughput", "runtime", "wait")}
    overview = observer.overview()
    notes = {TASKS.name: "" if overview.task_events else "no calls were told of"}
    return Gathered(overview, rows, series, notes | {each.name: each.why for each in asked})


class Asked:
    """Rows that somebody has to be asked for, by a thread, while they are looked at."""

    def __init__(self, name: str, ask: Callable[[], tuple[Sequence[Row], str]]) -> None:
        """`ask` returns the rows, or why there are none; it may block."""
        self.name = name
        self.rows: Sequence[Row] = ()
        self.why = "asking ..."
        self._ask = ask
        self._next = 0.0
        self._asking = threading.Lock()

    def look(self) -> None:
        """Ask anew, if the last time was a while ago. Returns at once."""
        if time.monotonic() >= self._next and self._asking.acquire(blocking=False):
            threading.Thread(target=self._take, name="amqptasks-top", daemon=True).start()

    def _take(self) -> None:
        try:
            self.rows, self.why = self._ask()
        except Exception as error:
            self.why = str(error) if isinstance(error, AmqptasksError) else repr(error)
        finally:
            self._next = time.monotonic() + EVERY
            self._asking.release()


def _asked(observer: Observer) -> tuple[Asked, Asked]:
    def letters() -> tuple[Sequence[Row], str]:
        # To look at them counts as a delivery of each.
        return (observer.dead_letters(limit=PAGE).rows if observer.overview().dead else ()), ""

    def schedule() -> tuple[Sequence[Row], str]:
        page = observer.schedules()
        return page.rows, page.message

    return Asked(LETTERS.name, letters), Asked(SCHEDULE.name, schedule)


def _watch(observer: Observer, interval: float, iterations: int | None, *, coloured: bool) -> None:
    asked = _asked(observer)
    view, told, frames = View(), gathered(observer, *asked), 0
    with Terminal() as terminal:
        while iterations is None or frames < iterations:
            if not view.paused:
                told = gathered(observer, *asked, internal=view.internal)
            frames += 1
            due = time.monotonic() + interval
            while True:
                for each in asked:
                    if view.section is not None and view.section.name == each.name:
                        each.look()
                cells, height = terminal.size
                terminal.show(frame(told, view, cells, height, coloured=coloured))
                if not _answered(terminal, view, due, room_of(told, cells, height)):
                    return
                if time.monotonic() >= due:
                    break


def _answered(terminal: Terminal, view: View, due: float, page: int) -> bool:
    """Wait for keys until the next frame is due; False: quit."""
    try:
        pressed = terminal.keys(due - time.monotonic())
    except EOFError:
        return False
    return all(view.press(key, page) for key in pressed)
