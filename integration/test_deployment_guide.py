"""The commands of docs/guide/deployment.md, typed as they stand: the health port, and what systemd does with the units.

There is no systemd that could be asked here, so `Systemctl` does with a unit what systemd would: its environment files,
its command, its notifications. What docker and kubectl are told is checked against the files in tests/.
"""

import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from broker import PrivateNode, free_ports

from amqptasks import App
from integration.support.processes import ROOT, Process
from tests.support.pages import TYPED, Command, blocks, commands

PAGE = "docs/guide/deployment.md"
EXAMPLES = ROOT / "examples" / "deploy"
UNITS, PROJECT = EXAMPLES / "systemd", EXAMPLES / "docker"
PROGRAM, PORT = "/srv/proj/.venv/bin/amqptasks", "9540"
NODE_OF_THE_PAGE = "amqptasks@web1"


def typed(*programs: str) -> list[Command]:
    """The page's commands of these programs, in order."""
    found = [command for block in blocks(PAGE) if block.language == TYPED for command in commands(block)]
    return [command for command in found if command.words.split()[0] in programs]


def test_a_worker_with_a_health_port_answers_as_the_page_prints(
    node: PrivateNode, fresh_vhost: str, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    started, asked = typed("amqptasks", "curl")
    line = shlex.split(started.words.replace(PORT, str(port)))
    environment = {"AMQPTASKS_BROKER_URL": node.url(fresh_vhost)}
    log = tmp_path / "worker.log"

    with Process(
        [sys.executable, "-m", *line], ready=" ready", env=environment, cwd=PROJECT, log=log
    ) as worker:
        command = ["curl", "-sS", *shlex.split(asked.words.replace(PORT, str(port)))[1:]]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert worker.stop() == 0

    assert answer.returncode == 0, answer.stderr
    printed = json.loads(asked.output.replace(NODE_OF_THE_PAGE, f"amqptasks@{socket.gethostname()}"))
    assert json.loads(answer.stdout) == printed


class Unit:
    """A service: its file's lines, its process, and the end of NOTIFY_SOCKET that systemd holds."""

    def __init__(self, name: str, folder: Path, broker_url: str) -> None:
        base, _, instance = name.partition("@")
        path = UNITS / (f"{base}@.service" if instance else f"{base}.service")
        text = path.read_text().replace("%i", instance).replace("%H", socket.gethostname())
        lines = [line.partition("=") for line in text.splitlines() if "=" in line and line[0] != "#"]
        self._lines = {key: value for key, _, value in lines}
        self._files = [value.lstrip("-") for key, _, value in lines if key == "EnvironmentFile"]
        address = str(folder / f"{name}.socket")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(90)
        self.status = ""
        environment = {
            **self._variables(),
            "AMQPTASKS_BROKER_URL": broker_url,
            "AMQPTASKS_WORKER_HEALTH_PORT": "0",
            "NOTIFY_SOCKET": address,
            "WATCHDOG_USEC": f"{self._lines['WatchdogSec']}000000",
        }
        program, *words = shlex.split(self._lines["ExecStart"])
        assert program == PROGRAM
        command = [sys.executable, "-m", "amqptasks", *words]
        self.process = Process(command, env=environment, cwd=PROJECT, log=folder / f"{name}.log")

    def _variables(self) -> dict[str, str]:
        named = [UNITS / Path(name).name for name in self._files]
        lines = [
            line for path in named for line in path.read_text().splitlines() if line[:1] not in ("", "#")
        ]
        return dict(line.split("=", 1) for line in lines)

    def until(self, line: str) -> None:
        """Take notifications until one has this line; what they say of the service's status is kept."""
        lines: list[str] = []
        while line not in lines:
            lines = self._socket.recv(4096).decode().splitlines()
            for told in lines:
                if told.startswith("STATUS="):
                    self.status = told.removeprefix("STATUS=")

    def enable_now(self) -> None:
        self.process.start()
        self.until("READY=1")

    def reload(self) -> None:
        """Return once systemd would: it is ready anew."""
        kill, option, whom = shlex.split(self._lines["ExecReload"])
        assert (Path(kill).name, whom) == ("kill", "$MAINPID")
        subprocess.run([kill, option, str(self.process.pid)], check=True)
        self.until("RELOADING=1")
        self.until("READY=1")

    def end(self) -> None:
        self.process.end()
        self._socket.close()


class Systemctl:
    """Does what the page's reader has systemctl do."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        self._folder, self._url = folder, broker_url
        self.units: dict[str, Unit] = {}
        self._ending = ExitStack()

    def __call__(self, command: Command) -> str:
        match shlex.split(command.words):
            case [_, "enable", "--now", *names]:
                for name in names:
                    unit = self.units[name] = Unit(name, self._folder, self._url)
                    self._ending.callback(unit.end)
                    unit.enable_now()
                return ""
            case [_, "reload", name]:
                self.units[name].reload()
                return ""
            case [_, "status", name]:
                return self.units[name].status
        raise AssertionError(f"{command.block}: nobody does {command.words!r}")

    def end(self) -> None:
        self._ending.close()


@pytest.fixture
def systemctl(tmp_path: Path, node: PrivateNode, fresh_vhost: str) -> Iterator[Systemctl]:
    typing = Systemctl(tmp_path, node.url(fresh_vhost))
    yield typing
    typing.end()


def test_the_units_start_reload_and_tell_their_status(
    systemctl: Systemctl, node: PrivateNode, fresh_vhost: str
) -> None:
    said = [systemctl(command) for command in typed("systemctl")]

    assert systemctl.units.keys() == {"amqptasks-worker@short", "amqptasks-worker@long", "amqptasks-beat"}
    assert "consuming short" in said[-1]
    with App("client", broker=node.url(fresh_vhost)) as app:
        mail = app.send_task("proj.tasks.mail", ("a@example.org",), queue="short")
        assert mail.get(timeout=60) == "sent to a@example.org"
        assert app.send_task("proj.tasks.render", (0,), queue="long").get(timeout=60) == 0
    for unit in systemctl.units.values():
        assert unit.process.stop() == 0
