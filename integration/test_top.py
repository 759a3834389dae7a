"""`amqptasks top` in a pseudo terminal, beside a real worker; and its lines, where there is no terminal."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.apps.observed_tasks import add, app, fail, refuse
from integration.support import Proxy, WorkerProcess
from integration.support.processes import ROOT
from tests.support.terminals import Terminal

APP = "integration.apps.observed_tasks"
Start = Callable[..., WorkerProcess]


@pytest.fixture(autouse=True)
def _app(broker_url: str) -> Iterator[None]:
    app.conf.update(broker_url=broker_url)
    yield
    app.close()


def command(url: str, *words: str) -> list[str]:
    given = ["top", "--management-url", "", *words]
    return [sys.executable, "-m", "amqptasks", "-A", APP, "-b", url, *given]


PATIENT = "import amqptasks.cli.top as top, amqptasks.cli.main as main, sys; top.SETTLING = 30.0; sys.exit(main.main())"


def printing(url: str, *words: str) -> list[str]:
    """As `command`, but a worker has half a minute to say that it is there: it is, however busy the machine."""
    python, _, _, *rest = command(url, *words)
    return [python, "-c", PATIENT, *rest]


def test_a_screen_beside_a_worker(worker: Start, broker_url: str) -> None:
    """From an empty broker to dead letters and a worker that ends; each section, sorted and filtered."""
    with Terminal(command(broker_url, "-n", "0.3"), cells=150, lines=40, cwd=str(ROOT)) as screen:
        screen.wait("workers 0/0 online")
        running = worker(APP, "-E", "-c", "2", "-n", "w1@here", "-Q", "observed", broker_url=broker_url)
        screen.wait(
            lambda lines: any(
                "w1@here" in line and "online" in line and "prefork 2" in line for line in lines
            )
        )
        calls = [add.delay(number, number) for number in range(5)]
        failed = fail.delay("no luck")
        refuse.delay(1)

        screen.wait(
            lambda lines: sum("observed.add" in line and "SUCCESS" in line for line in lines) == len(calls)
        )
        screen.wait("dead 1")
        screen.press("4/no luck\r")
        screen.wait(
            lambda lines: (
                sum("observed." in line for line in lines) == 1 and any(failed.id in line for line in lines)
            )
        )
        screen.press("\x1b")
        screen.wait(lambda lines: sum("observed." in line for line in lines) >= 7)
        screen.press("5")
        screen.wait(lambda lines: any("rejected" in line and "observed.refuse" in line for line in lines))
        screen.press("2")
        screen.wait(lambda lines: lines[-2] == "" and any(line.startswith("forgotten") for line in lines))
        screen.press("6")
        screen.wait("amqptasks beat")  # none runs, and that is said

        screen.press("1")
        running.stop()
        screen.wait("NOBODY CONSUMES: observed")
        assert "\x1b[1;37;41mobserved" in screen.styled
        screen.wait("GONE")
        screen.press("q")
        assert screen.wait_end() == 0
        screen.assert_restored()


def test_a_broker_that_goes_and_comes_back(vhost: str, proxy: Proxy) -> None:
    with Terminal(command(proxy.url(vhost), "-n", "0.3"), cwd=str(ROOT)) as screen:
        screen.wait("RabbitMQ")
        proxy.refuse()
        proxy.rst()
        screen.wait("NO BROKER")
        screen.wait("shown is what was known before")
        proxy.accept()
        screen.wait(lambda lines: not any("NO BROKER" in line for line in lines))
        screen.press("\x03")
        assert screen.wait_end() in (130, -signal.SIGINT)
        screen.assert_restored()


def test_lines_where_there_is_no_terminal(worker: Start, broker_url: str) -> None:
    worker(APP, "-E", "-n", "w2@here", "-Q", "observed", broker_url=broker_url)
    add.delay(1, 1).get(timeout=60)

    once, piped = (
        subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100)
        for line in (
            printing(broker_url, "--once"),
            ["sh", "-c", '"$@" | head -n 2', "sh", *printing(broker_url, "--json", "-n", "0.2")],
        )
    )

    assert (once.returncode, once.stderr) == (0, "")
    assert "\x1b" not in once.stdout
    assert any(line.startswith("w2@here") and "online" in line for line in once.stdout.splitlines())
    told = [json.loads(line) for line in piped.stdout.splitlines()]
    assert (len(told), piped.stderr) == (2, "")  # it ends with its reader
    assert told[-1]["overview"]["connected"]
    assert "w2@here" in [row["node"] for row in told[-1]["workers"]]
    assert "observed" in [row["name"] for row in told[-1]["queues"]]


def test_without_a_broker_it_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from amqptasks import App\napp = App('x')\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    program = "import amqptasks.cli.top as top, amqptasks.cli.main as main, sys; top.PATIENCE = 1.0; sys.exit(main.main())"
    given = [sys.executable, "-c", program, "-A", "app", "-b", "amqp://guest@127.0.0.1:9//", "top", "--once"]
    ended = subprocess.run(given, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)

    assert ended.returncode == 69
    assert ended.stderr.startswith("error: ")
    assert "127.0.0.1:9" in ended.stderr
