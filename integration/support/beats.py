"""Beats as real processes, what they had run, and `amqptasks schedule` beside them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from broker import PrivateNode

from .processes import ROOT, Process

APP = "integration.apps.beat_tasks"

Start = Callable[..., Process]


@pytest.fixture
def beat(tmp_path: Path, node: PrivateNode, fresh_vhost: str) -> Iterator[Start]:
    started: list[Process] = []

    def start(*arguments: str, entries: int = 3, every: float = 1.0, **more: str) -> Process:
        command = [
            sys.executable,
            "-m",
            "amqptasks",
            "-A",
            APP,
            "-b",
            node.url(fresh_vhost),
            "beat",
            "-l",
            "INFO",
        ]
        env = {
            "BEAT_ENTRIES": str(entries),
            "BEAT_EVERY": str(every),
            "BEAT_EFFECTS": str(tmp_path / "effects"),
            **more,
        }
        log = tmp_path / f"beat-{len(started)}.log"
        process = Process([*command, *arguments], ready="waits for its turn", env=env, log=log)
        started.append(process)
        return process.start()

    yield start
    for process in started:
        process.end()


def effects(folder: Path) -> list[tuple[str, str, datetime]]:
    """What ran: id, entry, due time."""
    path = folder / "effects"
    lines = path.read_text().splitlines() if path.exists() else []
    split = [line.split() for line in lines if line.count(" ") == 2]
    return [(task, entry, datetime.fromisoformat(due)) for task, entry, due in split if ":" in due]


def leader(beats: list[Process]) -> Process | None:
    """The one that said so last, and lives."""
    alive = [each for each in beats if each.returncode is None and "beat: leads" in each.log()]
    return alive[-1] if alive else None


def patient(*words: str, patience: float = 60.0) -> list[str]:
    """`amqptasks ...`, but a beat may take longer to answer: how soon says how busy the machine is."""
    program = (
        "import sys, amqptasks.beat.asking as asking; "
        f"asking.ask.__defaults__ = (*asking.ask.__defaults__[:-1], {patience}); "
        "import amqptasks.cli.main as main; sys.exit(main.main())"
    )
    return [sys.executable, "-c", program, *words]


def schedule(
    url: str, *arguments: str, patience: float = 60.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = patient("-A", APP, "-b", url, "schedule", *arguments, patience=patience)
    env = os.environ | {"PYTHONPATH": str(ROOT), "BEAT_ENTRIES": "2", "BEAT_EVERY": "3600"} | environment
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )
