"""The program itself: help, version, the places of options, the app's name, completion, exit codes."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from amqptasks import errors
from amqptasks.cli import main as program
from amqptasks.cli.output import exit_code, table

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference/command-line.md"


def test_version_is_the_installed_one(cli) -> None:
    assert cli("--version").out == f"amqptasks {version('amqptasks')}\n"


def test_help_lists_every_command_and_every_exit_code(cli) -> None:
    ran = cli("--help")

    assert ran.code == 0
    for name in program.COMMANDS:
        assert re.search(rf"^  {name} ", ran.out, re.MULTILINE), name
    for code in (0, 1, 2, 69, 70, 73, 75, 77, 78):
        assert re.search(rf"^ +{code}  ", ran.out, re.MULTILINE), code


def test_every_listed_command_exists_and_explains_itself(cli) -> None:
    for name in program.COMMANDS:
        ran = cli(name, "--help")

        assert ran.code == 0, name
        assert f"amqptasks {name}" in ran.out


def test_help_of_the_program_imports_click_and_no_driver() -> None:
    code = "import sys; from amqptasks.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(ran.stderr.split())
    assert "click" in loaded
    assert not loaded & {"pika", "aio_pika", "orjson", "asyncio", "amqptasks.app", "amqptasks.transport"}


def test_the_module_runs_as_a_program() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "amqptasks", "wrker"], capture_output=True, text=True, check=False
    )

    assert ran.returncode == 2
    assert ran.stderr == "error: there is no command 'wrker'; did you mean 'worker'?\n"


@pytest.mark.parametrize(
    "words", [("-A", "tasks", "queues"), ("queues", "-A", "tasks"), ("queues", "--app=tasks")], ids=" ".join
)
def test_the_app_is_named_before_or_after_the_command(cli, words) -> None:
    cli.tasks()

    assert "amqptasks(direct)" in cli(*words).out


def test_the_app_comes_from_the_environment(cli, monkeypatch) -> None:
    cli.tasks()
    monkeypatch.setenv("AMQPTASKS_APP", "tasks")

    assert cli("queues").code == 0


def test_the_command_line_wins_over_the_environment(cli, monkeypatch) -> None:
    cli.tasks()
    monkeypatch.setenv("AMQPTASKS_APP", "absent")
    monkeypatch.setenv("AMQPTASKS_QUEUES_APP", "absent")

    assert cli("-A", "tasks", "queues").code == 0


def test_the_app_comes_from_pyproject_above_the_folder(cli, monkeypatch) -> None:
    cli.write("pyproject.toml", "[tool.amqptasks]\napp = 'tasks'\n")
    cli.tasks("sub/tasks")
    monkeypatch.chdir(cli.folder / "sub")

    assert cli("queues").code == 0


def test_workdir_is_where_the_app_is_found(cli) -> None:
    cli.tasks("elsewhere/tasks")

    assert cli("--workdir", "elsewhere", "-A", "tasks", "queues").code == 0


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_prints_a_script_for_the_program(cli, shell) -> None:
    ran = cli("completion", shell)

    assert ran.code == 0
    assert "_AMQPTASKS_COMPLETE" in ran.out


def test_completion_offers_commands(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "amqptasks wo")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_AMQPTASKS_COMPLETE", "bash_complete")

    with pytest.raises(SystemExit):
        program.program.main([], prog_name="amqptasks")

    assert capsys.readouterr().out == "plain,worker\n"


def test_a_reader_that_went_away_is_no_error(tmp_path) -> None:
    ran = subprocess.run(
        f"{sys.executable} -m amqptasks --help | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.stderr == ""


def test_a_command_whose_reader_went_away_ends_as_by_the_signal_of_pipes() -> None:
    """Not as a command that failed."""
    reading, writing = os.pipe()
    os.close(reading)

    ran = subprocess.run(
        [sys.executable, "-m", "amqptasks", "completion", "bash"],
        stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    os.close(writing)

    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.AppNotFound("x"), 2),
        (errors.AppImportFailed("x"), 2),
        (click.UsageError("x"), 2),
        (errors.BrokerUnavailable("x"), 69),
        (errors.DuplicateNode("x"), 73),
        (errors.BrokerBlocked("x"), 75),
        (errors.PublishTimeout("x"), 75),
        (errors.TimeoutError("x"), 75),
        (errors.AccessRefused("x"), 77),
        (errors.VhostNotFound("x"), 78),
        (errors.TopologyMismatch("x"), 78),
        (errors.Unroutable("x"), 78),
        (errors.ImproperlyConfigured("x"), 78),
        (errors.TaskRevoked("x"), 1),
        (RuntimeError("x"), 70),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_its_exit_code(error, code) -> None:
    assert exit_code(error) == code


def test_a_table_aligns_numbers_to_the_right_and_shows_what_is_missing() -> None:
    assert table(("queue", "messages"), [("short", 12), ("x", None)]) == (
        "queue  messages\n"
        "short        12\n"
        "x             -"
    )  # fmt: skip


def test_the_reference_names_every_command_option_and_exit_code() -> None:
    text = REFERENCE.read_text()
    context = click.Context(program.program)

    for name in program.COMMANDS:
        command = program.program.get_command(context, name)
        assert f"amqptasks {name}" in text, name
        for parameter in command.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else ():
                assert f"`{option}" in text or f" {option}" in text, f"{name} {option}"
    for code in (0, 1, 2, 69, 70, 73, 75, 77, 78):
        assert f"| {code} |" in text


@pytest.mark.parametrize("words", [(), ("dead",), ("topology",)], ids=" ".join)
def test_without_a_command_there_is_the_help(cli, words) -> None:
    ran = cli(*words)

    told = ran.out + ran.err
    assert told.startswith("Usage: ")
    assert "Commands:\n" in told
    assert "error:" not in told
