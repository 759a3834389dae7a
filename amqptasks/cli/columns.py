"""The tables of `amqptasks top`: columns of queues, workers, calls, dead letters and the schedule. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amqptasks.cli import drawing
from amqptasks.cli.drawing import clock, count, fitted, rate, size, span, styled
from amqptasks.monitor.snapshot import DeadLetterRow, QueueRow, ScheduleRow, TaskRow, WorkerRow


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, what it shows of a row, and what rows are sorted by."""

    title: str
    shown: Callable[[Any], str]
    key: Callable[[Any], Any]
    cells: int
    """Its width; the least one where it `grows`."""
    right: bool = True
    grows: int = 0
    """Its share of the room that is left."""
    rank: int = 0
    """In a narrow window those of the highest rank go first."""


@dataclass(frozen=True, slots=True)
class Section:
    """A table: its name, its columns, how it is sorted at first, and the style of a row."""

    name: str
    columns: tuple[Column, ...]
    sort: int
    reverse: bool
    style: Callable[[Any], str]
    words: Callable[[Any], str]
    """What a filter is looked for in."""


def _text(title: str, name: str, cells: int, grows: int = 0, rank: int = 0) -> Column:
    def shown(row: Any) -> str:
        return str(getattr(row, name))

    return Column(title, shown, shown, cells, right=False, grows=grows, rank=rank)


def _number(title: str, name: str, shown: Callable[[Any], str], cells: int, rank: int = 0) -> Column:
    return Column(
        title,
        lambda row: shown(getattr(row, name)),
        lambda row: _or_least(getattr(row, name)),
        cells,
        rank=rank,
    )


def _or_least(value: float | None) -> float:
    return float("-inf") if value is None else value


def _style_of_queue(row: QueueRow) -> str:
    return "alarm" if row.nobody_consumes else "" if row.exists else "dim"


def _style_of_worker(row: WorkerRow) -> str:
    return "" if row.alive else "dim"


def _pool(row: WorkerRow) -> str:
    scaled = f" {row.autoscale[1]}-{row.autoscale[0]}" if row.autoscale else ""
    return f"{row.pool or '?'} {'?' if row.concurrency is None else row.concurrency}{scaled}"


def _end(row: TaskRow) -> str:
    return row.exception or row.result


QUEUES = Section(
    "queues",
    (
        _text("queue", "name", 12, grows=3),
        _number("ready", "ready", count, 7),
        _number("unacked", "unacked", count, 7, rank=2),
        _number("consumers", "consumers", count, 9),
        _number("in/s", "publish_rate", rate, 6, rank=3),
        _number("out/s", "deliver_rate", rate, 6, rank=3),
        _number("ack/s", "ack_rate", rate, 6, rank=5),
        _number("oldest", "oldest_age", span, 6, rank=6),
        _number("dead", "dead_letters", count, 6, rank=1),
        _text("type", "type", 7, rank=4),
        Column("", lambda row: "NOBODY CONSUMES" if row.nobody_consumes else "" if row.exists else "not there yet",
               lambda row: row.nobody_consumes, 15, right=False),
    ),
    sort=0,
    reverse=False,
    style=_style_of_queue,
    words=lambda row: row.name,
)  # fmt: skip

WORKERS = Section(
    "workers",
    (
        _text("worker", "node", 12, grows=3),
        Column("state", lambda row: "online" if row.alive else "GONE", lambda row: row.alive, 6, right=False),
        Column("pool", _pool, _pool, 14, right=False, rank=2),
        _number("active", "active", count, 6),
        _number("held", "reserved", count, 6, rank=3),
        _number("done", "processed", count, 7),
        _number("/s", "rate", rate, 6, rank=1),
        Column(
            "load",
            lambda row: f"{row.loadavg[0]:.2f}" if row.loadavg else "-",
            lambda row: row.loadavg,
            6,
            rank=4,
        ),
        _number("memory", "memory", size, 7, rank=5),
        _number("up", "uptime", span, 6, rank=6),
        _number("beat", "heartbeat_age", span, 6, rank=4),
        Column(
            "queues",
            lambda row: ",".join(row.queues),
            lambda row: row.queues,
            10,
            right=False,
            grows=2,
            rank=3,
        ),
        _text("software", "software", 16, rank=7),
    ),
    sort=0,
    reverse=False,
    style=_style_of_worker,
    words=lambda row: f"{row.node} {' '.join(row.queues)} {row.software}",
)

