"""Tasks for a pool that follows its work: what starts and ends is noted; `held` and `aheld` run until a file exists,
and count as held by their worker until they end."""

import asyncio
import os
import time
from pathlib import Path

from amqptasks import App

app = App("scaling")


@app.task(acks_late=True)
def held(folder: str, name: str) -> str:
    _note(folder, f"S {name}")
    until = time.monotonic() + 300
    while not _let_go(folder, name) and time.monotonic() < until:
        time.sleep(0.02)
    _note(folder, f"F {name}")
    return name


@app.task(acks_late=True)
async def aheld(folder: str, name: str) -> str:
    _note(folder, f"S {name}")
    until = time.monotonic() + 300
    while not _let_go(folder, name) and time.monotonic() < until:  # noqa: ASYNC110 (no loop is told of a file)
        await asyncio.sleep(0.02)
    _note(folder, f"F {name}")
    return name


def _let_go(folder: str, name: str) -> bool:
    return (Path(folder) / f"go-{name}").exists() or (Path(folder) / "go").exists()


def _note(folder: str, text: str) -> None:
    """One write, so that lines of several processes do not mix."""
    descriptor = os.open(f"{folder}/effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)
