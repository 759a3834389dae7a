"""The report on paper: a table for the terminal and a plot as SVG. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, ROW, LEFT, RIGHT = 760, 20, 150, 190
FONT = 'font-family="sans-serif" font-size="12"'
TITLE = "Packages of the standard library: bytes before and after lzma (logarithmic)"


def table(modules: Sequence[dict[str, Any]], packages: Sequence[dict[str, Any]]) -> str:
    """Totals, the most complex functions, and the packages that squeeze best."""
    total = {
        key: sum(module[key] for module in modules) for key in ("lines", "functions", "classes", "imports")
    }
    worst = sorted(
        ((*pair, module["module"]) for module in modules for pair in module["most_complex"]), reverse=True
    )
    lines = [
        f"{len(modules)} modules: " + ", ".join(f"{count:,} {what}" for what, count in total.items()),
        "",
        "most complex functions          branches  module",
        *(f"  {name:<28}  {score:>8}  {module}" for score, name, module in worst[:5]),
        "",
        "packages that squeeze best         bytes  ratio",
        *(f"  {p['package']:<26}  {p['bytes']:>11,}  {_ratio(p):>5.1f}" for p in by_ratio(packages)[:5]),
    ]
    return "\n".join(lines)


def by_ratio(packages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(packages, key=lambda package: (-_ratio(package), package["package"]))


def plot(packages: Sequence[dict[str, Any]]) -> str:
    """A bar for each package: its size (logarithmic) and, darker, what is left of it after lzma."""
    rows = sorted(packages, key=lambda package: -package["bytes"])
    longest = math.log10(max(package["bytes"] for package in rows))
    scale = (WIDTH - LEFT - RIGHT) / max(1.0, longest - 2)
    height = ROW * (len(rows) + 3)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="{ROW}" font-weight="bold">{TITLE}</text>',
    ]
    for number, package in enumerate(rows):
        parts += _bar(package, y=ROW * (number + 2), scale=scale)
    return "\n".join([*parts, "</svg>", ""])


def _bar(package: dict[str, Any], *, y: int, scale: float) -> list[str]:
    whole = max(1.0, (math.log10(package["bytes"]) - 2) * scale)
    left = max(1.0, (math.log10(package["compressed"]) - 2) * scale)
    return [
        f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{escape(package["package"])}</text>',
        f'<rect x="{LEFT}" y="{y}" width="{whole:.1f}" height="14" fill="#ffd3a8"/>',
        f'<rect x="{LEFT}" y="{y}" width="{left:.1f}" height="14" fill="#f60"/>',
        f'<text x="{LEFT + whole + 6:.1f}" y="{y + 12}">{package["bytes"]:,} / {_ratio(package):.1f}</text>',
    ]


def _ratio(package: dict[str, Any]) -> float:
    return float(package["bytes"] / max(1, package["compressed"]))
