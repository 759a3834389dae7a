"""What a task does that a test lets go."""

import time
from pathlib import Path


def until_exists(path: str) -> str:
    """Wait for the file; not for ever, as a test that has failed makes none."""
    until = time.monotonic() + 300
    while not Path(path).exists() and time.monotonic() < until:
        time.sleep(0.01)
    return "let go"
