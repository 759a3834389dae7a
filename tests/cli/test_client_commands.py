"""The commands of a client: what they do to queues on a broker in memory, and what they print."""

import io
import json
import sys

import pytest

from amqptasks import App
from amqptasks.transport.codec import decode_header
from amqptasks.transport.memory import broker

QUEUES = """
from amqptasks import App, Queue

app = App(
    "shop",
    broker="memory://{name}",
    task_queues=[Queue("short"), Queue("long", type="classic")],
    task_default_queue="short",
    task_routes={{"tasks.pack": "long"}},
)


@app.task
def add(x, y):
    return x + y


@app.task
def pack(name):
    return name
"""


@pytest.fixture
def shop(cli):
    cli.write("tasks.py", QUEUES.format(name=cli.folder.name))

    def run(*words: str):
        return cli("-A", "tasks", *words)

    return run


def messages(shop) -> dict[str, int | None]:
    return {row["name"]: row["messages"] for row in json.loads(shop("queues", "--json").out)}


def test_queues_shows_a_table(shop) -> None:
    shop("call", "tasks.add", "1", "2")

    ran = shop("queues")

    assert ran.out.splitlines() == [
        "queue  messages  consumers  dead  type     exchange           key",
        "short         1          0     0  quorum   amqptasks(direct)  short",
        "long          -          -     -  classic  amqptasks(direct)  long",
    ]


def test_queues_shows_what_is_among_the_lost(cli, shop) -> None:
    shop("call", "tasks.add", "1", "2", "--countdown", "30")
    node = broker(cli.folder.name)
    with node.lock:
        node.remove(node.queues["short"])
    node.advance(31)

    assert messages(shop) == {"short": None, "long": None, "amqptasks.lost": 1}


def test_an_eta_without_a_zone_is_of_the_apps_timezone(cli, shop) -> None:
    cli.write("zoned.py", "from tasks import app\n\napp.conf.timezone = 'Europe/Berlin'\n")

    cli("-A", "zoned", "call", "tasks.add", "1", "2", "--eta", "2020-07-01T12:00:00")

    with App(broker=f"memory://{cli.folder.name}", set_as_current=False) as app:
        delivery = app.connection.get("short")
    assert decode_header(delivery.header).headers["eta"] == "2020-07-01T12:00:00+02:00"


def test_queues_as_json(shop) -> None:
    assert json.loads(shop("--json", "queues").out)[0] == {
        "name": "short",
        "type": "quorum",
        "exchange": "amqptasks",
        "exchange_type": "direct",
        "routing_key": "short",
        "messages": None,
        "consumers": None,
        "dead": None,
    }


def test_queues_for_celery_are_python_with_our_arguments(shop) -> None:
    out = shop("queues", "--celery").out

    assert "task_queues = [" in out
    assert "'x-queue-type': 'quorum'" in out
    compile(out, "celeryconfig.py", "exec")


def test_call_prints_the_id_and_routes_by_name(shop) -> None:
    ran = shop("call", "tasks.pack", "readme")

    assert ran.code == 0
    assert len(ran.out.strip()) == 36
    assert messages(shop)["long"] == 1


def test_call_takes_a_queue_and_json(shop) -> None:
    ran = shop("call", "tasks.add", "-a", "[1]", "-k", '{"y": 2}', "--queue", "long", "--json")

    assert set(json.loads(ran.out)) == {"id"}
    assert messages(shop) == {"short": None, "long": 1}


def test_call_by_name_needs_no_registration(shop) -> None:
    assert shop("call", "other.task", "--by-name").code == 0
    assert messages(shop)["short"] == 1


def test_call_without_an_app_sends_to_the_default_queue(cli) -> None:
    ran = cli("-b", f"memory://{cli.folder.name}", "call", "tasks.add", "1", "2")

    assert (ran.code, ran.err) == (0, "")


def test_call_that_waits_in_vain_says_that_the_task_may_still_finish(shop) -> None:
    ran = shop("call", "tasks.add", "1", "2", "--wait", "--timeout", "0.05")

    assert ran.code == 75
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1


def test_purge_counts_what_it_removes(shop) -> None:
    shop("call", "tasks.add", "1", "2")
    shop("call", "tasks.add", "1", "2")

    ran = shop("purge", "-f")

    assert ran.out == "2 messages removed from short\n"
    assert messages(shop)["short"] == 0


def test_purge_asks_first_and_no_is_no(shop, monkeypatch) -> None:
    shop("call", "tasks.add", "1", "2")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))

    ran = shop("purge")

    assert ran.code == 1
    assert "Remove all messages from short (1)? [y/N]" in ran.err
    assert messages(shop)["short"] == 1


