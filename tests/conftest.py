"""What every test of the suite stands on: no broker, no settings of the machine."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that a developer has set must not decide a test."""
    for name in [name for name in os.environ if name.startswith(("AMQPTASKS_", "CELERY_"))]:
        monkeypatch.delenv(name)
