"""The options whose effect needs real processes: their examples in docs/guide/tasks.md, with the option and without."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from broker import PrivateNode

from amqptasks.registry import shared
from amqptasks.waiting import home
from integration.support.processes import ROOT
from integration.test_docs import Terminal
from tests.support.pages import Reader
from tests.support.sections import Section, sections

PAGE = "docs/guide/tasks.md"
ON_A_BROKER = [section for section in sections(PAGE) if section.needs_processes]


@pytest.fixture
def terminal(
    tmp_path: Path, node: PrivateNode, fresh_vhost: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    url = node.url(fresh_vhost)
    monkeypatch.setattr(home, "app", None)
    monkeypatch.setattr(shared, "_tasks", [])
    monkeypatch.setenv("AMQPTASKS_BROKER_URL", url)
    monkeypatch.chdir(tmp_path)
    typing = Terminal(tmp_path, {"AMQPTASKS_BROKER_URL": url, "PYTHONPATH": str(ROOT)})
    yield typing
    typing.end()


def read(section: Section, without: str | None, folder: Path, terminal: Terminal) -> None:
    page = section.page(folder, without)
    with Reader(str(page), folder, lambda app: nullcontext(), terminal) as reader:
        try:
            assert reader.read()
        finally:
            for module in list(sys.modules.values()):
                if (getattr(module, "__file__", None) or "").startswith(str(folder)):
                    module.app.close()
    assert any(" worker" in words for words in terminal.typed)


@pytest.mark.parametrize("section", ON_A_BROKER, ids=str)
def test_the_example_of_an_option_does_what_it_says(
    section: Section, tmp_path: Path, terminal: Terminal
) -> None:
    read(section, None, tmp_path, terminal)


@pytest.mark.parametrize(
    ("section", "option"), [(section, name) for section in ON_A_BROKER for name in section.options], ids=str
)
def test_without_the_option_its_example_fails(
    section: Section, option: str, tmp_path: Path, terminal: Terminal
) -> None:
    with pytest.raises(AssertionError, match="Expected"):  # by doctest: another answer than the page's
        read(section, option, tmp_path, terminal)
