"""`amqptasks dead` on a broker in memory: what it prints, what it leaves, and its exit codes."""

from __future__ import annotations

import importlib
import io
import json
import sys
from typing import Any

import pytest

from amqptasks.amqp import Address, Envelope, Properties
from amqptasks.testing import running_worker

SHOP = """
from amqptasks import App, Queue
from amqptasks.errors import Reject

app = App(
    "shop",
    broker="memory://{name}",
    task_queues=[Queue("short"), Queue("long")],
    task_default_queue="short",
    task_unknown_retries=0,
)


@app.task(acks_late=True)
def pick(name):
    raise Reject("sold out", requeue=False)
"""


class Shop:
    """A command line with an app, and the means to make dead letters."""

    def __init__(self, cli: Any) -> None:
        cli.write("tasks.py", SHOP.format(name=cli.folder.name))
        sys.path.insert(0, str(cli.folder))  # the fixture `cli` takes it out again
        self._cli = cli

    def __call__(self, *words: str) -> Any:
        return self._cli("-A", "tasks", "dead", *words)

    @property
    def app(self) -> Any:
        return importlib.import_module("tasks").app

    def dies(self, name: str, *args: Any, queue: str = "short") -> str:
        task_id = self.app.send_task(name, args, queue=queue).id
        with running_worker(self.app) as worker:
            worker.wait_until_idle()
        return task_id

    def left(self, queue: str = "short.dead") -> int:
        return self.app.connection.inspect(queue).messages


@pytest.fixture
def shop(cli) -> Shop:
    return Shop(cli)


def test_list_is_a_table_and_takes_nothing(shop) -> None:
    gone, picked = shop.dies("shop.gone", 1), shop.dies("tasks.pick", "hat", queue="long")

    first, second = shop("list"), shop("list")

    head, one, two = first.out.splitlines()
    assert head.split() == ["id", "task", "reason", "queue", "died", "times", "error"]
    assert one.split()[:4] == [gone, "shop.gone", "unknown", "short"]
    assert one.endswith("...")
    assert two.split()[:4] == [picked, "tasks.pick", "rejected", "long"]
    assert (second.code, second.out) == (0, first.out)
    assert shop.left() == 1


def test_list_as_json_has_everything(shop) -> None:
    task_id = shop.dies("shop.gone", 1)

    (letter,) = json.loads(shop("list", "--json").out)

    assert letter["id"] == task_id
    assert letter["died_at"].endswith("+00:00")
    assert {key: letter[key] for key in ("reason", "queue", "lies_in", "times", "args")} == {
        "reason": "unknown",
        "queue": "short",
        "lies_in": "short.dead",
        "times": 1,
        "args": "(1,)",
    }


def test_an_empty_list_is_no_error(shop) -> None:
    assert shop("list").out == "no dead letters\n"
    assert (shop("list").code, shop("list", "--json").out, shop("list", "-q").out) == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("-Q", "short"), 2),
        (("-Q", "long.dead"), 1),
        (("-Q", "short,long"), 3),
        (("--reason", "unknown"), 1),
        (("--reason", "unknown,rejected"), 3),
        (("--task", "tasks.*"), 2),
        (("--task", "tasks.*", "-Q", "long"), 1),
        (("--limit", "2"), 2),
        (("no-such-id",), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_list_selects(shop, words, count) -> None:
    shop.dies("shop.gone", 1)
    shop.dies("tasks.pick", "hat")
    shop.dies("tasks.pick", "hat", queue="long")

    assert len(json.loads(shop("list", "--json", *words).out)) == count


def test_what_was_not_looked_at_is_told(shop) -> None:
    for number in range(3):
        shop.dies("shop.gone", number)

    ran = shop("list", "--look", "2", "-Q", "short")

    assert len(ran.out.splitlines()) == 3
    assert ran.err == "1 more messages were not looked at; add --look N\n"


def test_show_has_headers_and_body(shop) -> None:
    task_id = shop.dies("shop.gone", 1)

    ran, facts = shop("show", task_id), json.loads(shop("show", task_id, "--json").out)

    assert f"id       {task_id}\n" in ran.out
    assert "error    NotRegistered: this worker has no task named 'shop.gone'" in ran.out
    assert '"x-amqptasks-reason": "unknown"' in ran.out
    assert ran.out.splitlines()[-1].startswith("[[1],{},")
    assert facts[0]["properties"]["correlation_id"] == task_id
    assert facts[0]["body"].startswith("[[1],{},")


def test_a_body_of_any_bytes_can_be_shown(shop) -> None:
    shop.app.prepare("short")
    properties = Properties(content_type="application/x-python-serialize")
    shop.app.connection.publish([Envelope(Address("", "short.dead"), b"\x80\x1b[31mok", properties)])

    ran = shop("show", "--all")

    assert "8 bytes, application/x-python-serialize" in ran.out
    assert ran.out.splitlines()[-1] == "\\x80\\x1b[31mok"


def test_replay_by_id_leaves_the_others(shop) -> None:
    first, second = shop.dies("tasks.pick", "hat"), shop.dies("tasks.pick", "coat")

    ran = shop("replay", first)

    assert (ran.code, ran.out, ran.err) == (0, "1 dead letter replayed\n", "")
    assert shop.left("short") == 1
    assert [each["id"] for each in json.loads(shop("list", "--json").out)] == [second]


def test_replay_to_another_queue_at_a_rate(shop) -> None:
    for name in ("hat", "coat"):
        shop.dies("tasks.pick", name)
    shop.app.prepare("long")

    ran = shop("replay", "--all", "--to", "long", "--rate", "100/s", "--json")

    assert json.loads(ran.out) == {"matched": 2, "replayed": 2, "left": {}, "beyond": 0}
    assert (shop.left("long"), shop.left()) == (2, 0)


def test_what_finds_no_queue_stays_and_is_told(shop) -> None:
    shop.dies("tasks.pick", "hat")

    ran = shop("replay", "--all", "--to", "nowhere")

    assert ran.code == 1
    assert ran.out == "0 dead letters replayed\n"
    assert ran.err.startswith("1 dead letter left: ")
    assert "nowhere" in ran.err
    assert shop.left() == 1


def test_drop_asks_first_and_no_is_no(shop, monkeypatch) -> None:
    shop.dies("tasks.pick", "hat")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))

    ran = shop("drop", "--all")

    assert ran.code == 1
    assert "Drop 1 dead letter? [y/N]" in ran.err
    assert shop.left() == 1


