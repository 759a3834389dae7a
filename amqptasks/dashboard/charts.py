"""Charts as SVG, drawn here so that a page needs no script. Pure: a series in, markup out.

The picture is stretched to its place; texts stand beside it in HTML, so that they keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from amqptasks.dashboard.wording import number, rate, seconds, stamp
from amqptasks.monitor.snapshot import Series

WIDTH, HEIGHT = 600.0, 150.0
HUES = ("busy", "accent", "good", "odd", "warn", "bad")
"""For lines that have no meaning of their own: queues."""

_STEPS = (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10)
"""Numbers that a scale may end with, times ten to some power: half of each is one that can be read, too."""

Column = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One of a chart's values: its name, its colour, its points."""

    name: str
    hue: str
    points: Column

    @property
    def last(self) -> float | None:
        return next((value for value in reversed(self.points) if value is not None), None)


@dataclass(frozen=True, slots=True)
class Chart:
    """What a template shows: the picture, its legend, its scales."""

    title: str
    picture: Markup
    legend: tuple[tuple[str, str, str], ...]
    """(name, hue, the latest value)."""
    scale: tuple[str, ...]
    """From the top to the bottom."""
    span: str
    """How long ago the left edge is."""
    summary: str
    """For who cannot see the picture."""

    @property
    def is_empty(self) -> bool:
        return not self.picture


def lines(title: str, series: Series, hues: Mapping[str, str] | None = None, *, most: int = 6) -> Chart:
    """One line for each value; the `most` with the highest peaks."""
    found = _lines(series, hues, most)
    highest = max((value for line in found for value in line.points if value is not None), default=0.0)
    top = _ceiling(highest, whole=not series.unit)
    drawn = [_stroke(line.points, top, line.hue) for line in found]
    if len(found) == 1:
        drawn.insert(0, _area(found[0].points, [0.0] * len(series.times), top, found[0].hue, faint=True))
    return _chart(title, series, found, drawn, top)


def stacked(title: str, series: Series, hues: Mapping[str, str]) -> Chart:
    """Areas on top of each other: what they add up to is what happened."""
    found = _lines(series, hues, len(hues))
    floor = [0.0] * len(series.times)
    measured = {at for line in found for at, value in enumerate(line.points) if value is not None}
    tops = [sum(line.points[at] or 0.0 for line in found) for at in range(len(series.times))]
    top = _ceiling(max(tops, default=0.0))
    areas, edges = [], []
    for line in found:
        upper = [low + (value or 0.0) for low, value in zip(floor, line.points, strict=True)]
        # A line that is not told of is flat there; where none is, nothing was measured.
        seen = tuple(value if at in measured else None for at, value in enumerate(upper))
        areas.append(_area(seen, floor, top, line.hue))
        edges.append(_stroke(seen, top, line.hue))
        floor = upper
    # The lower edge lies above: a line of what hardly happened must not hide what happened often.
    return _chart(title, series, found, [*areas, *reversed(edges)], top)