TASKS = Section(
    "tasks",
    (
        Column("at", lambda row: _short(row.at), lambda row: row.at, 8, right=False, rank=1),
        Column("state", lambda row: row.state, lambda row: row.state, 8, right=False),
        _text("task", "name", 14, grows=3),
        _number("ran", "runtime", span, 6),
        _number("waited", "wait", span, 6, rank=2),
        _number("tries", "retries", lambda value: str(value + 1), 5, rank=6),
        _text("worker", "worker", 12, grows=1, rank=3),
        _text("arguments", "args", 10, grows=2, rank=4),
        Column("outcome", _end, _end, 10, right=False, grows=2, rank=4),
        _text("id", "id", 36, rank=5),
    ),
    sort=0,
    reverse=True,
    style=lambda row: drawing.STATES.get(row.state, ""),
    words=lambda row: f"{row.id} {row.name} {row.state} {row.worker} {row.args} {row.kwargs} {_end(row)}",
)

LETTERS = Section(
    "dead letters",
    (
        Column("died", lambda row: clock(row.at), lambda row: _or_least(row.at), 12, right=False, rank=1),
        _text("queue", "queue", 10, grows=1),
        _text("reason", "reason", 12),
        _text("task", "task", 14, grows=3),
        _number("deaths", "deaths", str, 6, rank=4),
        _text("arguments", "args", 10, grows=2, rank=3),
        _text("error", "error", 12, grows=3, rank=2),
        _text("id", "id", 36, rank=5),
    ),
    sort=0,
    reverse=True,
    style=lambda _row: "",
    words=lambda row: f"{row.id} {row.queue} {row.reason} {row.task} {row.args} {row.error}",
)

SCHEDULE = Section(
    "schedule",
    (
        _text("entry", "name", 12, grows=2),
        _text("task", "task", 14, grows=2),
        _text("schedule", "schedule", 18, grows=1, rank=1),
        Column("next", lambda row: _until(row.next_due), lambda row: _or_least(row.next_due), 9),
        Column("last", lambda row: clock(row.last_due), lambda row: _or_least(row.last_due), 12, rank=2),
        _number("runs", "runs", count, 6, rank=3),
        Column("", lambda row: "paused" if row.paused else "added" if row.added else "", lambda row: row.paused, 6,
               right=False),
    ),
    sort=3,
    reverse=False,
    style=lambda row: "dim" if row.paused else "",
    words=lambda row: f"{row.name} {row.task} {row.schedule}",
)  # fmt: skip

SECTIONS: tuple[Section, ...] = (QUEUES, WORKERS, TASKS, LETTERS, SCHEDULE)
Row = QueueRow | WorkerRow | TaskRow | DeadLetterRow | ScheduleRow
Rows = Mapping[str, Sequence[Row]]
"""By the section's name."""


def _short(at: float) -> str:
    """The time, or the day of what was on another."""
    text = clock(at)
    return text if len(text) <= 8 else text[:6]


def _until(at: float | None) -> str:
    if at is None:
        return "-"
    left = at - time.time()
    return f"in {span(left)}" if left > 0 else "now"


def ordered(section: Section, rows: Sequence[Row], sort: int, word: str, *, reverse: bool) -> list[Row]:
    """Return the rows that a filter leaves, sorted."""
    found = [row for row in rows if not word or word.lower() in section.words(row).lower()]
    return sorted(found, key=section.columns[sort].key, reverse=reverse)


def lines(section: Section, rows: Sequence[Row], cells: int, sort: int, *, coloured: bool) -> list[str]:
    """Return the head and a line for each row, each of `cells` cells at most."""
    # What only the management plugin tells takes no room where there is none.
    told = [
        each
        for each in section.columns
        if each.rank < 2 or any(each.shown(row) not in ("", "-") for row in rows)
    ]
    chosen = _chosen(told, cells)
    wide = _widths(chosen, cells)
    marked = section.columns[sort]
    head = [fitted(column.title, room, right=column.right) for column, room in zip(chosen, wide, strict=True)]
    made = [
        " ".join(
            styled(text, "reverse" if column is marked else "head", coloured=coloured)
            for column, text in zip(chosen, head, strict=True)
        )
    ]
    for row in rows:
        texts = [
            fitted(column.shown(row), room, right=column.right)
            for column, room in zip(chosen, wide, strict=True)
        ]
        made.append(styled(" ".join(texts), section.style(row), coloured=coloured))
    return made


def _chosen(columns: Sequence[Column], cells: int) -> list[Column]:
    kept = list(columns)
    while len(kept) > 1 and sum(column.cells + 1 for column in kept) - 1 > cells:
        kept.remove(max(reversed(kept), key=lambda column: column.rank))
    return kept


def _widths(columns: Sequence[Column], cells: int) -> list[int]:
    room = cells - sum(column.cells + 1 for column in columns) + 1
    shares = sum(column.grows for column in columns)
    if room < 0:
        return [max(1, cells) for _ in columns]
    return [column.cells + (room * column.grows // shares if shares else 0) for column in columns]
