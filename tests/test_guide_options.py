"""The page of the task options: each example runs, and fails when its option is taken out of it.

Those whose worker is started by a command need a broker: integration/test_guide_options.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from amqptasks.registry import shared
from amqptasks.task_options import TaskOptions
from amqptasks.testing import running_worker
from amqptasks.waiting import home
from tests.support.pages import ROOT, RUN, Reader, blocks
from tests.support.sections import Section, removed, sections

PAGE = "docs/guide/tasks.md"
IN_MEMORY = [section for section in sections(PAGE) if not section.needs_processes]
EXPLAINED = {"send_events"}
"""Options that have no effect yet: the page says so."""
NO_ATTRIBUTES = {"base", "shadow_name"}
"""What is given like an option, and is none: a class, a method of it."""
COSTS = {
    "drain.early": "early acknowledgement, no result",
    "drain.early.results": "early acknowledgement, result",
    "drain.late": "late acknowledgement, no result",
    "drain.late.results": "late acknowledgement, result",
}
"""Rows of the benchmark, as docs/guide/granularity.md calls them."""


@pytest.fixture(autouse=True)
def _a_program_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(home, "app", None)
    monkeypatch.setattr(shared, "_tasks", [])
    monkeypatch.chdir(tmp_path)


def read(section: Section, without: str | None, folder: Path) -> None:
    page = section.page(folder, without)
    with Reader(str(page), folder, running_worker) as reader:
        assert reader.read()


@pytest.mark.parametrize("section", IN_MEMORY, ids=str)
def test_the_example_of_an_option_does_what_it_says(section: Section, tmp_path: Path) -> None:
    read(section, None, tmp_path)


@pytest.mark.parametrize(
    ("section", "option"), [(section, option) for section in IN_MEMORY for option in section.options], ids=str
)
def test_without_the_option_its_example_fails(section: Section, option: str, tmp_path: Path) -> None:
    with pytest.raises(Exception) as failed:
        read(section, option, tmp_path)

    assert not isinstance(failed.value, SyntaxError | NameError), (
        "the option's removal broke the example itself"
    )


def test_the_page_has_a_section_for_every_option() -> None:
    options = {name for name in vars(TaskOptions)["__annotations__"] if not name.startswith("_")}
    explained = {option for section in sections(PAGE) for option in section.options}

    assert options - explained == EXPLAINED
    assert explained - options <= NO_ATTRIBUTES
    without_effect = (ROOT / PAGE).read_text().partition("## Without effect so far")[2]
    assert all(f"`{option}`" in without_effect for option in EXPLAINED)


def test_every_block_of_the_page_belongs_to_what_is_run() -> None:
    """No code outside the sections but the page's beginning, so that nothing is run by nobody."""
    run = [block.text for block in blocks(PAGE) if block.language in RUN]
    found = sections(PAGE)
    pieces = [found[0].before, *(section.text for section in found)]

    assert len(found) > 30
    assert all(any(text in piece for piece in pieces) for text in run)


def test_an_option_is_taken_out_of_decorators_and_classes_alone() -> None:
    code = "f(queue='a')\n@app.task(queue='a', bind=True)\ndef g(): ...\nclass C(Task):\n    queue = 'a'\n"

    left = removed(code, "queue")

    assert left == "f(queue='a')\n\n@app.task(bind=True)\ndef g():\n    ...\n\nclass C(Task):\n    pass\n"
    assert removed(code, "priority") == code


def test_the_costs_on_the_page_of_granularity_are_those_that_were_measured() -> None:
    measured = json.loads((ROOT / "docs/explanation/benchmark.json").read_text())["summary"]
    figures = {(row["row"], row["figure"]): row["medians"].get("amqptasks") for row in measured}
    text = (ROOT / "docs/guide/granularity.md").read_text()

    for row, said in COSTS.items():
        found = re.search(rf"^\| {said} \| (\d+) us \| ([\d,]+) \|$", text, re.MULTILINE)
        assert found, said
        processor = figures[row, "cpu_parent"] + figures[row, "cpu_children"]
        assert int(found[1]) == pytest.approx(processor, rel=0.25), (
            f"{said}: {processor:.0f} us were measured"
        )
        assert int(found[2].replace(",", "")) == pytest.approx(figures[row, "rate"], rel=0.25), said
    sent = re.search(r"costs the client ([\d.]+) ms .*, or ([\d.]+) ms inside", text)
    assert sent
    for said, row in zip(sent.groups(), ("publish.one", "publish.batch"), strict=True):
        assert float(said) == pytest.approx(1000 / figures[row, "rate"], rel=0.25), row
