"""scripts/broker.py without a broker: the order it asks in, what it says, what it leaves."""

import importlib.util
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "broker.py"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module, on a machine that has nothing."""
    spec = importlib.util.spec_from_file_location("broker_script", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(module, "program", lambda name: None)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    monkeypatch.setattr(module, "answers", lambda url, timeout=2.0: False)
    return module


def test_the_variable_comes_first(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "answers", lambda url, timeout=2.0: True)
    monkeypatch.setenv("AMQPTASKS_BROKER_URL", "amqp://there//")

    with script.broker() as url:
        assert url == "amqp://there//"


def test_then_what_answers_on_localhost(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "answers", lambda url, timeout=2.0: True)

    with script.broker() as url:
        assert url == script.LOCAL


def test_then_a_node_of_our_own_even_if_one_answers(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Node:
        port = 1

        def __enter__(self) -> "Node":
            return self

        def __exit__(self, *exc: object) -> None: ...

        def url(self) -> str:
            return "amqp://own"

    monkeypatch.setattr(script, "PrivateNode", Node)
    monkeypatch.setattr(script, "program", lambda name: "/there")
    monkeypatch.setenv("AMQPTASKS_BROKER_URL", "amqp://there//")

    with script.broker(private=True) as url:
        assert url == "amqp://own"


@pytest.mark.parametrize("root", [True, False])
def test_then_the_package_manager_which_is_announced(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], root: bool
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        if "install" in command:
            assert " ".join(command) in capsys.readouterr().err, "said before it is done"
            monkeypatch.setattr(script, "program", lambda name: "/there")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setattr(script.os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(script.shutil, "which", lambda name: name if name in ("apt-get", "sudo") else None)

    assert script.install()
    assert ran[-1][-1] == "rabbitmq-server"
    assert [command[:2] == ["sudo", "-n"] for command in ran] == [not root] * len(ran)


def test_no_password_for_sudo_means_no_package_manager(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        script.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1)
    )
    monkeypatch.setattr(script.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(script.shutil, "which", lambda name: name if name in ("apt-get", "sudo") else None)

    assert not script.install()


def test_then_a_container_which_is_ended(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        ran.append(command[1])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setattr(script.shutil, "which", lambda name: name if name == "podman" else None)
    monkeypatch.setattr(script, "found", lambda name: None)
    monkeypatch.setattr(script, "answers", lambda url, timeout=2.0: url != script.LOCAL)

    with script.broker() as url:
        assert url.startswith("amqp://guest:guest@127.0.0.1:")
    assert ran == ["info", "run", "kill"]


def test_else_one_sentence_and_exit_code_69(script: ModuleType) -> None:
    with pytest.raises(script.Unavailable) as error, script.broker():
        pass
    assert "\n" not in str(error.value)
    assert "rabbitmq-server" in str(error.value)
    assert script.UNAVAILABLE == os.EX_UNAVAILABLE


def test_a_command_without_its_node_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "ctl", "--name", "never-started", "status"], capture_output=True, text=True
    )

    assert (done.returncode, done.stderr.count("\n")) == (69, 1)


def test_a_port_that_answers_is_not_yet_a_broker() -> None:
    spec = importlib.util.spec_from_file_location("broker_script", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def other_protocol() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(8)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=other_protocol)
        thread.start()
        assert not module.answers(f"amqp://guest:guest@127.0.0.1:{port}//")
        thread.join(60)


def test_leftovers_of_the_dead_are_swept_those_of_the_living_stay(script: ModuleType, tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in (f"private-{dead.pid}-ab", f"private-{os.getpid()}-cd", "default"):
        (tmp_path / name).mkdir()

    script.sweep()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["default", f"private-{os.getpid()}-cd"]


def test_a_password_is_not_printed(script: ModuleType) -> None:
    assert script.redacted("amqp://user:secret@host/v") == "amqp://…@host/v"


NUMBERS = """
import sys, random
sys.path.insert(0, sys.argv[1])
import broker
wanted = iter(map(int, sys.argv[2:]))
broker.random.randrange = lambda *range: next(wanted)
print(*broker.free_ports(1), flush=True)
sys.stdin.read()
"""


def drawing(*numbers: int) -> subprocess.Popen[str]:
    """A process that draws these numbers when it looks for a port, prints what it took, and stays."""
    line = [sys.executable, "-c", NUMBERS, str(SCRIPT.parent), *map(str, numbers)]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_port_that_was_given_out_is_given_to_nobody_else_while_its_owner_lives(script: ModuleType) -> None:
    """Though it is not bound yet: a node binds its ports seconds later, and again after a crash."""
    one, other, *_ = numbers = script.free_ports(3)
    assert len(set(numbers)) == 3
    first = 19_000 + os.getpid() % 1_000
    spares = range(first, first + 20)  # of which other programs may have some
    with drawing(one, other, *spares) as beside:
        assert beside.stdout is not None
        taken = int(beside.stdout.readline())
        assert taken in spares
        with drawing(taken, one, *spares) as third:
            assert third.stdout is not None
            assert int(third.stdout.readline()) in {*spares} - {taken}
            third.communicate()
        beside.communicate()
    with drawing(taken) as after:
        assert after.stdout is not None
        assert after.stdout.readline() == f"{taken}\n", "its owner has ended"
        after.communicate()
