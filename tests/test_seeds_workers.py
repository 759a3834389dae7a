"""What the project set out to be, statement by statement: workers in production, and advice that stands in the guide.

Each test is named after its rows. What needs processes is in `integration/test_seeds_workers.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amqptasks.cli.nodes import folders
from tests.test_seeds import ROOT


def test_row_186_the_folders_of_pid_and_log_files_can_be_made_without_permission_of_anybody(
    tmp_path: Path,
) -> None:
    """The default folder for pid and log files needs not be given by hand: the user can write it."""
    for folder in folders({"HOME": str(tmp_path)}, root=False):
        assert folder == tmp_path / ".local/state/amqptasks"
        folder.mkdir(parents=True, exist_ok=True)
        assert os.access(folder, os.W_OK)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        pytest.param(
            "guide/performance.md", "As many as processors for tasks that compute", id="row 180, -c N"
        ),
        pytest.param("guide/daemons.md", "In production a supervisor keeps workers running", id="row 184"),
        pytest.param("guide/daemons.md", "| `stop` | signal each and return at once", id="row 189"),
        pytest.param("guide/daemons.md", "return when the last running task has finished", id="row 190"),
        *(
            pytest.param("guide/calling.md", words, id=f"row 191, {words}")
            for words in ("delay(", "apply_async(", "## Options of one call")
        ),
        pytest.param("guide/monitoring.md", "## Flower and other monitors", id="row 192, Flower"),
        pytest.param("guide/performance.md", "# Performance", id="row 193, optimisation"),
        pytest.param("guide/granularity.md", "## What a task costs", id="row 194, small tasks cost"),
        pytest.param("guide/granularity.md", "## Many small ones in one", id="row 194, too small ones"),
        pytest.param("guide/data.md", "## Run the worker close to the data", id="row 195, locality"),
        pytest.param("guide/data.md", "memcached", id="row 195, caches"),
        pytest.param("guide/data.md", "loaded once a process", id="row 195, preload"),
        pytest.param("guide/data.md", "## Pass ids, not database objects", id="row 196"),
        pytest.param("guide/data.md", "transaction.on_commit(", id="row 197"),
        pytest.param("guide/data.md", "## An example: comments and a spam filter", id="row 198"),
    ],
)
def test_rows_180_184_189_to_198_advice_has_its_place_in_the_guide(page: str, words: str) -> None:
    """What a reader must know before he chooses stands there; its snippets are run by `test_docs`."""
    assert words in (ROOT / "docs" / page).read_text()