def spark(points: Sequence[float | None]) -> Markup:
    """A small line without scales, for a row of a table."""
    top = _ceiling(max((value for value in points if value is not None), default=0.0))
    return Markup(
        '<svg class="spark" viewBox="0 0 {w:.0f} {h:.0f}" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    ).format(_stroke(tuple(points), top, "busy"), w=WIDTH, h=HEIGHT)


def _lines(series: Series, hues: Mapping[str, str] | None, most: int) -> list[Line]:
    """Those with a colour, in its order; without colours, the highest."""
    if hues is not None:
        found = [
            Line(name, hue, series.values[name])
            for name, hue in hues.items()
            if any(value is not None for value in series.values.get(name, ()))
        ]
        # What never happened needs no line, unless nothing did.
        return [line for line in found if any(line.points)] or found[:1]
    peaks = {
        name: max((value or 0.0 for value in points), default=0.0) for name, points in series.values.items()
    }
    chosen = sorted(sorted(peaks, key=lambda name: (-peaks[name], name))[:most])
    return [Line(name, HUES[at % len(HUES)], series.values[name]) for at, name in enumerate(chosen)]


def _chart(title: str, series: Series, found: Sequence[Line], drawn: Sequence[Markup], top: float) -> Chart:
    say = {"1/s": lambda value: f"{rate(value)}/s", "s": seconds}.get(series.unit, number)
    if len(series.times) < 2 or not found:
        return Chart(title, Markup(""), (), (), "", "")
    legend = tuple((line.name, line.hue, say(line.last)) for line in found)
    picture = Markup(
        '<svg class="chart" viewBox="0 0 {w:.0f} {h:.0f}" preserveAspectRatio="none" role="img" aria-label="{label}">'
        "{grid}{drawn}{slots}</svg>"
    ).format(
        w=WIDTH,
        h=HEIGHT,
        label=f"{title}: " + ", ".join(f"{name} {value}" for name, _, value in legend),
        grid=_grid(),
        drawn=Markup("").join(drawn),
        slots=_slots(series, found, say),
    )
    scale = tuple(say(top * part) for part in (1.0, 0.5, 0.0))
    span = seconds(float(round(series.times[-1] - series.times[0])))
    return Chart(title, picture, legend, scale, span, f"{title} of the last {span}")


def _grid() -> Markup:
    rule = Markup('<line class="{}" x1="0" x2="{:.0f}" y1="{:.1f}" y2="{:.1f}"/>')
    places = (("grid", 0.5), ("grid", HEIGHT / 2), ("base", HEIGHT - 0.5))
    return Markup("").join(rule.format(kind, WIDTH, y, y) for kind, y in places)


def _slots(series: Series, found: Sequence[Line], say: Callable[[float | None], str]) -> Markup:
    """A strip for each moment: under the pointer it tells its values."""
    slot = Markup(
        '<g class="slot"><line class="cursor" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{h:.0f}"/>'
        '<rect class="point" x="{left:.1f}" y="0" width="{width:.2f}" height="{h:.0f}"><title>{text}</title></rect></g>'
    )
    width = WIDTH / max(len(series.times) - 1, 1)
    return Markup("").join(
        slot.format(
            x=at * width,
            left=(at - 0.5) * width,
            width=width,
            h=HEIGHT,
            text="\n".join([stamp(moment), *(f"{line.name}  {say(line.points[at])}" for line in found)]),
        )
        for at, moment in enumerate(series.times)
    )


def _stroke(points: Column, top: float, hue: str) -> Markup:
    """The line; it is interrupted where nothing was measured."""
    path, spots = "", ""
    for known, group in groupby(_places(points), key=lambda each: each[1] is not None):
        if not known:
            continue
        span = [f"{x:.1f} {_height(value or 0.0, top):.1f}" for x, value in group]
        path += "M" + "L".join(span) if len(span) > 1 else ""
        # A point alone is a line without length: its round end is seen.
        spots += f"M{span[0]}h0" if len(span) == 1 else ""
    drawn = Markup('<path class="stroke hue-{}" d="{}"/>').format(hue, path)
    return drawn + Markup('<path class="stroke spot hue-{}" d="{}"/>').format(hue, spots) if spots else drawn


def _area(upper: Column, lower: Sequence[float], top: float, hue: str, *, faint: bool = False) -> Markup:
    """What is between two lines; nothing is drawn where nothing was measured."""
    step = WIDTH / max(len(upper) - 1, 1)
    path = ""
    for known, group in groupby(enumerate(upper), key=lambda each: each[1] is not None):
        if not known:
            continue
        span = [(at * step, _height(value or 0.0, top), _height(lower[at], top)) for at, value in group]
        there = [f"{x:.1f} {high:.1f}" for x, high, _ in span]
        back = [f"{x:.1f} {low:.1f}" for x, _, low in reversed(span)]
        path += "M" + "L".join([*there, *back]) + "Z"
    return Markup('<path class="fill{} hue-{}" d="{}"/>').format(" faint" if faint else "", hue, path)


def _places(points: Column) -> list[tuple[float, float | None]]:
    step = WIDTH / max(len(points) - 1, 1)
    return [(at * step, value) for at, value in enumerate(points)]


def _height(value: float, top: float) -> float:
    return HEIGHT - min(value / top, 1.0) * (HEIGHT - 2) - 0.5


def _ceiling(value: float, whole: bool = False) -> float:
    """The next number above that a scale may well end with; if `whole`, half of it is a whole number too."""
    if value <= 0:
        return 2.0 if whole else 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    ends = (step * size for size in (power, 10 * power) for step in _STEPS)
    return next(
        end for end in ends if value <= end * 1.0001 and not (whole and abs(end / 2 - round(end / 2)) > 1e-6)
    )
