"""The first pages a user reads, typed as they stand: a real worker, a real broker, real commands."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from broker import PrivateNode, free_ports

from amqptasks.monitor import actions
from amqptasks.registry import shared
from amqptasks.waiting import home
from integration.support.processes import ROOT, Process
from tests.support.pages import RUN, TYPED, Block, Reader, blocks, commands
from tests.test_docs import ON_A_BROKER

ELSEWHERE = ("pip", "make")
"""Programs whose commands are not typed here: it is installed, and the Makefile's targets have checks of their own."""
LOCAL = "amqp://guest@localhost//"
"""The broker that pages name; programs of ours are told another by the environment, Celery's on the command line."""


class Terminal:
    """Types the commands of console blocks in the reader's folder; workers stay until the page ends."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._started = ExitStack()
        self.typed: list[str] = []

    def __call__(self, block: Block) -> None:
        for command in commands(block):
            words = shlex.split(command.words)
            if words[0] in ELSEWHERE:
                continue
            if words[0] == "celery":
                self._watch(words)
                continue
            assert words[0] == "amqptasks", f"{block}: nobody types {words[0]!r}"
            self.typed.append(command.words)
            line = [sys.executable, "-m", "amqptasks", *words[1:]]
            if "worker" in words:
                self._start(line, r" ready")
            elif "dashboard" in words:
                self._start([*line, "--port", "0"], r"http://127\.0\.0\.1:\d+/")
            else:
                assert self._run(line) == command.output.strip(), f"{block}: {command.words}"

    def _start(self, line: list[str], ready: str) -> None:
        log = self._folder / f"started-{len(self.typed)}.log"
        process = Process(line, ready=ready, cwd=self._folder, env=self._environment, log=log)
        self._started.enter_context(process)

    def _watch(self, words: list[str]) -> None:
        """Start Flower, on the reader's broker and a port of its own; it must say that it listens to workers."""
        assert "flower" in words, words
        url, (port,) = self._environment["AMQPTASKS_BROKER_URL"], free_ports(1)
        line = [sys.executable, "-m", *(url if word == LOCAL else word for word in words), f"--port={port}"]
        log = self._folder / f"flower-{port}.log"
        self._started.callback(
            Process(line, ready="Connected to amqp", cwd=self._folder, env=self._environment, log=log)
            .start()
            .end
        )

    def _run(self, line: list[str]) -> str:
        for _ in range(3):
            ran = subprocess.run(
                line,
                cwd=self._folder,
                env=os.environ | self._environment,
                capture_output=True,
                text=True,
                timeout=60,
            )
            # A worker of a busy machine may need more than the second that commands wait for an answer.
            if ran.returncode != os.EX_UNAVAILABLE:
                break
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def end(self) -> None:
        self._started.close()


@contextmanager
def _no_worker_of_its_own(app: Any) -> Iterator[None]:
    raise AssertionError("the page's console blocks start the workers")
    yield


@pytest.mark.parametrize("page", ON_A_BROKER)
def test_a_page_typed_from_top_to_bottom_does_what_it_says(
    page: str, tmp_path: Path, node: PrivateNode, fresh_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are saved, workers started in other terminals, commands answered as printed, and every assert holds."""
    monkeypatch.setattr(home, "app", None)
    monkeypatch.setattr(shared, "_tasks", [])
    monkeypatch.setattr(actions, "REPLY", 30.0)  # a worker of a busy machine may need more than two seconds
    monkeypatch.setenv("AMQPTASKS_BROKER_URL", node.url(fresh_vhost))
    terminal = Terminal(tmp_path, {"AMQPTASKS_BROKER_URL": node.url(fresh_vhost), "PYTHONPATH": str(ROOT)})
    wanted = [block for block in blocks(page) if block.language in RUN]
    worker_pages = [block for block in blocks(page) if block.language == TYPED]

    try:
        with Reader(page, tmp_path, _no_worker_of_its_own, terminal) as reader:
            ran = reader.read()
    finally:
        terminal.end()

    assert [block for block in ran if block.language in RUN] == wanted
    assert worker_pages
    assert any(" worker" in words for words in terminal.typed)
