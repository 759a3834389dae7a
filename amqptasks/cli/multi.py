"""`amqptasks multi`: several workers on this machine, each a process in the background with a pid and a log file."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import click

from amqptasks.cli.daemon import alive, read_pid
from amqptasks.cli.nodes import BadNodes, Node, Words, folders, nodes
from amqptasks.cli.options import Common, common_options
from amqptasks.cli.worker import command as worker_command
from amqptasks.worker.pools.system import open_pidfd

POLL = 0.1
"""Seconds between two looks at processes whose end nothing tells: macOS has no descriptors for them."""
LONGEST = 60.0
"""The same on Linux, in case the end of one went unnoticed."""
SIGNALLED = ("stop", "stopwait", "stop_verify", "restart")
RESERVED = ("--nosplash", "--quiet", "-q", "--verbose", "--no-color", "-C")
HELP = """\
amqptasks multi start    NODES [worker options]
amqptasks multi stop     NODES [-SIGNAL]   signal, and return at once
amqptasks multi stopwait NODES [-SIGNAL] [--timeout=SECONDS]   return when the last task has finished and all are gone
amqptasks multi restart  NODES [-SIGNAL] [worker options]
amqptasks multi kill     NODES
amqptasks multi show     NODES [worker options]   the command lines
amqptasks multi get      NODE NODES [worker options]   one of them
amqptasks multi names    NODES
amqptasks multi expand   TEMPLATE NODES

NODES are names, w1 w2@host, or how many: 3. An option is for all (-c 4) or for some: -c:w1 8, -c:1,2 8, -c:1-3 8.
--pidfile=%n.pid --logfile=%n%I.log: %n name, %h host, %d domain, %p both. Also --prefix, --suffix, --range-prefix,
--hostname, --cmd, --append, --executable. Without them pid and log files are in $XDG_STATE_HOME/amqptasks,
~/.local/state/amqptasks, or for root /var/run/amqptasks and /var/log/amqptasks.
"""


@click.command(
    "multi",
    context_settings={
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": ["--help"],
    },
    help="Start, stop and restart several workers on this machine.\n\n\b\n" + HELP,
)
@common_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="COMMAND NODES [OPTIONS]")
def command(words: tuple[str, ...]) -> int:
    name, *given = [word for word in words if word] or ["help"]
    if name == "help":
        click.echo(HELP, nl=False)
        return 0
    if name not in COMMANDS:
        raise click.UsageError(
            f"there is no command {name!r} of multi; commands are help, {', '.join(COMMANDS)}"
        )
    quiet = bool({"-q", "--quiet"} & set(given)) or Common.current().quiet
    plain = [word for word in given if word not in RESERVED]
    try:
        return COMMANDS[name](Cluster(plain, name, quiet=quiet))
    except BadNodes as error:
        raise click.UsageError(str(error)) from None


class Cluster:
    """The nodes of one command line, and what is done to them. `said` is what stands before them, for some commands."""

    def __init__(self, words: Sequence[str], name: str, *, quiet: bool) -> None:
        self.signal, words = _signal(words) if name in SIGNALLED else (signal.SIGTERM, list(words))
        self.said = words[0] if name in ("expand", "get") and words else ""
        flags, valued = _options()
        read = Words.read(words[1:] if self.said else words, flags, valued)
        read.options = {**_common(), **read.options}
        self.timeout = _seconds(read.options.get("--timeout") or "inf")
        self.nodes = nodes(
            read, executable=sys.executable, folders=folders(os.environ, root=os.geteuid() == 0)
        )
        self._quiet = quiet

    def note(self, text: str) -> None:
        if not self._quiet:
            click.echo(text)

    def start(self, node: Node) -> int:
        """Start one; return its exit code: 0 once it is in the background."""
        for path in (node.pidfile, Path(node.logfile)):
            path.parent.mkdir(parents=True, exist_ok=True)
        code = subprocess.run(node.argv, check=False).returncode
        self.note(f"\t> {node.name}: {'OK' if code == 0 else f'ERROR ({code}); see {node.logfile}'}")
        return code

    def running(self) -> list[tuple[Node, int]]:
        """The nodes that run, with their pids; the others are said to be down."""
        found = []
        for node in self.nodes:
            pid = pid_of(node)
            if pid is None:
                self.note(f"\t> {node.name}: DOWN")
            else:
                found.append((node, pid))
        return found

    def send(self, number: int) -> list[tuple[Node, int]]:
        """Signal all that run; return them."""
        found = self.running()
        for node, pid in found:
            self.note(f"\t> {node.name}: {signal.Signals(number).name} -> {pid}")
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
            except PermissionError:
                raise click.ClickException(
                    f"{node.name} is another user's process {pid}; do it as that user"
                ) from None
        return found

    def gone(self, waiting: Sequence[tuple[Node, int]]) -> Iterator[Node]:
        """Yield each node once its process has ended. Raises ClickException after `--timeout`."""
        left = list(waiting)
        deadline = time.monotonic() + self.timeout
        with Ends(pid for _, pid in waiting) as ends:
            while left:
                ended = [pair for pair in left if ends.told(pair[1])]
                left = [pair for pair in left if pair not in ended]
                for node, _ in ended:
                    self.note(f"\t> {node.name}: DOWN")
                    yield node
                if left and time.monotonic() > deadline:
                    raise click.ClickException(
                        f"{', '.join(node.name for node, _ in left)} still runs after {self.timeout:g} seconds; wait "
                        "longer, or use kill"
                    )
                if left:
                    ends.wait([pid for _, pid in left], deadline - time.monotonic())


class Ends:
    """The ends of processes that are no children of ours, which the system tells by descriptors where it has them."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._descriptors = {pid: open_pidfd(pid) for pid in pids}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors.values():
            if descriptor is not None:
                os.close(descriptor)

    def told(self, pid: int) -> bool:
        """Whether it has ended; its number may be another process's by now."""
        descriptor = self._descriptors[pid]
        if descriptor is None:
            return not alive(pid)
        return bool(select.select([descriptor], [], [], 0)[0])

    def wait(self, pids: Sequence[int], seconds: float) -> None:
        """Return when one of these has ended, or a moment later to look again where nothing tells."""
        told = [self._descriptors[pid] for pid in pids]
        known = [descriptor for descriptor in told if descriptor is not None]
        everyone = len(known) == len(told)
        select.select(known, [], [], max(0.0, min(seconds, LONGEST if everyone else POLL)))


