"""`amqptasks dashboard`: what it refuses before it listens. integration/dashboard has it run."""

import sys

import pytest


@pytest.fixture
def run(cli):
    cli.write(
        "tasks.py", f'from amqptasks import App\n\napp = App("shop", broker="memory://{cli.folder.name}")\n'
    )
    return lambda *words: cli("-A", "tasks", "dashboard", *words)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "shop.example"])
def test_others_reach_it_only_through_a_login(run, host) -> None:
    ran = run("--host", host)

    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "others reach the dashboard" in ran.err
    assert "--insecure REASON" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--user", "ann"), "--user needs a password"),
        (
            ("--user", "ann", "--password-file", "missing"),
            "missing cannot be read: No such file or directory\n",
        ),
        (("--token-file", "empty"), "the first line of empty is empty"),
        (("--port", "70000"), "70000"),
        (("--password", "x"), "there is no option --password"),
    ],
)
def test_a_mistake_is_a_line(run, cli, words, said) -> None:
    cli.write("empty", "\n")

    ran = run(*words)

    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_a_password_of_nobody_is_a_mistake(run, monkeypatch) -> None:
    monkeypatch.setenv("AMQPTASKS_DASHBOARD_PASSWORD", "x")

    assert "add --user NAME" in run().err


@pytest.mark.parametrize("missing", ["starlette", "jinja2", "uvicorn"])
def test_a_missing_extra_is_a_line_with_the_cure(run, monkeypatch, missing) -> None:
    for name in [
        name
        for name in sys.modules
        if name.startswith("amqptasks.dashboard") or name.partition(".")[0] == missing
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)

    ran = run()

    assert ran.code == 78
    assert ran.err.count("\n") == 1
    assert missing in ran.err
    assert "pip install 'amqptasks[dashboard]'" in ran.err
