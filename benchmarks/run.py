"""Measure amqptasks beside Celery and Dramatiq: same RabbitMQ, same run, alternating. `make bench` runs it.

The broker is the one that AMQPTASKS_BROKER_URL names; queues named `bench` on it are deleted.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from bench import Bench
from contenders import CONTENDERS, Contender
from redis_server import Missing
from report import LIMIT, Sample, document, line, set_up, table
from row import Row
from rows import ROWS
from wire import broker_version

ROUNDS, QUICK_ROUNDS = 5, 1


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few messages, one round: does it work at all")
    parser.add_argument(
        "--rows", metavar="NAMES", help=f"patterns with commas: {', '.join(r.name for r in ROWS)}"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"alternations (default: {ROUNDS})")
    parser.add_argument(
        "--contenders", metavar="NAMES", default=",".join(CONTENDERS), help="default: %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything, raw samples included")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    return parser.parse_args(given)


def chosen(patterns: str | None) -> list[Row]:
    if patterns is None:
        return list(ROWS)
    rows = [row for row in ROWS if any(fnmatch(row.name, pattern) for pattern in patterns.split(","))]
    if not rows:
        sys.exit(f"run.py: no row is named {patterns!r}; there are: {', '.join(row.name for row in ROWS)}")
    return rows


def measure(bench: Bench, row: Row, contender: Contender, number: int) -> Sample:
    try:
        mode = bench.set_up(row.mode_of(contender, bench.url))
    except Missing as missing:
        return Sample(row.name, contender.name, number, {}, {}, skipped=str(missing))
    results = "no" if not mode.results else "yes" if mode.store is None else "yes, on Redis"
    described = contender.described(mode) | {"results": results}
    return Sample(row.name, contender.name, number, row.measure(bench, contender, mode), described)


def measure_limit(bench: Bench, row: Row, number: int) -> Sample:
    assert row.limit is not None
    mode = row.mode_of(CONTENDERS["amqptasks"], bench.url)
    return Sample(row.name, LIMIT, number, row.limit(bench, mode), {})


def alternate(
    bench: Bench, rows: Sequence[Row], names: Sequence[str], rounds: int, done: Callable[[list[Sample]], None]
) -> int:
    """Every row, every round, every contender; who comes first changes from round to round.

    `done` is given all samples after each round. Returns how many measurements failed.
    """
    samples: list[Sample] = []
    failures = 0
    for number in range(rounds):
        turn = number % len(names)
        for row in rows:
            measures = [
                partial(measure, bench, row, CONTENDERS[name], number)
                for name in [*names[turn:], *names[:turn]]
                if row.takes(CONTENDERS[name])
            ]
            if row.limit is not None:
                measures.append(partial(measure_limit, bench, row, number))
            for each in measures:
                try:
                    samples.append(_told(each()))
                except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                    failures += 1  # half an hour of measuring must not be lost to one of them
                    print(f"{number + 1}  {row.name}: {error}", file=sys.stderr, flush=True)
        done(samples)
    return failures


def _told(sample: Sample) -> Sample:
    figures = sample.skipped or "  ".join(f"{key} {value:,.1f}" for key, value in sample.figures.items())
    print(f"{sample.round + 1}  {sample.row:24}{sample.contender:12}{figures}", file=sys.stderr, flush=True)
    return sample


def about(options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    versions = {
        name: importlib.metadata.version(name) for name in ("amqptasks", "celery", "dramatiq", "pika")
    }
    return {
        "rows": options.rows or "all",
        "contenders": options.contenders,
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "broker": broker_version(os.environ["AMQPTASKS_BROKER_URL"]),
        "versions": versions,
        "rounds": rounds,
        "quick": options.quick,
    }


def main(given: Sequence[str]) -> int:
    options = arguments(given)
    url = os.environ.get("AMQPTASKS_BROKER_URL")
    if not url:
        print(
            "run.py: AMQPTASKS_BROKER_URL is not set; `make bench` starts a RabbitMQ of its own",
            file=sys.stderr,
        )
        return 69
    rows, rounds = chosen(options.rows), options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    bench = Bench(url, quick=options.quick)
    try:
        failures = alternate(
            bench, rows, options.contenders.split(","), rounds, partial(write, options, rows)
        )
    finally:
        bench.close()
    return 1 if failures else 0


def write(options: argparse.Namespace, rows: Sequence[Row], samples: list[Sample]) -> None:
    """The state of things after each round."""
    rounds = max((sample.round for sample in samples), default=0) + 1
    facts = about(options, rounds)
    told = f"{line(facts)}\n\n{table(samples, rows)}\n\n{set_up(samples, rows)}\n"
    print(told, flush=True)
    if options.json:
        options.json.write_text(json.dumps(document(samples, rows, facts), indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(told)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
