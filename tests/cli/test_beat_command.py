"""`amqptasks beat` and `amqptasks schedule` where no beat runs: what is refused, in which words, with which code."""

import json

import pytest

from amqptasks.cli import beat as module
from amqptasks.cli import schedule as asking
from amqptasks.cli.options import Common
from amqptasks.cli.worker import beat_command
from amqptasks.worker.options import WorkerOptions

APP = """
from amqptasks import App
from amqptasks.beat.scheduler import Scheduler
from amqptasks.errors import ImproperlyConfigured
from amqptasks.schedules import crontab

app = App({main!r}, broker="memory://{name}", backend=None)


@app.task(name="shop.report")
def report(kind):
    return kind


class FromDatabase(Scheduler):
    def entries(self):
        raise ImproperlyConfigured("the database is not there; start it")

"""


@pytest.fixture
def shop(cli):
    """Write the app with more lines, and run a command with it."""

    def run(more: str, *words: str, main: str | None = "shop"):
        cli.write("shop.py", APP.format(main=main, name=cli.folder.name) + more)
        return cli("-A", "shop", *words)

    return run


ENTRY = "app.conf.beat_schedule = {{'nightly': {{'task': 'shop.report', {}}}}}"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (ENTRY.format("'schedule': crontab(minute='61'), 'args': [1]"), "61 is no minute of a crontab"),
        (ENTRY.format("'schedule': crontab(tz='Mars/Olympus')"), "there is no time zone 'Mars/Olympus'"),
        (ENTRY.format("'schedule': 60"), "missing a required argument: 'kind'"),
        (ENTRY.format("'schedule': 60, 'args': [object()]"), "beat_schedule['nightly'] cannot be sent"),
        ("app.conf.timezone = 'Mars/Olympus'", "Mars/Olympus"),
        (
            "@app.on_after_configure.connect\ndef setup(sender, **_):\n    sender.add_periodic_task(0, report.s(1))",
            "give an interval above zero",
        ),
        ("app.conf.beat_scheduler = 'shop:FromDatabase'", "the database is not there"),
        ("app.conf.beat_scheduler = 'shop:Missing'", "Missing"),
    ],
    ids=["cron", "zone", "arguments", "unserialisable", "timezone", "receiver", "scheduler", "no scheduler"],
)
def test_a_wrong_schedule_is_an_error_of_one_line_at_the_start(shop, line, words) -> None:
    ran = shop(line, "beat")

    assert ran.code == 78
    assert words in ran.err
    assert ran.err.count("\nerror: ") + ran.err.startswith("error: ") == 1


def test_the_scheduler_s_class_is_an_option(shop) -> None:
    ran = shop("", "beat", "-S", "shop:FromDatabase")

    assert (ran.code, ran.err) == (78, "error: the database is not there; start it\n")


def test_an_app_without_a_name_is_refused(shop) -> None:
    ran = shop("", "beat", main=None)

    assert ran.code == 78
    assert "set beat_name" in ran.err


def test_a_schedule_file_is_not_written_and_beat_says_so(shop, cli, monkeypatch) -> None:
    monkeypatch.setattr(module, "run_beat", lambda app, **options: None)
    ran = shop("", "beat", "-s", "/var/run/celerybeat-schedule", "--max-interval", "5")

    assert ran.code == 0
    assert (
        ran.err
        == "--schedule /var/run/celerybeat-schedule is not written: the last runs are kept on the broker\n"
    )
    assert shop("", "beat", "-s", "x", "-q").err == ""


def test_max_interval_and_pid_file_arrive(shop, cli, monkeypatch) -> None:
    seen = []

    def run_beat(app, **options):
        seen.append((options, (cli.folder / "run/beat.pid").exists()))

    monkeypatch.setattr(module, "run_beat", run_beat)
    pid = str(cli.folder / "run/beat.pid")
    assert shop("", "beat", "--max-interval", "2.5", "--pidfile", pid).code == 0
    assert shop("", "beat").code == 0

    assert seen == [
        ({"max_interval": 2.5, "embedded": False}, True),
        ({"max_interval": 0.0, "embedded": False}, False),
    ]