def pid_of(node: Node) -> int | None:
    """Return the process of a node, or None; a number that some other program has by now does not count."""
    pid = read_pid(node.pidfile)
    if pid is None or not alive(pid):
        return None
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return pid
    return pid if b"amqptasks" in line or not line else None


def _start(cluster: Cluster) -> int:
    cluster.note("> Starting nodes...")
    codes = [cluster.start(node) for node in cluster.nodes]
    return int(any(codes))


def _stop(cluster: Cluster) -> int:
    cluster.note("> Stopping nodes...")
    cluster.send(cluster.signal)
    return 0


def _stopwait(cluster: Cluster) -> int:
    cluster.note("> Stopping nodes, and waiting for their tasks...")
    for _ in cluster.gone(cluster.send(cluster.signal)):
        pass
    return 0


def _restart(cluster: Cluster) -> int:
    cluster.note("> Restarting nodes...")
    stopping = cluster.send(cluster.signal)
    names = {node.name for node, _ in stopping}
    codes = [cluster.start(node) for node in cluster.nodes if node.name not in names]
    codes += [cluster.start(node) for node in cluster.gone(stopping)]
    return int(any(codes))


def _kill(cluster: Cluster) -> int:
    cluster.note("> Killing nodes...")
    for node in cluster.gone(cluster.send(signal.SIGKILL)):
        node.pidfile.unlink(missing_ok=True)
    return 0


def _show(cluster: Cluster) -> int:
    for node in cluster.nodes:
        click.echo(shlex.join(node.argv))
    return 0


def _names(cluster: Cluster) -> int:
    for node in cluster.nodes:
        click.echo(node.name)
    return 0


def _expand(cluster: Cluster) -> int:
    for node in cluster.nodes:
        click.echo(node.expand(cluster.said))
    return 0


def _get(cluster: Cluster) -> int:
    for node in cluster.nodes:
        if cluster.said in (node.name, node.name.partition("@")[0]):
            click.echo(shlex.join(node.command))
            return 0
    raise BadNodes(
        f"there is no node {cluster.said}; there are {', '.join(node.name for node in cluster.nodes)}"
    )


COMMANDS: dict[str, Callable[[Cluster], int]] = {
    "start": _start,
    "stop": _stop,
    "stopwait": _stopwait,
    "stop_verify": _stopwait,
    "restart": _restart,
    "kill": _kill,
    "show": _show,
    "get": _get,
    "names": _names,
    "expand": _expand,
}


def _signal(words: Sequence[str]) -> tuple[signal.Signals, list[str]]:
    """Take `-9`, `-INT` or `-SIGINT` out of the words."""
    kept, found = [], signal.SIGTERM
    for word in words:
        read = re.fullmatch(r"-(?:(\d+)|(?:SIG)?([A-Z][A-Z0-9]+))", word)
        try:
            if read is None:
                raise KeyError
            found = signal.Signals(int(read[1])) if read[1] else signal.Signals[f"SIG{read[2]}"]
        except (KeyError, ValueError):
            kept.append(word)
    return found, kept


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadNodes(f"--timeout {text} is no number of seconds") from None


def _options() -> tuple[set[str], set[str]]:
    """The worker's options without a value, and the long ones with one."""
    flags: set[str] = set()
    valued = {"--prefix", "--suffix", "--range-prefix", "--cmd", "--append", "--timeout"}
    for parameter in worker_command.params:
        if isinstance(parameter, click.Option):
            names = (*parameter.opts, *parameter.secondary_opts)
            (flags if parameter.is_flag else valued).update(names)
    return flags, valued


def _common() -> dict[str, str]:
    """What was said before the command: `amqptasks -A proj multi start w1`."""
    common = Common.current()
    said = {
        "-A": common.app,
        "-b": common.broker,
        "--result-backend": common.result_backend,
        "--workdir": common.workdir,
    }
    return {option: value for option, value in said.items() if value}
