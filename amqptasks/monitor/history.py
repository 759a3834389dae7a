"""Values over time for charts, in bounded memory; and percentiles. Pure. Not thread-safe."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

from amqptasks.monitor.snapshot import SERIES, Series

UNITS = {"throughput": "1/s", "runtime": "s", "wait": "s", "depth": "", "workers": ""}
LINES = 20
"""Lines of a chart; of more, those with the highest values at the moment are kept."""

Point = Mapping[str, Mapping[str, float]]
"""By series, then by line."""


class History:
    """Points at an interval, for so many seconds back."""

    def __init__(self, seconds: float, interval: float) -> None:
        self._interval = interval
        self._points: deque[tuple[float, Point]] = deque(maxlen=max(2, math.ceil(seconds / interval)))

    def add(self, at: float, point: Point) -> None:
        kept = {name: _highest(lines) for name, lines in point.items()}
        self._points.append((at, kept))

    def series(self, name: str, most: int) -> Series:
        """Return one series, thinned to `most` points, each the mean of its neighbours. Raises KeyError."""
        if name not in SERIES:
            raise KeyError(f"there is no series {name!r}; there are {', '.join(SERIES)}")
        points = list(self._points)
        step = max(1, math.ceil(len(points) / max(1, most)))
        groups = [points[start : start + step] for start in range(0, len(points), step)]
        lines = _highest(
            {
                line: max(p[name][line] for _, p in points if line in p.get(name, ()))
                for line in _lines(points, name)
            }
        )
        return Series(
            name=name,
            unit=UNITS[name],
            interval=self._interval * step,
            times=tuple(group[-1][0] for group in groups),
            values={line: tuple(_mean(group, name, line) for group in groups) for line in lines},
        )


def _highest(lines: Mapping[str, float]) -> Mapping[str, float]:
    if len(lines) <= LINES:
        return lines
    return dict(sorted(lines.items(), key=lambda line: -line[1])[:LINES])


def _lines(points: Sequence[tuple[float, Point]], name: str) -> list[str]:
    return list(dict.fromkeys(line for _, point in points for line in point.get(name, ())))


def _mean(group: Sequence[tuple[float, Point]], name: str, line: str) -> float | None:
    values = [point[name][line] for _, point in group if line in point.get(name, ())]
    return sum(values) / len(values) if values else None


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50 and p99 by nearest rank; nothing for no values."""
    if not values:
        return {}
    ranked = sorted(values)
    return {
        label: ranked[max(0, math.ceil(share * len(ranked)) - 1)]
        for label, share in (("p50", 0.5), ("p99", 0.99))
    }
