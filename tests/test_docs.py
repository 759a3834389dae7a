"""The documentation is true: every snippet runs, every command is one that the program takes.

The pages of `integration/test_docs.py` are typed against a real worker and broker instead.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import click
import pytest

from amqptasks.cli.main import ABSENT, COMMANDS, program
from amqptasks.registry import shared
from amqptasks.settings import NAMES
from amqptasks.testing import running_worker
from amqptasks.transport import memory
from amqptasks.waiting import home
from tests.support.pages import (
    ROOT,
    RUN,
    SHOWN,
    TYPED,
    Block,
    Command,
    Reader,
    blocks,
    commands,
    pages,
    patient,
    without_blocks,
)

ON_A_BROKER = (
    "README.md",
    "docs/index.md",
    "docs/tutorial/first-task.md",
    "docs/guide/dead-letters.md",
    "docs/guide/monitoring.md",
)
"""Read by integration/test_docs.py."""
BY_SECTION = ("docs/guide/tasks.md",)
"""Read by test_guide_options.py, here and in integration/, each section by itself."""
HERE = [
    name
    for name in pages()
    if name not in (*ON_A_BROKER, *BY_SECTION) and any(block.language in RUN for block in blocks(name))
]
COMMANDS_OF_PAGES = [
    command
    for name in pages()
    for block in blocks(name)
    if block.language == TYPED
    for command in commands(block)
]
REFUSED = {"amqptasks -A proj worker --pool-start-method spawn"}
"""Shown because they are refused, with what is then said."""


@pytest.fixture
def _a_program_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page's app goes to a broker of its own in memory, wherever its code says it is."""
    monkeypatch.setattr(home, "app", None)
    monkeypatch.setattr(shared, "_tasks", [])
    monkeypatch.setenv("AMQPTASKS_BROKER_URL", f"memory://{uuid.uuid4()}")
    monkeypatch.setattr(memory, "_brokers", {})


@pytest.mark.usefixtures("_a_program_of_its_own")
@pytest.mark.parametrize("page", HERE)
def test_every_snippet_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed in order, into one module, each block of code does what the page says (its asserts hold)."""
    monkeypatch.chdir(tmp_path)
    wanted = [block for block in blocks(page) if block.language in RUN]

    with Reader(page, tmp_path, lambda app: running_worker(app, queues=every_queue(app))) as reader:
        ran = reader.read()

    assert ran == wanted


def every_queue(app: Any) -> list[str]:
    """What the page's workers take together: the app's queues, and those that its routes name."""
    return [*app.router.queues]


def test_every_block_of_every_page_is_run_by_some_test_or_is_no_code() -> None:
    odd = [
        str(block)
        for name in pages()
        for block in blocks(name)
        if not block.language.startswith("<") and block.language not in (*RUN, TYPED, *SHOWN)
    ]

    assert odd == []
    assert {*ON_A_BROKER, *BY_SECTION} <= set(pages())
    assert len(HERE) >= 8  # a mistake in finding them would leave none


@pytest.mark.parametrize(
    "command", COMMANDS_OF_PAGES, ids=lambda command: f"{command.block.page}:{command.words}"
)
def test_every_command_of_every_page_is_one_that_the_program_takes(command: Command) -> None:
    words = shlex.split(command.words)
    if words[0] != "amqptasks":
        assert words[0] in (
            "pip",
            "make",
            "python",
            "rabbitmqctl",
            "rabbitmqadmin",
            "kill",
            "celery",
            "systemctl",
            "curl",
            "docker",
            "kubectl",
        ), words
        return
    if command.words in REFUSED:
        with pytest.raises(click.UsageError) as refused:
            parse(words[1:])
        assert refused.value.format_message() in command.output
    else:
        parse(words[1:])


def inline(page: str) -> list[str]:
    """The commands of ours that stand in the page's sentences: `amqptasks beat`, `control enable_events`."""
    spans = re.findall(r"(?<!`)`([^`\n]+ [^`\n]+)`(?!`)", without_blocks(page))
    return [span for span in spans if span.split()[0] in ("amqptasks", *COMMANDS)]


@pytest.mark.parametrize("page", [name for name in pages() if inline(name)])
def test_every_command_in_a_sentence_is_one_that_the_program_takes(page: str) -> None:
    for span in inline(page):
        words = [word for word in shlex.split(span) if word != "amqptasks"]
        try:
            parse(words)
        except (click.MissingParameter, click.exceptions.NoArgsIsHelpError):
            pass  # it is named there, not typed
        except click.exceptions.Exit:
            assert {"--help", "--version"} & set(words), span


def parse(words: list[str]) -> None:
    """Read a command line as the program would, and do nothing."""
    with program.make_context("amqptasks", words) as outer:
        rest = [*outer._protected_args, *outer.args]
        assert rest, "no command"
        name, command, arguments = program.resolve_command(outer, rest)
        assert command is not None
        command.make_context(name, arguments, parent=outer).close()


@pytest.mark.parametrize("page", pages())
def test_the_pictures_of_a_page_are_there(page: str) -> None:
    for path in re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", (ROOT / page).read_text()):
        picture = (ROOT / page).parent / path
        assert picture.read_bytes().startswith(b"\x89PNG"), path


@pytest.mark.parametrize("guide", ["dashboard", "monitoring", "scheduling"])
def test_the_guides_of_operation_have_pictures(guide: str) -> None:
    assert ".png)" in (ROOT / f"docs/guide/{guide}.md").read_text()


def test_the_command_line_page_knows_every_command() -> None:
    text = pages()["docs/reference/command-line.md"].read_text()

    missing = [name for name in COMMANDS if f"## `amqptasks {name}`" not in text]

    assert missing == []
    assert not [name for name in ABSENT if f"## `amqptasks {name}`" in text]


def test_the_page_of_the_settings_has_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made from the declarations when the documentation is built, with each one's docstring and default."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    table = importlib.import_module("settings_table").render()

    missing = [name for name in NAMES if f"`{name}`\n: " not in table]

    assert missing == []
    assert "`worker_prefetch_multiplier`\n: Messages held per slot of the pool" in table
    assert "default `'auto'`" in table


def test_the_fixture_of_the_testing_page_works_under_pytest(tmp_path: Path) -> None:
    """Defining a fixture proves little: the page's test file is given to pytest."""
    snippets = [block.text for block in blocks("docs/guide/testing.md") if block.language == "python"]
    (fixture,) = [text for text in snippets if "@pytest.fixture" in text]
    (tmp_path / "test_shop.py").write_text(patient(f"{snippets[0]}\n{fixture}"))
    (tmp_path / "conftest.py").write_text("from tests.support import machine\n\nmachine.forget()\n")

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout


def test_a_page_with_a_false_statement_fails(tmp_path: Path) -> None:
    """The reader himself can fail: a wrong assert, a wrong answer at >>>, a directive that nobody knows."""
    for text in ("```python\nassert 1 == 2\n```\n", "```pycon\n>>> 1\n2\n```\n", "<!-- run: nothing -->\n"):
        page = tmp_path / "page.md"
        page.write_text(text)
        with (
            pytest.raises(AssertionError),
            Reader(str(page), tmp_path, running_worker) as reader,
        ):
            reader.read()


def test_blocks_know_their_line_and_language(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n\n```python\nx = 1\n```\n\n<!-- run: worker -->\n")

    found = list(blocks(str(page)))

    assert found == [
        Block(str(page), 3, "python", "x = 1\n"),
        Block(str(page), 7, "<run>", "worker"),
    ]
