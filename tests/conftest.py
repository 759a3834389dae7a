"""What every test of the suite stands on: no broker, no settings of the machine."""

import os
import uuid
from collections.abc import Iterator

import hypothesis
import pytest

from amqptasks import App
from amqptasks.waiting import home
from tests.working import Work

# How long an example takes says how busy the machine is, and nothing of the product. On CI the examples are the same
# each time, so that a change is judged by what it changes; elsewhere they are new ones.
hypothesis.settings.register_profile(
    "shared machine",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
hypothesis.settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that a developer has set must not decide a test."""
    for name in [name for name in os.environ if name.startswith(("AMQPTASKS_", "CELERY_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def app() -> Iterator[App]:
    """An app named proj on a broker of its own, in memory; the current app for the test's time."""
    before = home.app
    with App("proj", broker=f"memory://{uuid.uuid4()}") as made:
        yield made
    home.app = before


@pytest.fixture
def work(app: App) -> Iterator[Work]:
    """Run the next messages of `app` as a worker's child would, until nothing is left or `count` were run."""
    made = Work(app)
    yield made
    made.close()