def test_drop_takes_what_was_asked_about_and_not_what_has_died_since(shop, monkeypatch) -> None:
    shop.dies("tasks.pick", "hat")

    def confirm(*_: object, **__: object) -> bool:
        shop.dies("tasks.pick", "coat")
        return True

    monkeypatch.setattr("click.confirm", confirm)

    assert shop("drop", "--all").out == "1 dead letter dropped\n"
    ((left),) = json.loads(shop("list", "--json").out)
    assert left["args"] == "('coat',)"


def test_drop_by_force(shop) -> None:
    shop.dies("tasks.pick", "hat")
    shop.dies("shop.gone", 1)

    ran = shop("drop", "--reason", "rejected", "--force")

    assert (ran.code, ran.out) == (0, "1 dead letter dropped\n")
    assert shop.left() == 1


@pytest.mark.parametrize("command", ["show", "replay", "drop"])
def test_nothing_that_matches_is_exit_code_1(shop, command) -> None:
    ran = shop(command, "no-such-id")

    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error: no dead letter matches; `amqptasks dead list` shows what there is\n"


@pytest.mark.parametrize("command", ["show", "replay", "drop"])
def test_all_must_be_said(shop, command) -> None:
    ran = shop(command)

    assert ran.code == 2
    assert ran.err.startswith("error: nothing says which dead letters; ")


@pytest.mark.parametrize("rate", ["0", "fast", "-1", "1/d", "1/"])
def test_a_rate_is_a_number_per_time(shop, rate) -> None:
    ran = shop("replay", "--all", "--rate", rate)

    assert ran.code == 2
    assert "write for example 10/s" in ran.err


def test_a_queue_that_is_named_must_be_there(shop) -> None:
    ran = shop("list", "-Q", "nobody")

    assert ran.code == 78
    assert ran.err.startswith("error: ")
    assert "nobody.dead" in ran.err
    assert ran.err.count("\n") == 1


def test_without_an_app_the_broker_and_the_queue_are_enough(shop, cli) -> None:
    task_id = shop.dies("tasks.pick", "hat")
    broker = shop.app.conf.broker_url

    listed = cli("-b", broker, "dead", "list", "-Q", "short", "--json")
    replayed = cli("-b", broker, "dead", "replay", "-Q", "short")

    assert [each["id"] for each in json.loads(listed.out)] == [task_id]
    assert replayed.out == "1 dead letter replayed\n"
    assert cli("-b", broker, "dead", "list").out == "no dead letters\n"


def test_progress_is_told_now_and_then(shop, monkeypatch) -> None:
    monkeypatch.setattr("amqptasks.cli.dead.PAUSE", 0.0)
    for name in ("hat", "coat"):
        shop.dies("tasks.pick", name)

    assert shop("replay", "--all", "--limit", "1").err == "replayed 1\n"
    assert shop("replay", "--all", "-q").err == ""