def test_purge_takes_the_queues_named_and_leaves_those_excluded(shop) -> None:
    shop("call", "tasks.add", "1", "2")
    shop("call", "tasks.pack", "x")

    assert json.loads(shop("purge", "-f", "-Q", "short", "--json").out) == {"short": 1}
    assert json.loads(shop("purge", "-f", "-X", "long", "--json").out) == {"short": 0}
    assert messages(shop) == {"short": 0, "long": 1}


def test_topology_exports_dead_letters_queues_and_bindings(shop) -> None:
    found = json.loads(shop("topology", "export").out)

    assert {"short", "short.dead", "long", "long.dead"} <= {queue["name"] for queue in found["queues"]}
    assert {"amqptasks", "amqptasks.dead"} <= {exchange["name"] for exchange in found["exchanges"]}
    assert found["policies"] == []


def test_topology_exports_policies_for_minimal_arguments(cli) -> None:
    cli.write(
        "tasks.py", "from amqptasks import App\napp = App(broker='memory://t', queue_arguments='minimal')\n"
    )

    found = json.loads(cli("-A", "tasks", "topology", "export").out)

    patterns = [policy["pattern"] for policy in found["policies"]]
    assert patterns == ["^amqptasks$", r"^amqptasks\.internal$"]


def test_report_masks_passwords_and_survives_a_broker_that_is_down(cli) -> None:
    ran = cli("-b", "amqp://me:secret@127.0.0.1:1//", "report")

    assert ran.code == 0
    assert "amqp://me:**@127.0.0.1:1/" in ran.out
    assert "secret" not in ran.out


def test_report_as_json(shop) -> None:
    facts = json.loads(shop("report", "--json").out)

    assert set(facts) == {"versions", "platform", "broker", "settings"}
    assert facts["settings"]["task_default_queue"] == "short"


def test_shell_runs_code_with_the_app_and_its_tasks(shop) -> None:
    ran = shop("shell", "-c", "print(add(2, 3), app.main, pack.name)")

    assert ran.out == "5 shop tasks.pack\n"


def test_what_code_in_the_shell_raises_is_shown_as_python_does(shop) -> None:
    ran = shop("shell", "-c", "1 / 0")

    assert ran.code == 1
    assert ran.err.endswith("ZeroDivisionError: division by zero\n")


def test_shell_reads_its_input(shop, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("print(add(20, 3))\n"))

    assert "23" in shop("shell", "--python").out


STORED = """
from amqptasks import App, states
from amqptasks.backends.base import Meta

app = App("shop", broker="memory://stored", backend="memory://")
app.backend.store(Meta(task_id="good", status=states.SUCCESS, result=[1, 2]), lambda envelope: None)
app.backend.store(Meta(task_id="bad", status=states.FAILURE, result=ValueError("no"), traceback="Traceback: x"), lambda envelope: None)
"""


@pytest.mark.parametrize(
    ("words", "code", "out"),
    [
        (("result", "good"), 0, "SUCCESS  [1, 2]\n"),
        (("result", "bad"), 1, "FAILURE  ValueError: no\n"),
        (("result", "bad", "--traceback"), 1, "Traceback: x\n"),
        (("result", "unknown"), 0, "PENDING\n"),
    ],
)
def test_result_shows_what_is_stored(cli, words, code, out) -> None:
    cli.write("tasks.py", STORED)

    ran = cli("-A", "tasks", *words)

    assert (ran.code, ran.out) == (code, out)


ROUTED = """
import re
from amqptasks import App, Queue

app = App("proj", broker="memory://{name}", task_routes=[
    {{"routed.pack": {{"queue": "long"}}, "routed.pa*": "long", "other.*": "night", "none.*": None}},
    (re.compile("x"), Queue("typed", type="classic")),
    lambda name, *_, **__: None,
])


@app.task
def pack(name):
    return name


@app.task(queue="own")
def keep(name):
    return name
"""


def test_queues_that_routes_and_tasks_name_are_the_app_s_too(cli) -> None:
    cli.write("routed.py", ROUTED.format(name=cli.folder.name))

    def run(*words: str):
        return cli("-A", "routed", *words)

    run("call", "routed.pack", "a")

    assert messages(run) == {"amqptasks": None, "long": 1, "night": None, "typed": None, "own": None}
    named = {queue["name"] for queue in json.loads(run("topology", "export").out)["queues"]}
    assert {"amqptasks", "long", "night", "typed", "own"} <= named
    listed = run("purge", "--force").out
    assert "long" not in listed, "a purge takes what a worker without -Q would"
