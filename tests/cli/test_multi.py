"""Which nodes a line of `multi` means, with which options; pid files. Celery's syntax; nothing is started."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from amqptasks.cli import multi as module
from amqptasks.cli.daemon import alive, claim, read_pid, release
from amqptasks.cli.main import program
from amqptasks.cli.nodes import folders
from amqptasks.errors import WorkerError
from tests.support.pages import TYPED, blocks, commands, pages
from tests.test_docs import parse

OF_PAGES = [
    command.words
    for name in pages()
    for block in blocks(name)
    if block.language == TYPED
    for command in commands(block)
    if "amqptasks multi" in command.words
]


def multi(*words: str, state: Path | str = "/state") -> list[str]:
    answer = CliRunner(env={"XDG_STATE_HOME": str(state)}).invoke(
        program, ["multi", *words], standalone_mode=False
    )
    assert answer.exception is None, answer.exception
    return answer.output.splitlines()


def options(line: str) -> str:
    """What follows the log file in a line of `show`."""
    return line.partition("%I.log")[2].strip()


def test_a_number_means_so_many_nodes() -> None:
    assert multi("names", "3", "--hostname=here") == ["amqptasks1@here", "amqptasks2@here", "amqptasks3@here"]
    assert multi("names", "2", "--range-prefix=w", "-n", "here") == ["w1@here", "w2@here"]


def test_names_are_completed() -> None:
    assert multi("names", "w1", "w2@there", "--hostname=here") == ["w1@here", "w2@there"]
    assert multi("names", "a", "b", "--prefix=x", "--suffix=s") == ["xa@s", "xb@s"]


def test_options_for_all_and_for_some() -> None:
    lines = multi(
        "show", "4", "-A", "proj", "-c:1-3", "10", "-Q:2,4", "a,b", "-Q", "rest", "--loglevel:1=DEBUG", "-E"
    )

    assert [options(line) for line in lines] == [
        "-A proj -Q rest -E -c 10 --loglevel=DEBUG",
        "-A proj -Q a,b -E -c 10",
        "-A proj -Q rest -E -c 10",
        "-A proj -Q a,b -E",
    ]


def test_options_for_some_by_name() -> None:
    lines = multi(
        "show", "short", "long", "-Q:short", "short", "-Q:long", "long", "-c:2", "1", "--loglevel", "INFO"
    )

    assert [options(line) for line in lines] == ["--loglevel=INFO -Q short", "--loglevel=INFO -Q long -c 1"]


def test_options_before_the_command_and_settings_after_it() -> None:
    answer = CliRunner(env={"XDG_STATE_HOME": "/state"}).invoke(
        program, ["-A", "proj", "-b", "amqp://h", "multi", "show", "w", "--", "broker_heartbeat=30"]
    )

    assert options(answer.output.strip()) == "-A proj -b amqp://h -- broker_heartbeat=30"


def test_files_are_in_a_folder_that_the_user_can_write_or_where_he_says() -> None:
    line = multi("show", "w1@h.example.org")[0]
    assert "--pidfile=/state/amqptasks/w1.pid --logfile=/state/amqptasks/w1%I.log" in line
    line = multi("show", "w1@h.example.org", "--pidfile=/run/%n-%d.pid", "-f", "/log/%p%I.log")[0]
    assert "--pidfile=/run/w1-example.org.pid --logfile=/log/w1@h.example.org%I.log" in line
    assert folders({"HOME": "/home/me"}, root=False) == (Path("/home/me/.local/state/amqptasks"),) * 2


def test_get_is_what_show_shows_of_one() -> None:
    given = ("short", "long", "third", "-c", "3", "-c:1-2", "1", "-Q:long", "long", "--hostname=h")

    shown = [shlex.split(line)[1:] for line in multi("show", *given)]

    assert shown == [shlex.split(multi("get", name, *given)[0]) for name in ("short", "long@h", "third")]


def test_expand_and_get() -> None:
    assert multi("expand", "%n at %h", "w1", "w2", "--hostname=h") == ["w1 at h", "w2 at h"]
    assert multi("get", "w2", "w1", "w2", "-c:w2", "3")[0].endswith("-c 3")


@pytest.mark.parametrize("typed", OF_PAGES)
def test_what_the_pages_start_are_workers_command_lines(typed: str) -> None:
    """`multi` passes on what it does not know; the worker would refuse it in the background, where nobody reads."""
    words = shlex.split(typed)
    at = words.index("multi")
    lines = multi("show", *words[at + 2 :])

    assert lines
    for line in lines:
        _, _, _, *worker = shlex.split(line)
        parse(worker)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["names"], "no node is named"),
        (["show", "a", "b", "-c:3", "1"], "there is no node 3"),
        (["names", "a", "a"], "same name"),
        (["begin", "a"], "no command 'begin'"),
        (["get", "c", "a", "b", "--hostname=h"], "there is no node c; there are a@h, b@h"),
        (["get"], "no node is named"),
        (["stopwait", "a", "--timeout=soon"], "--timeout soon is no number of seconds"),
    ],
)
def test_mistakes(words: list[str], sentence: str) -> None:
    answer = CliRunner().invoke(program, ["multi", *words])

    assert answer.exit_code == 2
    assert sentence in answer.output


def test_help_lists_the_commands() -> None:
    for words in ([], ["help"], ["--help"]):
        assert "stopwait" in CliRunner().invoke(program, ["multi", *words]).output


def test_nothing_runs_nothing_is_signalled(tmp_path: Path) -> None:
    (tmp_path / "amqptasks").mkdir()
    # Some other program has that number by now.
    (tmp_path / "amqptasks" / "w1.pid").write_text("1\n")

    assert [line.split()[-1] for line in multi("stop", "w1", "w2", "-9", state=tmp_path)[1:]] == [
        "DOWN",
        "DOWN",
    ]


# --- pid files ---


def test_a_pid_file_has_one_living_owner(tmp_path: Path) -> None:
    path = tmp_path / "new" / "w.pid"
    claim(path)
    assert read_pid(path) == os.getpid()
    claim(path)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    path.write_text(str(other.pid))
    with pytest.raises(WorkerError, match=f"process {other.pid} has the pid file"):
        claim(path)
    release(path)
    assert path.exists(), "it is the other's"
    other.communicate(b"\n")
    assert not alive(other.pid)
    claim(path)
    release(path)
    assert not path.exists()


# --- ends of processes ---


@pytest.mark.parametrize("descriptors", [True, False])
def test_the_end_of_a_process_is_noticed_with_and_without_descriptors(
    monkeypatch: pytest.MonkeyPatch, descriptors: bool
) -> None:
    if not descriptors:
        monkeypatch.setattr(module, "open_pidfd", lambda pid: None)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with module.Ends([process.pid]) as ends:
        ends.wait([process.pid], 0.0)
        assert not ends.told(process.pid)

        process.communicate(b"\n")
        while not ends.told(process.pid):
            ends.wait([process.pid], 30.0)
