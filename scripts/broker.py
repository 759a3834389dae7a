#!/usr/bin/env python3
"""Find or start RabbitMQ. The one place that knows the order; needs nothing but Python 3.11.

1. `AMQPTASKS_BROKER_URL`
2. a broker that lets guest in on localhost:5672
3. an installed rabbitmq-server, started as a private node: own ports, node name, cookie, data
4. the package manager (apt-get, dnf, brew), saying first what it will install; then as in 3
5. a container engine

The suite, the demo and the benchmark share it, as a command (`broker.py --help`) or a module (`PrivateNode`).
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import fcntl
import functools
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote, urlsplit

FOLDER = Path(__file__).resolve().parent.parent / ".broker"
VARIABLE = "AMQPTASKS_BROKER_URL"
LOCAL = "amqp://guest:guest@localhost:5672//"
UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
SETTLE = "mnesia:sync_log(), [dets:sync(Table) || Table <- dets:all()]"
"""In Erlang: have vhosts, users and queues written to disk, with where the data of quorum queues is."""
CURE = f"no RabbitMQ found: install the package rabbitmq-server (or docker), or set {VARIABLE}=amqp://user:password@host//"
INSTALLERS = {
    # RUNLEVEL=1 keeps Debian's maintainer script from starting the system's broker: ours is a private node.
    "apt-get": (
        ["apt-get", "update"],
        [
            "env",
            "RUNLEVEL=1",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "install",
            "-y",
            "rabbitmq-server",
        ],
    ),
    "dnf": (["dnf", "install", "-y", "rabbitmq-server"],),
    "brew": (["brew", "install", "rabbitmq"],),
}


class Unavailable(Exception):
    """No broker can be had; the message is one sentence with the cure."""


# --- asking a broker ---------------------------------------------------------------------------------


def login(host: str, port: int, user: str, password: str, vhost: str, timeout: float = 2.0) -> None:
    """Speak AMQP up to connection.open-ok: an open port alone does not serve yet. Raises OSError."""
    with socket.create_connection((host, port), timeout) as sock:
        sock.settimeout(timeout)
        stream = sock.makefile("rb")
        sock.sendall(b"AMQP\0\0\x09\x01")
        _expect(stream.read, (10, 10))  # start
        response = b"\0" + user.encode() + b"\0" + password.encode()
        start_ok = (
            struct.pack(">I", 0) + b"\x05PLAIN" + struct.pack(">I", len(response)) + response + b"\x05en_US"
        )
        sock.sendall(_frame((10, 11), start_ok))
        tune = _expect(stream.read, (10, 30))
        name = vhost.encode()
        sock.sendall(_frame((10, 31), tune) + _frame((10, 40), bytes([len(name)]) + name + b"\0\0"))
        _expect(stream.read, (10, 41))  # open-ok
        sock.sendall(_frame((10, 50), struct.pack(">HBHH", 200, 0, 0, 0)))
        _expect(stream.read, (10, 51))  # close-ok: else the broker logs an abrupt end


def _frame(method: tuple[int, int], arguments: bytes) -> bytes:
    payload = struct.pack(">HH", *method) + arguments
    return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


def _expect(read: object, method: tuple[int, int]) -> bytes:
    head = read(7)  # type: ignore[operator]
    if len(head) < 7 or head[0] != 1:
        raise ConnectionError("the peer does not speak AMQP 0-9-1, or closed the connection")
    payload: bytes = read(struct.unpack(">I", head[3:])[0] + 1)[:-1]  # type: ignore[operator]
    if payload[:4] != struct.pack(">HH", *method):
        raise ConnectionError(f"expected method {method}, got {struct.unpack('>HH', payload[:4])}")
    return payload[4:]


def answers(url: str, timeout: float = 2.0) -> bool:
    """Whether a broker lets us in at `url` (plain amqp:// only)."""
    parts = urlsplit(url)
    vhost = unquote(parts.path[1:]) or "/"
    user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
    try:
        login(parts.hostname or "localhost", parts.port or 5672, user, password, vhost, timeout)
    except OSError:
        return False
    return True


# --- a node of our own -------------------------------------------------------------------------------


def program(name: str) -> str | None:
    """The path of a program of RabbitMQ: the script itself, because Debian's wrapper in PATH changes to
    the system's user as root and refuses everybody else."""
    for pattern in (
        "usr/lib/rabbitmq/bin",
        "usr/lib/rabbitmq/lib/*/sbin",
        "opt/homebrew/opt/rabbitmq/sbin",
        "usr/local/opt/rabbitmq/sbin",
        "opt/rabbitmq/sbin",
    ):
        for found in sorted(Path("/").glob(f"{pattern}/{name}"), reverse=True):
            return str(found)
    return shutil.which(name)


class PrivateNode:
    """A RabbitMQ of our own on loopback, with its own epmd: nothing of the system is read or touched.

    A guard process owns node and epmd and ends both when this process ends, however it ends; with
    `detached` they live until `stop`. The ports stay the same over `kill`, `stop` and `restart`.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        name: str | None = None,
        *,
        plugins: Sequence[str] = (),
        config: Mapping[str, str | int] | None = None,
        detached: bool = False,
        folder: Path = FOLDER,
    ) -> None:
        self.folder = folder / (name or f"private-{os.getpid()}-{secrets.token_hex(2)}")
        self.detached = detached
        self._plugins = plugins
        self._config = dict(config or {})
        self._guard: subprocess.Popen[bytes] | None = None
        self._ports: list[int] = []
        self._cookie = secrets.token_hex(16)
        with contextlib.suppress(FileNotFoundError):
            state = json.loads((self.folder / "node.json").read_text())
            self._ports, self._cookie = state["ports"], state["cookie"]

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def pid(self) -> int:
        """The Erlang VM's."""
        return int((self.folder / "beam.pid").read_text())

    @property
    def running(self) -> bool:
        return _alive(self.folder / "guard.pid")

    def url(self, vhost: str = "/") -> str:
        return f"amqp://guest:guest@{self.host}:{self.port}/{quote(vhost, safe='')}"

    def start(self, timeout: float = 160.0) -> None:
        """Returns once a client can log in. On a busy machine of two cores that takes up to a minute."""
        server = program("rabbitmq-server")
        if server is None or shutil.which("epmd") is None:
            raise Unavailable(CURE)
        if self.running:
            return
        self._write()
        if not self.detached:
            atexit.register(self._end, os.getpid())
        command = [sys.executable, __file__, "guard", "0" if self.detached else str(os.getpid()), server]
        with open(self.folder / "output.log", "ab") as log:
            self._guard = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while not answers(self.url()):
            if self._guard.poll() is not None or time.monotonic() > deadline:
                self.kill(settled=False)
                tail = "\n".join((self.folder / "output.log").read_text(errors="replace").splitlines()[-25:])
                raise Unavailable(f"the private node did not start:\n{tail}")
            time.sleep(0.05)

    def stop(self, timeout: float = 60.0) -> None:
        """An orderly shutdown; the data stays, for `start`."""
        self._signal(signal.SIGTERM)
        self._gone(timeout)

    def kill(self, *, settled: bool = True) -> None:
        """kill -9 of the Erlang VM; the data stays as the crash left it, for `start`.

        `settled`: what was declared is on disk. RabbitMQ 3.10 answers before that, and forgets vhosts and queues that
        were declared in the seconds before a crash; not ours to prove.
        """
        if settled and self.running:
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):  # it may be down, or hang
                self.eval(SETTLE, timeout=30.0)
        if self.running:  # or its number may be somebody else's by now
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(self.pid, signal.SIGKILL)
        self._gone(10)

    def restart(self) -> None:
        self.stop()
        self.start()

    def discard(self) -> None:
        """Kill the node and delete its data."""
        self.kill(settled=False)
        atexit.unregister(self._end)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()

    def ctl(self, *arguments: str, timeout: float = 100.0) -> str:
        """rabbitmqctl; costs the start of an Erlang VM (1-2 s), `eval` does not."""
        return self._run([program("rabbitmqctl") or "rabbitmqctl", *arguments], timeout=timeout)

    def eval(self, expression: str, timeout: float = 60.0) -> str:
        """Evaluate Erlang on the node: by erl_call in 20 ms, by rabbitmqctl where that is missing."""
        call = shutil.which("erl_call")
        if call is None:
            return self.ctl("eval", expression + ".", timeout=timeout)
        address = f"{self.host}:{self._ports[1]}"
        # A name of its own: the node refuses a second caller of the same name, one that it has not yet missed as well.
        caller = f"call{os.getpid()}x{next(_callers)}"
        command = [call, "-h", caller, "-address", address, "-c", self._cookie, "-e"]
        answer = self._run(command, stdin=expression + ".\n", timeout=timeout)
        if not answer.startswith("{ok, ") or answer.startswith("{ok, {error"):
            raise RuntimeError(f"{expression}: {answer}")
        return answer[5:-1]

    def add_vhost(self, name: str) -> None:
        self.eval(
            f'rabbit_vhost:add(<<"{name}">>, <<"amqptasks">>), '
            f'ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
            f'<<".*">>, <<".*">>, <<".*">>, <<"amqptasks">>)'
        )

    def delete_vhost(self, name: str) -> None:
        self.eval(f'rabbit_vhost:delete(<<"{name}">>, <<"amqptasks">>)')

    def _run(self, command: list[str], stdin: str = "", timeout: float = 60.0) -> str:
        done = subprocess.run(
            command,
            env=self._environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:2])}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ports = self._ports or free_ports(3)
        settings: dict[str, str | int] = {
            "listeners.tcp.default": f"{self.host}:{self.port}",
            # Absolute, because a small or full machine would else block every publisher.
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.absolute": "2GB",
            "log.console": "false",
        } | self._config
        (self.folder / "rabbitmq.conf").write_text(
            "".join(f"{key} = {value}\n" for key, value in settings.items())
        )
        (self.folder / "plugins").write_text(f"[{','.join(self._plugins)}].\n")
        (self.folder / "node.json").write_text(json.dumps({"ports": self._ports, "cookie": self._cookie}))
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(0o600)
            cookie.write_text(self._cookie)
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        if not self._ports:
            raise Unavailable(f"there is no node {self.folder.name!r}; `broker.py start` starts one")
        folder, (_, dist, epmd) = str(self.folder), self._ports
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))
        }
        return inherited | {
            "HOME": folder,  # where Erlang reads the cookie
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": self.host,
            "RABBITMQ_NODENAME": "amqptasks@localhost",
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/none",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/none",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
            "RABBITMQ_PID_FILE": f"{folder}/rabbitmq.pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "detached": "1",  # the script replaces itself by the VM instead of waiting for it in a shell
        }

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int((self.folder / "guard.pid").read_text()), number)

    def _gone(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:
            if self._guard is not None:
                self._guard.poll()  # reaps it
            time.sleep(0.01)
        if self.running:
            self._signal(signal.SIGKILL)  # takes node and epmd with it
        if self._guard is not None:
            self._guard.wait(10)
            self._guard = None

    def _end(self, owner: int) -> None:
        if os.getpid() == owner:  # a forked child inherits the exit handler, not the node
            self.discard()


def _alive(pid_file: Path) -> bool:
    """Whether the process named in the file runs; a stale file whose number was given away does not count."""
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return False
    with contextlib.suppress(OSError):  # no /proc on macOS
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return stat[0] != "Z" and b"broker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return True


_ours: set[int] = set()
_callers = itertools.count()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, each of them ours until this process ends: what is given out here is bound later,
    and once more after a crash. Two runs beside each other get no port of each other's.

    Below the ephemeral range: a client that reconnects to a dead node there could be given the node's own
    port as its source, and would be connected to itself."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        if port in _ours:
            continue
        with socket.socket() as sock, contextlib.suppress(OSError):
            # A lock on one byte of a file that all runs share; it ends with the process, however that ends.
            fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            _ours.add(port)
            sock.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


@functools.cache
def _locks() -> int:
    """The descriptor is never closed: that would let go of every lock."""
    path = Path(tempfile.gettempdir()) / f"amqptasks-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def guard(watched: int, server: str) -> int:
    """Own the node and its epmd, as a process: end them when `watched` is no longer our parent."""

    def dies_with_guard() -> None:
        with contextlib.suppress(
            AttributeError, OSError
        ):  # Linux; elsewhere kill -9 of the guard leaves them
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    Path("guard.pid").write_text(str(os.getpid()))
    # preexec_fn is safe here: the guard has one thread.
    epmd = subprocess.Popen(["epmd"], preexec_fn=dies_with_guard)  # noqa: PLW1509
    beam = subprocess.Popen([server], preexec_fn=dies_with_guard)  # noqa: PLW1509
    Path("beam.pid").write_text(str(beam.pid))
    signal.signal(signal.SIGTERM, lambda *_: beam.terminate())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return beam.wait(0.2)
            if watched and os.getppid() != watched:
                beam.kill()
    finally:
        epmd.kill()
        epmd.wait()


# --- the order ---------------------------------------------------------------------------------------


def say(sentence: str) -> None:
    print(f"broker: {sentence}", file=sys.stderr, flush=True)


def found(name: str) -> str | None:
    """The URL of a broker that runs already: named, on localhost, or our own node `name`."""
    if named := os.environ.get(VARIABLE):
        return named
    if answers(LOCAL):
        return LOCAL
    node = PrivateNode(name, detached=True)
    return node.url() if node.running and answers(node.url()) else None


def install() -> bool:
    """Have rabbitmq-server, by the package manager if need be."""
    if program("rabbitmq-server"):
        return True
    manager = next((name for name in INSTALLERS if shutil.which(name)), None)
    if manager is None:
        return False
    prefix: list[str] = []
    if manager != "brew" and os.geteuid() != 0:
        prefix = ["sudo", "-n"]
        if (
            not shutil.which("sudo")
            or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
        ):
            return False
    for command in INSTALLERS[manager]:
        say(f"rabbitmq-server is not installed; running: {' '.join([*prefix, *command])}")
        if subprocess.run(
            [*prefix, *command], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False
        ).returncode:
            say(f"{manager} failed")
    return program("rabbitmq-server") is not None


def engine() -> str | None:
    for name in ("docker", "podman"):
        if (
            shutil.which(name)
            and not subprocess.run([name, "info"], capture_output=True, check=False).returncode
        ):
            return name
    return None


@contextlib.contextmanager
def container(engine: str) -> Iterator[str]:
    (port,) = free_ports(1)
    name = f"amqptasks-broker-{os.getpid()}"
    say(f"starting a container: {engine} run rabbitmq:4")
    publish = f"127.0.0.1:{port}:5672"
    subprocess.run(
        [engine, "run", "-d", "--rm", "--name", name, "-p", publish, "rabbitmq:4"], check=True, stdout=2
    )
    try:
        url, deadline = f"amqp://guest:guest@127.0.0.1:{port}/%2F", time.monotonic() + 120
        while not answers(url):
            if time.monotonic() > deadline:
                raise Unavailable(f"the container {name} does not answer; see `{engine} logs {name}`")
            time.sleep(0.2)
        yield url
    finally:
        subprocess.run([engine, "kill", name], capture_output=True, check=False)


@contextlib.contextmanager
def broker(*, private: bool = False, name: str = "default") -> Iterator[str]:
    """The URL of a broker, found or started; what was started is stopped. `private`: never a found one."""
    if not private and (url := found(name)):
        say(f"using {redacted(url)}")
        yield url
    elif install():
        with PrivateNode() as node:
            say(f"started a private node on port {node.port}")
            yield node.url()
    elif which := engine():
        with container(which) as url:
            yield url
    else:
        raise Unavailable(CURE)


def redacted(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else url


# --- the command -------------------------------------------------------------------------------------


def sweep() -> None:
    """Delete what a private node left whose owner was killed."""
    for folder in FOLDER.glob("private-*"):
        if not _alive(folder / "guard.pid") and not _alive_pid(folder.name.split("-")[1]):
            shutil.rmtree(folder, ignore_errors=True)


def _alive_pid(number: str) -> bool:
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def run(command: list[str], private: bool) -> int:
    with broker(private=private) as url:
        child = subprocess.Popen(command, env=os.environ | {VARIABLE: url})
        # The terminal sends Ctrl-C to the command too: it decides, we wait and clean up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        code = child.wait()
    return code if code >= 0 else 128 - code


def start(name: str, private: bool) -> str:
    if not private and (url := found(name)):
        return url
    if not install():
        raise Unavailable(CURE)
    node = PrivateNode(name, detached=True)
    node.start()
    return node.url()


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="broker.py", description=(__doc__ or "").partition("\n")[0])
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("ensure", help="install rabbitmq-server if no broker can be had otherwise")
    for name, text in {
        "url": "print the URL of a broker that runs",
        "start": "find a broker or start a node that stays, and print its URL",
        "stop": "stop the node that `start` started",
        "run": "run a command with the URL in its environment; stop what was started for it",
        "ctl": "rabbitmqctl on the node that `start` started",
    }.items():
        command = commands.add_parser(name, help=text)
        if name in ("start", "run"):
            command.add_argument(
                "--private", action="store_true", help="a node of its own, whatever runs already"
            )
        if name != "run":
            command.add_argument("--name", default="default", help="of the node (default: %(default)s)")
        if name in ("run", "ctl"):
            command.add_argument("arguments", nargs=argparse.REMAINDER)
    return top


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["guard"]:
        return guard(int(arguments[1]), arguments[2])
    options = parser().parse_args(arguments)
    sweep()
    match options.command:
        case "ensure":
            if not install() and not engine() and not found("default"):
                raise Unavailable(CURE)
        case "url":
            if (url := found(options.name)) is None:
                raise Unavailable("no broker runs; `broker.py start` starts one")
            print(url)
        case "start":
            print(start(options.name, options.private))
        case "stop":
            PrivateNode(options.name).stop()
        case "ctl":
            print(PrivateNode(options.name).ctl(*options.arguments))
        case "run":
            command = [word for i, word in enumerate(options.arguments) if (i, word) != (0, "--")]
            if not command:
                parser().error("run: which command?")
            return run(command, options.private)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Unavailable as exc:
        say(str(exc))
        sys.exit(UNAVAILABLE)
    except KeyboardInterrupt:
        sys.exit(130)
