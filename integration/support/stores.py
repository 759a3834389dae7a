"""Private Redis, PostgreSQL and MariaDB servers: own port and folder, on loopback, gone with the run.

What is not installed is installed by the package manager, as `scripts/broker.py` does for RabbitMQ.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from broker import FOLDER, free_ports  # scripts/ is on the path, by conftest

from .packages import install
from .processes import Process
from .waiting import wait_until

HOST = "127.0.0.1"


class Store:
    """A server of one kind. The port and the data stay the same over `kill` and `start`."""

    package = ""
    programs: tuple[str, ...] = ()
    user = ""
    """Whom a server that refuses to be root's runs as, if we are root."""

    def __init__(self) -> None:
        kind = type(self).__name__.lower()
        self.folder = FOLDER / f"private-{os.getpid()}-{kind}-{secrets.token_hex(2)}"
        self.data = self.folder / "data"
        (self.port,) = free_ports(1)
        self._process: Process | None = None

    def start(self) -> None:
        """Return once it answers."""
        if self._process is not None:
            return
        if not self.data.exists():
            self.data.mkdir(parents=True)
            if self.as_user:
                shutil.chown(self.folder, self.as_user)
                shutil.chown(self.data, self.as_user)
            self.prepare()
        command = [*self.demoted(dies_with_us=True), *self.command()]
        self._process = Process(command, log=self.folder / "server.log").start()
        wait_until(self.answers, 60, self._process.log, 0.05)

    def kill(self) -> None:
        """kill -9: what a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def discard(self) -> None:
        """End it and delete its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def as_user(self) -> str:
        return self.user if os.geteuid() == 0 else ""

    def demoted(self, dies_with_us: bool = False) -> list[str]:
        """What comes before a command, so that it runs as the server's user and does not outlive this process."""
        words = []
        if self.as_user:
            entry = pwd.getpwnam(self.as_user)
            words = ["--reuid", str(entry.pw_uid), "--regid", str(entry.pw_gid), "--clear-groups"]
        if dies_with_us and shutil.which("setpriv"):
            words += ["--pdeathsig", "KILL"]
        return ["setpriv", *words] if words else []

    def run(self, *command: str) -> None:
        done = subprocess.run(
            [*self.demoted(), *command], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"

    @classmethod
    def find(cls, name: str) -> str:
        """The path of one of the server's programs."""
        places = [
            f"{os.environ.get('PATH', '')}:/usr/sbin",
            *map(str, Path("/usr/lib/postgresql").glob("*/bin")),
        ]
        return shutil.which(name, path=":".join(places)) or ""

    @classmethod
    def missing(cls) -> str:
        """Why it cannot be had here; empty when it is there, or could be installed."""
        return install(cls.package, lambda: all(map(cls.find, cls.programs)))

    def answers(self) -> bool:
        """Whether it serves by now."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make the empty data folder usable."""

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    @property
    def url(self) -> str:
        """What `result_backend` is."""
        raise NotImplementedError


class Redis(Store):
    package, programs = "redis-server", ("redis-server",)

    def command(self) -> Sequence[str]:
        # Every write is on disk before it is answered, so that a kill loses none.
        kept = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        return (
            self.find("redis-server"),
            "--port",
            str(self.port),
            "--bind",
            HOST,
            "--dir",
            str(self.data),
            *kept,
        )

    def answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), 2) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"


class RedisTLS(Redis):
    """Redis that speaks TLS alone, with a certificate of its own."""

    programs = ("redis-server", "openssl")

    def prepare(self) -> None:
        made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=amqptasks")
        names = ("-addext", f"subjectAltName=IP:{HOST}")
        self.run(
            "openssl", *made, *names, "-keyout", f"{self.folder}/key.pem", "-out", f"{self.folder}/cert.pem"
        )

    def command(self) -> Sequence[str]:
        files = ("--tls-cert-file", f"{self.folder}/cert.pem", "--tls-key-file", f"{self.folder}/key.pem")
        ports = ("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no")
        return (
            self.find("redis-server"),
            *ports,
            *files,
            "--bind",
            HOST,
            "--dir",
            str(self.data),
            "--save",
            "",
        )

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 2):
            return True
        return False

    @property
    def url(self) -> str:
        return f"rediss://{HOST}:{self.port}/0?ssl_cert_reqs=required&ssl_ca_certs={self.folder}/cert.pem"


class PostgreSQL(Store):
    package, programs, user = "postgresql", ("postgres", "initdb", "pg_isready"), "postgres"

    def prepare(self) -> None:
        self.run(self.find("initdb"), "-D", str(self.data), "-U", "amqptasks", "-A", "trust", "-E", "UTF8")

    def command(self) -> Sequence[str]:
        options = (f"listen_addresses={HOST}", "unix_socket_directories=", "fsync=off", "shared_buffers=16MB")
        words = [word for option in options for word in ("-c", option)]
        return (self.find("postgres"), "-D", str(self.data), "-p", str(self.port), *words)

    def answers(self) -> bool:
        asked = [self.find("pg_isready"), "-h", HOST, "-p", str(self.port), "-q"]
        return subprocess.run(asked, check=False).returncode == 0

    @property
    def url(self) -> str:
        return f"db+postgresql+psycopg://amqptasks@{HOST}:{self.port}/postgres"


class MariaDB(Store):
    package, programs, user = "mariadb-server", ("mariadbd", "mariadb-install-db", "mariadb-admin"), "mysql"

    def prepare(self) -> None:
        # `--user` and files of the system's configuration are left out: nothing of the system is read or touched.
        made = ("--no-defaults", f"--datadir={self.data}", "--auth-root-authentication-method=normal")
        self.run(self.find("mariadb-install-db"), *made, "--skip-test-db")

    def command(self) -> Sequence[str]:
        files = (f"--datadir={self.data}", f"--socket={self.data}/s", f"--pid-file={self.data}/pid")
        small = ("--innodb-buffer-pool-size=16M", "--innodb-flush-log-at-trx-commit=2", "--skip-log-bin")
        listen = (f"--bind-address={HOST}", f"--port={self.port}")
        return (self.find("mariadbd"), "--no-defaults", *files, *listen, *small)

    def answers(self) -> bool:
        asked = [self.find("mariadb-admin"), "--no-defaults", "-h", HOST, "-P", str(self.port), "-u", "root"]
        return subprocess.run([*asked, "ping"], capture_output=True, check=False).returncode == 0

    @property
    def url(self) -> str:
        return f"db+mysql+pymysql://root@{HOST}:{self.port}/mysql?charset=utf8mb4"


KINDS = (Redis, PostgreSQL, MariaDB)


def store_of(kind: type[Store]) -> Iterator[Store]:
    """For a fixture: a server of this kind, started; without one the test is skipped, on CI it fails."""
    if missing := kind.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    store = kind()
    try:
        store.start()
        yield store
    finally:
        store.discard()
