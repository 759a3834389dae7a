"""From samples to figures: medians, ratios within each round, the smallest ratio; as JSON and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from row import Figure, Row

US = "amqptasks"
LIMIT = "limit"


@dataclass(frozen=True)
class Sample:
    """One measurement of one row."""

    row: str
    contender: str
    round: int
    figures: Mapping[str, float]
    mode: Mapping[str, str]
    skipped: str = ""
    """Why there are no figures: what the machine lacks."""


@dataclass(frozen=True)
class Ratio:
    """How many times better we are: above 1 is ours. `smallest` is of the worst round."""

    median: float
    smallest: float


def medians(samples: Sequence[Sample], row: Row, key: str) -> dict[str, float]:
    """The median of each contender that has measured it."""
    found: dict[str, list[float]] = {}
    for sample in samples:
        if sample.row == row.name and key in sample.figures:
            found.setdefault(sample.contender, []).append(sample.figures[key])
    return {name: median(values) for name, values in found.items()}


def ratio(samples: Sequence[Sample], row: Row, figure: Figure, peer: str) -> Ratio | None:
    """Ours to `peer`'s, round by round: what disturbs the machine disturbs both."""
    rounds: dict[int, dict[str, float]] = {}
    for sample in samples:
        if sample.row == row.name and figure.key in sample.figures:
            rounds.setdefault(sample.round, {})[sample.contender] = sample.figures[figure.key]
    pairs = [(each[US], each[peer]) for each in rounds.values() if US in each and peer in each]
    ratios = [
        (ours / theirs if figure.more_is_better else theirs / ours)
        for ours, theirs in pairs
        if ours and theirs
    ]
    return Ratio(median(ratios), min(ratios)) if ratios else None


def document(samples: Sequence[Sample], rows: Sequence[Row], about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, raw samples included, ready for JSON."""
    summary = [
        {
            "row": row.name,
            "title": row.title,
            "figure": figure.key,
            "unit": figure.unit,
            "medians": medians(samples, row, figure.key),
            "ratios": {
                peer: asdict(found)
                for peer in ("celery", "dramatiq")
                if (found := ratio(samples, row, figure, peer)) is not None
            },
        }
        for row in rows
        for figure in row.figures
    ]
    return {"about": dict(about), "summary": summary, "samples": [asdict(sample) for sample in samples]}


def line(about: Mapping[str, Any]) -> str:
    """What was run, on what, as a paragraph."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    quick = " A quick run: few messages, so rates are those of the first second." if about["quick"] else ""
    return (
        f"{about['date']}, Python {about['python']}, {about['processors']} processors, {about['broker']}; {versions}; "
        f"rounds: {about['rounds']}.{quick}"
    )


def table(samples: Sequence[Sample], rows: Sequence[Row]) -> str:
    """A markdown table: medians, and how many times better we are (in brackets the smallest of all rounds)."""
    lines = [
        "| what | | amqptasks | Celery | Dramatiq | limit | to Celery | to Dramatiq |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        for figure in row.figures:
            values = medians(samples, row, figure.key)
            if not values:
                continue
            lacks = {
                each.contender: each.skipped for each in samples if each.row == row.name and each.skipped
            }
            title = f"{row.title}: {figure.title}" if figure.title else row.title
            cells = [
                lacks.get(name) or _number(values.get(name)) for name in (US, "celery", "dramatiq", LIMIT)
            ]
            ratios = [_ratio(ratio(samples, row, figure, peer)) for peer in ("celery", "dramatiq")]
            lines.append(f"| {' | '.join([title, figure.unit, *cells, *ratios])} |")
    return "\n".join(lines)


def set_up(samples: Sequence[Sample], rows: Sequence[Row]) -> str:
    """A markdown table of how each contender was set up in each row."""
    names = ("prefetch", "queue", "delivery", "ack", "results")
    lines = [f"| row | contender | {' | '.join(names)} |", "|---|---" + "|---" * len(names) + "|"]
    for row in rows:
        seen = {sample.contender: sample.mode for sample in samples if sample.row == row.name and sample.mode}
        lines += [
            f"| `{row.name}` | {contender} | {' | '.join(mode[name] for name in names)} |"
            for contender, mode in seen.items()
        ]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(found: Ratio | None) -> str:
    return "-" if found is None else f"{found.median:.1f}x ({found.smallest:.1f}x)"
