"""The command line run in this process, in a folder of its own, as if freshly started."""

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from amqptasks.cli.main import main

TASKS = """
from amqptasks import App

app = App("shop", broker="memory://{name}", backend="memory://")


@app.task
def add(x, y):
    return x + y
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


class CommandLine:
    """`cli("worker", "-l", "INFO")` runs it; `cli.folder` is the working folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    def __call__(self, *words: str) -> Ran:
        self._capsys.readouterr()
        code = main(words)
        told = self._capsys.readouterr()
        return Ran(code, told.out, told.err)

    def write(self, path: str, text: str) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def tasks(self, name: str = "tasks") -> None:
        """Write a module with an app that has the task `add`, on a broker of this test alone."""
        self.write(f"{name}.py", TASKS.format(name=self.folder.name))


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[CommandLine]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known, level = set(sys.modules), logging.getLogger().level

    yield CommandLine(tmp_path, capsys)

    # What a test's app imported must be found anew by the next one, in its own folder.
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]
    logging.getLogger().setLevel(level)
