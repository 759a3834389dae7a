"""What a mistake costs: one line that says what happened, why, and the cure; an exit code; no traceback."""

import json
import sys
from dataclasses import dataclass, field

import pytest

REFUSED = "amqp://guest@127.0.0.1:1//"


@dataclass(frozen=True)
class Mistake:
    words: str
    code: int
    line: str
    files: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


APP = "from amqptasks import App\napp = App('shop', broker='memory://mistakes')\n"
BROKEN = "def total():\n    return 1 / 0\n\n\ntotal()\n"

MISTAKES = {
    "no app": Mistake(
        "worker",
        2,
        "no app is named; add -A yourmodule, or set AMQPTASKS_APP, or write app = 'yourmodule' under "
        "[tool.amqptasks] in pyproject.toml",
    ),
    "module missing": Mistake(
        "-A tsks queues", 2, "there is no module 'tsks' in {folder} nor elsewhere on the path; did you mean -A tasks?",
        {"tasks.py": APP},
    ),
    "nothing near": Mistake(
        "-A zzz queues", 2,
        "there is no module 'zzz' in {folder} nor elsewhere on the path; start in the project's folder, or name it "
        "by --workdir",
    ),
    "submodule missing": Mistake(
        "-A shop.taks queues", 2, "there is no module 'shop.taks' in the package 'shop'; did you mean -A shop.tasks?",
        {"shop/__init__.py": "", "shop/tasks.py": APP},
    ),
    "attribute missing": Mistake(
        "-A tasks:ap queues", 2, "the module 'tasks' was found, but has no attribute 'ap'; did you mean 'app'?",
        {"tasks.py": APP},
    ),
    "no app in it": Mistake(
        "-A tasks queues", 2,
        "the module 'tasks' ({folder}/tasks.py) was found, but holds no amqptasks.App; write app = App('tasks') in "
        "it, or name another: -A package.module:attribute",
        {"tasks.py": "x = 1\n"},
    ),
    "several apps": Mistake(
        "-A tasks queues", 2, "the module 'tasks' holds several apps; write -A tasks:one or -A tasks:two",
        {"tasks.py": "from amqptasks import App\none = App('a')\ntwo = App('b')\n"},
    ),
    "a file": Mistake(
        "-A shop/tasks.py queues", 2, "-A shop/tasks.py is a file; name the module: -A shop.tasks"
    ),
    "no app object": Mistake(
        "-A tasks:x queues", 2,
        "tasks:x is an object of type int; name an amqptasks.App, or a function that returns one",
        {"tasks.py": "x = 1\n"},
    ),
    "factory returns nothing": Mistake(
        "-A tasks:make queues", 2, "tasks:make() returned None; it must return an amqptasks.App",
        {"tasks.py": "def make():\n    pass\n"},
    ),
    "import raises": Mistake(
        "-A tasks queues", 2,
        "importing tasks raised ZeroDivisionError: division by zero (tasks.py, line 2); correct it, or see --traceback",
        {"tasks.py": BROKEN},
    ),
    "syntax": Mistake(
        "-A tasks queues", 2,
        "importing tasks raised SyntaxError: '(' was never closed (tasks.py, line 1); correct it, or see --traceback",
        {"tasks.py": "x = (\n"},
    ),
    "its import is missing": Mistake(
        "-A tasks queues", 2,
        "importing tasks raised ModuleNotFoundError: No module named 'absent_library' (tasks.py, line 1); correct it, "
        "or see --traceback",
        {"tasks.py": "import absent_library\n"},
    ),
    "pyproject unreadable": Mistake(
        "queues", 78,
        '[tool.amqptasks] app in {folder}/pyproject.toml is no text; write app = "package.module:app"',
        {"pyproject.toml": "[tool.amqptasks]\napp = 3\n"},
    ),
    "command misspelt": Mistake("wrker", 2, "there is no command 'wrker'; did you mean 'worker'?"),
    "command of Celery's": Mistake(
        "migrate", 2, "there is no command 'migrate'; move messages with RabbitMQ's shovel plugin"
    ),
    "option misspelt": Mistake(
        "worker --concurency 2", 2, "there is no option --concurency; did you mean --concurrency?"
    ),
    "option of Celery's": Mistake(
        "worker --loader x", 2,
        "there is no option --loader; name the app by -A, its settings by app.config_from_object()",
    ),
    "option misspelt before the command": Mistake(
        "--brokr x worker", 2, "there is no option --brokr; did you mean --broker?"
    ),
    "concurrency": Mistake(
        "worker -c none", 2,
        "Invalid value for '-c' / '--concurrency': 'none' is neither 'auto' nor a number of at least 1",
    ),
    "pool of Celery's": Mistake(
        "worker -P gevent", 2, "Invalid value for '-P' / '--pool': there is no pool 'gevent'; use -P threads -c 100"
    ),
    "no queue in the list": Mistake(
        "worker -Q ,", 2,
        "Invalid value for '-Q' / '--queues': no name in it; separate names by commas: short,long",
    ),
    "stray word": Mistake(
        "worker -A tasks short", 2, "unexpected argument 'short'; settings are written name=value, after --"
    ),
    "setting misspelt": Mistake(
        "worker -A tasks -- worker_concurency=2", 78,
        "unknown setting 'worker_concurency'; did you mean 'worker_concurrency'?",
    ),
    "setting misspelt in the app": Mistake(
        "-A tasks queues", 78, "unknown setting 'task_ack_late'; did you mean 'task_acks_late'? (tasks.py, line 2)",
        {"tasks.py": "from amqptasks import App\napp = App('shop', task_ack_late=True)\n"},
    ),
    "Redis as broker": Mistake(
        "-b redis://localhost call tasks.add", 78,
        "Redis is a result store here: result_backend='redis://...'; the broker must be RabbitMQ: "
        "broker_url='amqp://user:password@host//'",
    ),
    "scheme misspelt": Mistake(
        "-b ampq://localhost call tasks.add", 78,
        "unknown scheme 'ampq' in the broker URL 'ampq://localhost'; did you mean amqp://?",
    ),
    "task misspelt": Mistake(
        "-A tasks call tasks.ad 1 2", 2, "the app has no task 'tasks.ad'; did you mean 'tasks.add'?",
        {"tasks.py": APP + "@app.task\ndef add(x, y): return x + y\n"},
    ),
    "task arguments": Mistake(
        "-A tasks call tasks.add 1", 2, "tasks.add(x, y): missing a required argument: 'y'; see the task's signature",
        {"tasks.py": APP + "@app.task\ndef add(x, y): return x + y\n"},
    ),
    "arguments are no JSON": Mistake(
        "call tasks.add -a [1,", 2,
        "Invalid value for '-a' / '--args': '[1,' is no JSON (Expecting value: line 1 column 4 (char 3)); "
        "write for example [2, 3]",
    ),
    "arguments are no list": Mistake(
        "call tasks.add -a 3", 2,
        "Invalid value for '-a' / '--args': '3' is a JSON int; write for example [2, 3]",
    ),
    "arguments twice": Mistake(
        "call tasks.add 1 -a [2]", 2, "arguments are given twice; write them after NAME or in -a, not both"
    ),
    "no time": Mistake(
        "call tasks.add --eta tomorrow", 2,
        "Invalid value for '--eta': 'tomorrow' is neither a time such as 2030-01-31T12:00:00+00:00 nor a number of "
        "seconds from now",
    ),
    "result of rpc": Mistake(
        "-b memory://mistakes result 7c1e", 78,
        "results of rpc:// belong to the process that sent the task; wait for them there, use `amqptasks call --wait`, "
        "or set another result_backend",
    ),
    "queue misspelt": Mistake(
        "-A tasks purge -f -Q shrt", 78, "there is no queue 'shrt'; did you mean 'short'?",
        {"tasks.py": "from amqptasks import App\napp = App('s', broker='memory://m', task_queues={'short': {}})\n"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_costs_one_line_and_an_exit_code(cli, monkeypatch, mistake) -> None:
    for path, text in mistake.files.items():
        cli.write(path, text)

    ran = cli(*mistake.words.split(" "))

    line = mistake.line.replace("{folder}", str(cli.folder))
    assert (ran.code, ran.err, ran.out) == (mistake.code, f"error: {line}\n", "")


def test_a_broker_that_refuses_is_named_with_host_and_port(cli) -> None:
    ran = cli("-b", REFUSED, "call", "tasks.add")

    assert ran.code == 69
    assert ran.err.count("\n") == 1
    assert "127.0.0.1:1" in ran.err
    assert "Traceback" not in ran.err


def test_the_error_is_json_where_json_was_asked_for(cli) -> None:
    ran = cli("wrker", "--json")

    assert (ran.code, ran.err) == (2, "")
    assert json.loads(ran.out) == {
        "error": {"code": 2, "message": "there is no command 'wrker'", "hint": "did you mean 'worker'?"}
    }


def test_traceback_shows_the_users_frames_and_not_those_of_the_import(cli) -> None:
    cli.write("tasks.py", BROKEN)

    ran = cli("-A", "tasks", "--traceback", "queues")

    assert ran.code == 2
    assert ran.err.startswith("Traceback (most recent call last):\n")
    assert 'tasks.py", line 2, in total' in ran.err
    assert "importlib" not in ran.err
    assert ran.err.splitlines()[-1].startswith("error: importing tasks raised ZeroDivisionError")


def test_a_password_is_not_repeated(cli) -> None:
    ran = cli("-b", "ampq://me:secret@localhost//", "call", "tasks.add")

    assert ran.code == 78
    assert "secret" not in ran.err


def test_an_unforeseen_error_is_called_internal(cli, monkeypatch) -> None:
    cli.write("tasks.py", APP)
    sys.modules.pop("amqptasks.cli.queues", None)
    import amqptasks.cli.queues as queues

    monkeypatch.setattr(queues, "described", lambda queue: 1 / 0)
    ran = cli("-A", "tasks", "queues")

    assert ran.code == 70
    assert ran.err == (
        "error: internal error: ZeroDivisionError: division by zero; add --traceback and report it\n"
    )
