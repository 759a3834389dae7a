"""sd_notify(3): what is sent to a real datagram socket, and when."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqptasks.worker.notify import Notifier, supervised


class Systemd:
    """The socket's other end."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(60)

    def hear(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())

    def heard_nothing(self) -> bool:
        self._socket.setblocking(False)
        try:
            return self._socket.recv(4096) == b""
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(60)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def systemd(path: str) -> Iterator[Systemd]:
    listening = Systemd(path)
    yield listening
    listening.close()


@pytest.mark.parametrize("address", ["", "notify", "vsock:2:1234", "@", "/"])
def test_without_a_supervisor_there_is_nobody_to_tell(address: str) -> None:
    assert Notifier.of({"NOTIFY_SOCKET": address}) is None
    assert Notifier.of({}) is None


def test_what_is_told(systemd: Systemd, path: str) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": path})
    assert notifier is not None
    notifier.status = lambda: "two\nlines"

    notifier.ready()
    assert systemd.hear() == {"READY": "1", "STATUS": "two lines"}

    notifier.stopping()
    assert systemd.hear() == {"STOPPING": "1"}  # the status is as it was

    notifier.status = lambda: "again"
    notifier.stopping(restart=True)
    said = systemd.hear()
    assert said["RELOADING"] == "1"
    assert said["STATUS"] == "again"
    assert int(said["MONOTONIC_USEC"]) > 0


def test_an_abstract_socket() -> None:
    name = f"amqptasks-test-{os.getpid()}"
    listening = Systemd(f"\0{name}")
    try:
        notifier = Notifier.of({"NOTIFY_SOCKET": f"@{name}"})
        assert notifier is not None
        notifier.ready()
        assert listening.hear()["READY"] == "1"
    finally:
        listening.close()


def test_a_supervisor_that_is_gone_or_does_not_read_is_no_trouble(systemd: Systemd, path: str) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": path})
    assert notifier is not None
    for _ in range(2000):  # more than the socket's queue holds
        notifier.tell(WATCHDOG="1")
    systemd.close()
    os.unlink(path)
    notifier.ready()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_asked_for_by_the_environment(environment: dict[str, str], seconds: float) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": "/run/x", **environment})

    assert notifier is not None
    assert notifier.watchdog == seconds


def test_a_loop_that_turns_is_alive_and_one_that_is_stuck_is_not(
    systemd: Systemd, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")

    async def main() -> int:
        heard = 0
        with supervised() as notifier:
            assert notifier is not None
            while heard < 3:
                heard += "WATCHDOG" in await asyncio.to_thread(systemd.hear)
            while not systemd.heard_nothing():
                pass
            stuck_until = asyncio.get_running_loop().time() + 0.5
            while asyncio.get_running_loop().time() < stuck_until:
                assert systemd.heard_nothing()  # five periods in which the loop does not turn
            assert "WATCHDOG" in await asyncio.to_thread(systemd.hear)
        while not systemd.heard_nothing():
            pass
        await asyncio.sleep(0.2)
        assert systemd.heard_nothing(), "it goes on after its end"
        return heard

    assert asyncio.run(main()) == 3


def test_nothing_runs_without_a_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    async def main() -> None:
        with supervised() as notifier:
            assert notifier is None

    asyncio.run(main())
