"""The beat of `worker -B`: started again when it ends, but not when it would end in the same way."""

import time

import pytest

from amqptasks.cli import embedded
from amqptasks.cli.embedded import EmbeddedBeat


def until(condition, longest: float = 60.0) -> None:
    deadline = time.monotonic() + longest
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def log(caplog):
    return lambda: [record.getMessage() for record in caplog.records]


def test_one_that_ended_is_started_again(log, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedded, "PAUSE", 0.0)
    with EmbeddedBeat(["--version"]):
        until(lambda: len(log()) >= 2)

    assert set(log()) == {"the embedded beat ended with status 0, and is started again"}


def test_one_that_cannot_start_is_left_alone(log, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedded, "PAUSE", 0.0)
    beat = EmbeddedBeat(["-A", "no_such_module", "beat"])
    with beat:
        until(lambda: not beat._thread.is_alive())

    assert log() == ["the embedded beat cannot start (status 2); no periodic task is sent from here"]


def test_it_ends_with_the_body(log, tmp_path, monkeypatch) -> None:
    (tmp_path / "shop.py").write_text("from amqptasks import App\n\napp = App('shop', broker='memory://')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedded, "PATIENCE", 30.0)
    beat = EmbeddedBeat(["-A", "shop", "beat", "-q"])
    with beat:
        until(lambda: beat._process is not None)
        process = beat._process
    assert process is not None
    assert process.poll() is not None
    assert log() == []