ANSWERS = {
    "ok": ({"ok": "add: nightly"}, 0, "add: nightly\n", ""),
    "remark": (
        {"ok": "add: x", "remark": "no task is named 't'"},
        0,
        "add: x\n",
        "note: no task is named 't'\n",
    ),
    "error": (
        {"error": "there is no entry 'x'; entries are none"},
        1,
        "",
        "error: there is no entry 'x'; entries are none\n",
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_the_leading_beat_answers_is_printed(shop, monkeypatch, answer) -> None:
    given, code, out, err = ANSWERS[answer]
    monkeypatch.setattr(asking, "ask", lambda *_: given)
    ran = shop("", "schedule", "add", "x", "shop.report", "--every", "5")
    told = shop("", "schedule", "pause", "x", "--json")

    assert (ran.code, ran.out, ran.err) == (code, out, err)
    assert told.code == code
    assert json.loads(told.out) == (given if code == 0 else {"error": {"code": 1, **_said(given["error"])}})


def _said(sentence: str) -> dict[str, str]:
    message, _, hint = sentence.partition("; ")
    return {"message": message, "hint": hint}


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("pause", "nightly"),
        ("resume", "nightly"),
        ("run", "nightly"),
        ("remove", "nightly"),
        ("add", "nightly", "shop.report", "--every", "60", "-a", "[1]"),
    ],
    ids=lambda words: words[0],
)
def test_where_no_beat_has_ever_run_the_commands_end_with_69(shop, words) -> None:
    ran = shop("", "schedule", *words, "--json")

    assert ran.code == 69
    assert json.loads(ran.out)["error"] == {
        "code": 69,
        "message": "no beat has run for 'shop' on this broker",
        "hint": "start one: amqptasks beat",
    }


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "give either --every SECONDS or --cron 'FIELDS'"),
        (("--every", "5", "--cron", "* * * * *"), 2, "give either"),
        (("--every", "5", "--timezone", "Europe/Berlin"), 2, "an interval has no --timezone"),
        (("--every", "0"), 2, "--every"),
        (("--cron", "61 * * * *"), 78, "61 is no minute"),
        (("--cron", "* * *"), 78, "a crontab has five"),
        (("--cron", "* * * * *", "--timezone", "Mars"), 78, "there is no time zone 'Mars'"),
        (("--every", "5", "-a", "{}"), 2, "is no JSON list"),
        (("--every", "5", "-k", "[1"), 2, "is no JSON object"),
        (("--every", "5", "--catch-up", "some"), 2, "--catch-up"),
    ],
    ids=str,
)
def test_mistakes_in_what_is_added(shop, words, code, said) -> None:
    ran = shop("", "schedule", "add", "nightly", "shop.report", *words)

    assert ran.code == code
    assert said in ran.err


def test_modules_and_settings_of_the_command_line_count(shop) -> None:
    ran = shop("", "beat", "-I", "missing_module")
    assert ran.code == 2
    assert "missing_module" in ran.err
    ran = shop("", "beat", "--", "timezone=Mars/Olympus")
    assert "Mars/Olympus" in ran.err
    ran = shop("", "beat", "nonsense")
    assert ran.code == 2
    assert "settings are written name=value" in ran.err


def test_the_beat_beside_a_worker_is_told_what_the_worker_was_told() -> None:
    worker = WorkerOptions(
        app="shop", include=("a", "b"), loglevel="INFO", workdir="/w", logfile="%n.log", hostname="w@h"
    )

    words = beat_command(worker, Common(broker="amqp://here"), None, {"timezone": "UTC", "beat_name": "x"})

    assert words == [
        "beat", "-q", "-A", "shop", "-b", "amqp://here", "--workdir", "/w", "--loglevel", "INFO", "--logfile", "w.log",
        "--include", "a,b", "--", "timezone=UTC", "beat_name=x",
    ]  # fmt: skip
