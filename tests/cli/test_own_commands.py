"""`inspect` and `control` with commands of the app's own: what is listed, and what words become of arguments."""

import json

import pytest

from amqptasks.cli import remote

COMMANDS = """
from amqptasks import App

app = App("shop", broker="memory://{name}", include=["more"])


@app.control_command(args=[("n", int), ("loud", bool)])
def increase(state, n, loud=False):
    "Have more."
"""
MORE = """
from commands import app


@app.inspect_command(variadic="names", default_timeout=0.2)
def where(state, names=()):
    "Where these are."


@app.inspect_command(visible=False)
def hidden(state):
    "Nobody's business."
"""


@pytest.fixture(autouse=True)
def commands(cli) -> None:
    cli.write("commands.py", COMMANDS.format(name=cli.folder.name))
    cli.write("more.py", MORE)


def test_they_are_listed_with_their_words_and_help_by_kind(cli) -> None:
    control, inspect = cli("-A", "commands", "control", "--list"), cli("-A", "commands", "inspect", "--list")

    assert "increase N [LOUD] " in control.out
    assert control.out.endswith("Have more.\n")
    assert "where [NAMES...] " in inspect.out
    assert "Where these are." in inspect.out
    assert "hidden" not in inspect.out
    assert "increase" not in inspect.out


def test_without_an_app_the_workers_own_are_listed(cli) -> None:
    assert "increase" not in cli("control", "--list").out
    assert "pool_grow" in cli("control", "--list").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("control", "increase", "many"), "'many' does not fit n"),
        (("control", "increase", "1", "perhaps"), "'perhaps' does not fit loud"),
        (("control", "increase"), "increase takes N [LOUD]; got none"),
        (("control", "increase", "1", "no", "2"), "increase takes N [LOUD]; got 1 no 2"),
        (("control", "where"), "where is asked by `amqptasks inspect where`"),
        (("inspect", "nothing", "5"), "there is no command nothing here"),
        (("inspect", "ping", "-d", "w1*,w2*"), "one pattern"),
        (("control", "revoke_by_stamped_headers", "customer"), "'customer' is no stamp"),
        (("control", "terminate", "NONSENSE", "id"), "there is no signal 'NONSENSE'"),
    ],
)
def test_words_that_do_not_fit_are_mistakes(cli, words: tuple[str, ...], said: str) -> None:
    ran = cli("-A", "commands", *words)

    assert ran.code == 2
    assert said in ran.err


def test_answers_are_waited_for_as_long_as_the_command_says(cli) -> None:
    assert "(0.2 s)" in cli("-A", "commands", "inspect", "where", "x").err
    assert "(0.1 s)" in cli("-A", "commands", "inspect", "where", "-t", "0.1").err


def answered(monkeypatch: pytest.MonkeyPatch, answers: dict[str, object]) -> None:
    """Whatever the workers are told, this is what they say."""
    replies = [{node: answer} for node, answer in answers.items()]
    monkeypatch.setattr(remote, "_broadcast", lambda *_: replies)


def test_a_name_that_no_worker_knows_is_called_so(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers say KeyError, as Celery's; who mistyped a name wants to read the right one."""
    answered(
        monkeypatch, {"w1@here": {"error": "KeyError('pnig')"}, "w2@here": {"error": "KeyError('pnig')"}}
    )

    ran = cli("-A", "commands", "inspect", "pnig")

    assert ran.code == 1
    assert ran.err == "error: no worker knows a command pnig; did you mean ping? `--list` shows all\n"
    own = cli("-A", "commands", "inspect", "wheer")
    assert "did you mean" not in own.err, "the workers' error is another one"
    answered(monkeypatch, {"w1@here": {"error": "KeyError('wheer')"}})
    assert "did you mean where?" in cli("-A", "commands", "inspect", "wheer").err


def test_a_key_error_of_a_command_that_there_is_stays_its_own(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, {"w1@here": {"error": "KeyError('where')"}})

    assert cli("-A", "commands", "inspect", "where").err == ""


@pytest.mark.parametrize("command", [("inspect", "ping"), ("status",)])
def test_nodes_that_were_named_and_say_nothing_are_told(
    cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    answered(monkeypatch, {"w1@here": {"ok": "pong"}})

    ran = cli("-A", "commands", *command, "-d", "w1@here,w2@here", "-d", "w3@here", "--json")

    assert ran.code == 75
    assert ran.out == '{"w1@here": {"ok": "pong"}}\n'
    assert ran.err == "error: w2@here, w3@here did not answer within 1 s; are they running?\n"
    assert cli("-A", "commands", *command, "-d", "w1@here").code == 0
    assert cli("-A", "commands", *command, "-d", "w*@here").code == 0, "a pattern names nobody"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("inspect", "ping", "-j", "-t", "0.1"), 69),
        (("status", "-jt", "0.1"), 69),
        (("control", "-j", "rate_limit"), 2),
    ],
)
def test_celery_s_short_name_of_json_has_errors_as_json_too(cli, words: tuple[str, ...], code: int) -> None:
    ran = cli("-A", "commands", *words)

    assert (ran.code, ran.err) == (code, "")
    assert json.loads(ran.out)["error"]["code"] == code


def test_an_answer_of_nothing_is_shown_as_done(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, {"w1@here": None})

    assert cli("-A", "commands", "control", "heartbeat").out == "->  w1@here: OK\n\n1 node online.\n"


@pytest.mark.parametrize("kind", ["inspect", "control"])
def test_an_answer_that_is_an_error_is_shown_and_ends_with_1(
    cli, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"w1@here": {"ok": "pong"}, "w2@here": {"error": "no such thing"}}
    monkeypatch.setattr(remote, "asked", lambda *_: answers)

    ran = cli("-A", "commands", kind, "increase" if kind == "control" else "where", "1")

    assert ran.code == 1
    assert "no such thing" in ran.out
    assert "pong" in ran.out
