"""What the project set out to be, statement by statement: workers in production.

Each test is named after its rows. What needs processes is in `integration/test_seeds_workers.py`, what
is advice in `test_seeds_advice.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

from amqptasks.cli.nodes import folders


def test_row_186_the_folders_of_pid_and_log_files_can_be_made_without_permission_of_anybody(
    tmp_path: Path,
) -> None:
    """The default folder for pid and log files needs not be given by hand: the user can write it."""
    for folder in folders({"HOME": str(tmp_path)}, root=False):
        assert folder == tmp_path / ".local/state/amqptasks"
        folder.mkdir(parents=True, exist_ok=True)
        assert os.access(folder, os.W_OK)
