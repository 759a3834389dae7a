"""A frame of `amqptasks top`: the overview, and one table or a little of each. Pure: what was gathered, to lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from amqptasks.cli.columns import SECTIONS, Row, Rows, Section, lines, ordered
from amqptasks.cli.drawing import clock, count, fitted, rate, span, sparkline, styled, width
from amqptasks.monitor.snapshot import Overview, Series

TABS = ("all", *(section.name for section in SECTIONS))
HELP = "q quit  tab section  ←→ sort  r reverse  ↑↓ scroll  / filter  i internal queues  p pause"
SPARK = 24
LEAST = 4
"""Rows that each table of the first page has, if there are so many."""


@dataclass(slots=True)
class View:
    """What somebody looks at."""

    tab: int = 0
    offset: int = 0
    word: str = ""
    typing: bool = False
    paused: bool = False
    internal: bool = False
    """Whether queues are shown that no task waits in."""
    sorts: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def sort(self, section: Section) -> tuple[int, bool]:
        """The column, and whether the highest come first."""
        return self.sorts.get(section.name, (section.sort, section.reverse))

    @property
    def section(self) -> Section | None:
        """The table that fills the page; None where all are shown."""
        return SECTIONS[self.tab - 1] if self.tab else None

    def press(self, key: str, page: int) -> bool:
        """Do what a key means, with `page` lines on a page; False: quit."""
        if self.typing:
            self._type(key)
        elif key in ("q", "Q"):
            return False
        elif key in ("tab", "backtab"):
            self.tab, self.offset = (self.tab + (1 if key == "tab" else -1)) % len(TABS), 0
        elif key.isdigit() and 0 < int(key) <= len(TABS):
            self.tab, self.offset = int(key) - 1, 0
        elif key in ("left", "right", "r") and self.section is not None:
            self._sort(self.section, key)
        elif key in ("p", " "):
            self.paused = not self.paused
        elif key == "i":
            self.internal = not self.internal
        elif key == "/":
            self.typing, self.offset = True, 0
        elif key == "escape":
            self.word = ""
        else:
            moves = {"up": -1, "down": 1, "pageup": -page, "pagedown": page, "home": -(10**9), "end": 10**9}
            self.offset = max(0, self.offset + moves.get(key, 0))
        return True

    def _type(self, key: str) -> None:
        if key in ("enter", "escape"):
            self.typing = False
            self.word = "" if key == "escape" else self.word
        elif key == "backspace":
            self.word = self.word[:-1]
        elif len(key) == 1 and key.isprintable():
            self.word += key

    def _sort(self, section: Section, key: str) -> None:
        at, reverse = self.sort(section)
        if key == "r":
            self.sorts[section.name] = at, not reverse
        else:
            self.sorts[section.name] = (at + (1 if key == "right" else -1)) % len(section.columns), reverse


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that a frame shows, of one moment."""

    overview: Overview
    rows: Rows
    series: Mapping[str, Series] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    """By section: why its table is empty."""


def frame(told: Gathered, view: View, cells: int, height: int | None, *, coloured: bool) -> list[str]:
    """Return the lines of a frame: `height` at most, None for as many as there are (the first page then)."""
    top = [line for line in head(told, cells, coloured=coloured) if line]
    if height is None:
        return [*top, *_all(told, view, cells, None, coloured=coloured)]
    last = _footer(view, cells, coloured=coloured)
    top = [*top, _tabs(view, cells, coloured=coloured)]
    room = max(0, height - len(top) - 1)
    if view.section is None:
        page = _all(told, view, cells, room, coloured=coloured)
    else:
        page = _page(told, view, view.section, cells, room, coloured=coloured)
    drawn = [*top, *page[:room]]
    return [*drawn[: height - 1], *[""] * (height - 1 - len(drawn)), last][:height]


def room_of(told: Gathered, cells: int, height: int) -> int:
    """Return how many rows a table of a full page has."""
    return max(1, height - len([line for line in head(told, cells, coloured=False) if line]) - 3)


# --- the head --------------------------------------------------------------------------------------------


def head(told: Gathered, cells: int, *, coloured: bool) -> list[str]:
    """Return the lines above the tables; some may be empty."""
    overview = told.overview

    def line(text: str, style: str = "") -> str:
        return styled(fitted(text, min(cells, width(text))), style, coloured=coloured)

    where = f"amqptasks top  {clock(overview.at)}  {overview.broker}  {overview.product}".rstrip()
    alarms = []
    if not overview.connected:
        alarms.append(line(f"NO BROKER: {overview.message}; shown is what was known before", "alarm"))
    if overview.alarm:
        alarms.append(line(f"THE BROKER TAKES NO MESSAGES: {overview.alarm}", "alarm"))
    if overview.unconsumed:
        alarms.append(line(f"NOBODY CONSUMES: {', '.join(overview.unconsumed)}", "alarm"))
    return [
        line(where, "bold"),
        *alarms,
        line(_counts(overview)),
        line(_rates(told)),
        line(_seconds(told)),
        line(_caveats(overview), "yellow"),
    ]


