"""The examples compute what they say: the demo's own arithmetic, without a queue. Its whole run is in the integration suite."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amqptasks.waiting import home
from tests.support.pages import ROOT

EXAMPLES = ROOT / "examples"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of the demo, imported from its folder."""
    monkeypatch.setattr(home, "app", None)
    monkeypatch.syspath_prepend(str(EXAMPLES / "stdlib_report"))
    known = set(sys.modules)
    import analysis
    import drawing
    import stdlib_tasks

    yield analysis, drawing, stdlib_tasks
    stdlib_tasks.app.close()
    for name in set(sys.modules) - known:
        if name in ("analysis", "drawing", "stdlib_tasks"):
            del sys.modules[name]


def test_every_example_has_a_test() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"}

    # In the integration suite: test_examples.py and test_fastapi_example.py; of `deploy`: test_deploy_examples.py.
    assert folders == {"deploy", "fastapi_app", "stdlib_report"}


def test_the_demo_always_has_input(demo: Any) -> None:
    analysis, _, _ = demo

    assert len(analysis.modules()) > 100
    assert {"json", "asyncio"} <= set(analysis.packages())
    assert not any("site-packages" in name or name.startswith("test/") for name in analysis.modules())


def test_a_module_is_measured(demo: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    analysis, _, _ = demo
    monkeypatch.setattr(analysis, "LIBRARY", tmp_path)
    (tmp_path / "m.py").write_text(
        "import os, sys\nfrom re import sub\n\n"
        "class A:\n    def plain(self): ...\n\n"
        "def branchy(x):\n    if x and x > 1:\n        return [y for y in x]\n    return 0\n"
    )

    measured = analysis.measure_module("m.py")

    assert measured == {
        "module": "m.py",
        "lines": 10,
        "functions": 2,
        "classes": 1,
        "imports": 2,
        "most_complex": [[4, "branchy"], [1, "plain"]],
    }


def test_a_package_is_squeezed(demo: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    analysis, _, _ = demo
    monkeypatch.setattr(analysis, "LIBRARY", tmp_path)
    (tmp_path / "p" / "tests").mkdir(parents=True)
    (tmp_path / "p" / "__init__.py").write_text("x = 1\n" * 1000)
    (tmp_path / "p" / "tests" / "test_p.py").write_text("left out")

    squeezed = analysis.squeeze_package("p")

    assert (squeezed["package"], squeezed["bytes"]) == ("p", 6000)
    assert 0 < squeezed["compressed"] < 600


def test_a_task_gives_what_the_computation_gives_and_has_a_queue_of_its_kind(demo: Any) -> None:
    analysis, _, tasks = demo

    assert tasks.read_module("json/decoder.py") == analysis.measure_module("json/decoder.py")
    assert tasks.app.router.route(tasks.read_module.name).address.routing_key == "short"
    assert tasks.app.router.route(tasks.squeeze.name).address.routing_key == "long"


def test_the_report_shows_totals_and_draws(demo: Any) -> None:
    analysis, drawing, _ = demo
    measured = [analysis.measure_module(name) for name in ("json/decoder.py", "json/encoder.py")]
    squeezed = [analysis.squeeze_package("json")]

    table, plot = drawing.table(measured, squeezed), drawing.plot(squeezed)

    assert table.startswith("2 modules: ")
    assert "json" in table
    assert plot.lstrip().startswith("<svg")
