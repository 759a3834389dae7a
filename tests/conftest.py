"""What every test of the suite stands on: no broker, no settings of the machine."""

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo

import pytest

from amqptasks import App, builtin, composing, retrying
from amqptasks.transport import memory
from amqptasks.transport.memory_broker import MemoryBroker
from amqptasks.waiting import home
from tests.support import machine
from tests.working import Work

machine.forget()


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


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of who composes a call stands: a countdown of 30 s is no less when the message is written."""
    at = datetime.now(UTC)

    class Still(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return at.astimezone(tz)

    for module in (composing, retrying):
        monkeypatch.setattr(module, "datetime", Still)


@pytest.fixture
def broker(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryBroker]:
    """The broker of `app`, whose queues' nodes go down; what waits for them is tried again soon."""
    monkeypatch.setattr(builtin, "AGAIN", 0.01)
    monkeypatch.setattr(builtin, "LONGEST", 0.05)
    found = memory.broker(app.conf.broker_url.removeprefix("memory://"))
    yield found
    assert not found.down