def _counts(overview: Overview) -> str:
    unacked = "" if overview.unacked is None else f"  unacked {count(overview.unacked)}"
    return (
        f"workers {overview.workers_online}/{overview.workers_known} online  active {count(overview.active)}  held "
        f"{count(overview.reserved)}  ready {count(overview.ready)}{unacked}  dead {count(overview.dead)}  done "
        f"{count(overview.processed)}"
    )


def _rates(told: Gathered) -> str:
    rates = told.overview.rates
    if not rates:
        return ""
    named = ("started", "succeeded", "failed", "retried", "revoked")
    throughput = told.series.get("throughput")
    bars = sparkline(throughput.values.get("started", ()), SPARK) if throughput is not None else ""
    return f"{bars}  a second: " + "  ".join(f"{name} {rate(rates[name])}" for name in named if name in rates)


def _seconds(told: Gathered) -> str:
    parts = []
    for name, word in (("runtime", "ran"), ("wait", "waited")):
        series = told.series.get(name)
        values = (
            {line: [v for v in vs if v is not None] for line, vs in series.values.items()} if series else {}
        )
        if all(values.get(line) for line in ("p50", "p99")):
            parts.append(f"{word} p50 {span(values['p50'][-1])} p99 {span(values['p99'][-1])}")
    return "  ".join(parts)


def _caveats(overview: Overview) -> str:
    parts = []
    if overview.sampled > 1:
        parts.append(f"{overview.events:.0f} events/s: 1 of {overview.sampled} workflows is listed")
    if overview.dropped:
        parts.append("more events than are taken: the broker drops the rest")
    if overview.connected and overview.workers_online and not overview.task_events:
        parts.append("workers tell of no calls: amqptasks control enable_events")
    return "; ".join(parts)


def _tabs(view: View, cells: int, *, coloured: bool) -> str:
    parts, taken = [], 0
    for number, name in enumerate(TABS):
        text = f" {number + 1} {name} " if coloured or number != view.tab else f"[{number + 1} {name}]"
        if taken + len(text) > cells:
            break
        taken += len(text)
        parts.append(styled(text, "reverse" if number == view.tab else "dim", coloured=coloured))
    return "".join(parts)


def _footer(view: View, cells: int, *, coloured: bool) -> str:
    if view.typing:
        return fitted(f"filter: {view.word}_", cells)
    parts = [f"filter: {view.word} (esc)" if view.word else "", "PAUSED" if view.paused else "", HELP]
    text = "  ".join(filter(None, parts))
    return styled(fitted(text, cells), "yellow" if view.paused else "dim", coloured=coloured)


# --- tables ----------------------------------------------------------------------------------------------


def _page(
    told: Gathered, view: View, section: Section, cells: int, room: int, *, coloured: bool
) -> list[str]:
    rows = _rows(told, view, section)
    # So that scrolling beyond the end comes back at once.
    view.offset = min(view.offset, max(0, len(rows) - max(1, room - 1)))
    shown = rows[view.offset : view.offset + max(1, room - 1)]
    return _table(told, view, section, shown, cells, coloured=coloured)


def _rows(told: Gathered, view: View, section: Section) -> list[Row]:
    sort, reverse = view.sort(section)
    return ordered(section, told.rows.get(section.name, ()), sort, view.word, reverse=reverse)


def _table(
    told: Gathered, view: View, section: Section, rows: Sequence[Row], cells: int, *, coloured: bool
) -> list[str]:
    """The head and the rows; or why there are none."""
    if not rows:
        nothing = f"no {section.name} with {view.word!r}" if view.word else f"no {section.name}"
        why = told.notes.get(section.name) or nothing
        return [styled(fitted(why, min(cells, width(why))), "dim", coloured=coloured)]
    return lines(section, rows, cells, view.sort(section)[0], coloured=coloured)


def _all(told: Gathered, view: View, cells: int, room: int | None, *, coloured: bool) -> list[str]:
    """A little of each table that is not empty; the calls get what is left."""
    found = {section.name: _rows(told, view, section) for section in SECTIONS}
    shown = [section for section in SECTIONS if found[section.name] or section.name in ("queues", "workers")]
    while room is not None and len(shown) > 1 and 3 * len(shown) - 1 > room:
        shown.pop()  # a head without a row would only take room
    limits = _shares([len(found[section.name]) for section in shown], room)
    made: list[str] = []
    for section, limit in zip(shown, limits, strict=True):
        made += _table(told, view, section, found[section.name][:limit], cells, coloured=coloured)
        made.append("")
    return made[:-1]


def _shares(lengths: Sequence[int], room: int | None) -> list[int]:
    """How many rows each table gets: at least `LEAST` in turn, then whatever is left to those that have more."""
    if room is None:
        return list(lengths)
    left = room - 2 * len(lengths) + 1
    shares = [0] * len(lengths)
    for most in (1, LEAST, room):
        for at, length in enumerate(lengths):
            more = max(0, min(length, most) - shares[at])
            given = min(more, max(0, left))
            shares[at] += given
            left -= given
    return shares
