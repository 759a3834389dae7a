"""The worker's log: where lines go, what they look like, and what never stands in them."""

import io
import logging
import os
import sys
import time
from collections.abc import Iterator

import pytest

from amqptasks import App, signals
from amqptasks.errors import WorkerError
from amqptasks.worker import manifest
from amqptasks.worker.logging import LogSetup, install, redirect_stdouts, set_clock
from amqptasks.worker.options import WorkerOptions


@pytest.fixture(autouse=True)
def _root_as_it_was(monkeypatch) -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.handlers = []
    yield
    for own in root.handlers:
        own.close()
    root.handlers, root.level = before, level
    logging.captureWarnings(False)


class Written:
    """What stderr got, so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys, self._text = capsys, ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def err(capsys: pytest.CaptureFixture[str]) -> Written:
    return Written(capsys)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_carry_time_level_and_process(err) -> None:
    install(LogSetup(level="INFO"))

    logging.getLogger("x").info("hello")

    assert err.getvalue().endswith("INFO/MainProcess] hello\n")


def test_below_the_level_nothing_is_logged(err) -> None:
    install(LogSetup(level="WARNING"))

    logging.getLogger("x").info("hello")

    assert err.getvalue() == ""


def test_a_second_call_replaces_the_first(err) -> None:
    install(LogSetup(level="INFO", line="one %(message)s"))
    install(LogSetup(level="INFO", line="two %(message)s"))

    logging.getLogger("x").info("hello")

    assert err.getvalue() == "two hello\n"


def test_lines_of_tasks_have_their_own_format(err) -> None:
    install(LogSetup(level="INFO", line="%(message)s", task_line="%(task_name)s[%(task_id)s] %(message)s"))

    logging.getLogger("x").info("hello", extra={"task_id": "7", "task_name": "tasks.add"})

    assert err.getvalue() == "tasks.add[7] hello\n"


def test_passwords_of_urls_are_masked_in_messages_and_tracebacks(err) -> None:
    install(LogSetup(level="INFO", line="%(message)s"))

    try:
        raise ValueError("amqp://me:secret@host//")
    except ValueError:
        logging.getLogger("x").exception("at redis://:hidden@store and amqp://you:private@b//")

    assert "amqp://you:**@b//" in err.getvalue()
    for password in ("secret", "hidden", "private"):
        assert password not in err.getvalue()


@pytest.mark.parametrize(("said", "coloured"), [(None, True), (False, False), (True, True)])
def test_a_terminal_gets_colours_unless_told_otherwise(monkeypatch, said, coloured) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    install(LogSetup(level="INFO", colour=said))

    logging.getLogger("x").error("bad")

    assert terminal.getvalue().startswith("\033[31m") is coloured


def test_no_colours_into_a_pipe_or_a_file(err, tmp_path) -> None:
    install(LogSetup(level="INFO"))
    logging.getLogger("x").error("bad")
    install(LogSetup(level="INFO", path=str(tmp_path / "w.log"), colour=True))
    logging.getLogger("x").error("bad")

    assert "\033" not in err.getvalue() + (tmp_path / "w.log").read_text()


def test_a_log_file_that_cannot_be_opened_is_named(tmp_path) -> None:
    with pytest.raises(WorkerError, match=r"the log file .*absent/w\.log cannot be opened: No such file"):
        install(LogSetup(path=str(tmp_path / "absent/w.log")))


def test_the_users_own_setup_is_left_alone(err) -> None:
    seen = []

    def mine(loglevel, **_named) -> None:
        seen.append(loglevel)

    signals.setup_logging.connect(mine)
    try:
        install(LogSetup(level="INFO"))
    finally:
        signals.setup_logging.disconnect(mine)

    assert seen == ["INFO"]
    assert not [own for own in logging.getLogger().handlers if type(own).__module__.startswith("amqptasks")]


def test_what_is_printed_becomes_log_lines(err, monkeypatch) -> None:
    install(LogSetup(level="INFO", line="%(levelname)s %(message)s"))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    redirect_stdouts("WARNING")
    print("one\ntwo")
    monkeypatch.undo()

    assert err.getvalue() == "WARNING one\nWARNING two\n"


def test_the_command_line_wins_over_the_settings_about_colour() -> None:
    settings = {
        "worker_log_color": True,
        "worker_log_format": "%(message)s",
        "worker_hijack_root_logger": False,
    }

    setup = LogSetup.of(
        WorkerOptions(loglevel="DEBUG", colour=False, hostname="w@h", logfile="%n%I.log"), settings
    )

    assert setup == LogSetup(level="DEBUG", path="w.log", colour=False, line="%(message)s", hijack=False)


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path) -> None:
    """So that rotation needs no signal."""
    log = tmp_path / "worker.log"
    install(LogSetup(level="INFO", path=str(log)))
    logging.getLogger("x").info("before")

    old = log.rename(tmp_path / "worker.log.1")
    logging.getLogger("x").info("after")

    assert "before" in old.read_text()
    assert "after" in log.read_text()


@pytest.mark.parametrize(("before", "zone", "hours"), [(None, "Asia/Tokyo", 9), ("Asia/Tokyo", None, None)])
def test_the_parent_s_clock_is_its_children_s(
    monkeypatch: pytest.MonkeyPatch, before: str | None, zone: str | None, hours: int | None
) -> None:
    """Django sets TZ when it loads its apps, which the parent does not: one log would have two clocks."""
    own = os.environ.get("TZ")
    monkeypatch.delenv("TZ", raising=False)
    time.tzset()
    machine = time.localtime(0).tm_hour
    try:
        set_clock(before)
        set_clock(zone)

        assert time.localtime(0).tm_hour == (machine if hours is None else hours)
        assert os.environ.get("TZ") == zone
    finally:
        set_clock(own)


def test_the_clock_is_read_off_the_process_that_loads_the_app(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")

    assert manifest.build(app, queues=(), exclude=()).clock == "Asia/Tokyo"
