"""Processes in the background: `--detach`, `--pidfile`, `--uid`, `--gid`, `--umask`. Knows no command."""

from __future__ import annotations

import grp
import os
import pwd
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from amqptasks.cli.output import INTERNAL, Failure
from amqptasks.errors import WorkerError
from amqptasks.worker.options import expand

F = TypeVar("F", bound=Callable[..., Any])

STARTED = b"+"
PATIENCE = 60.0
"""Seconds for the process in the background to have its pid file and its user."""
DETACHED = "_AMQPTASKS_DETACHED"


@dataclass(frozen=True, slots=True)
class Daemon:
    """What was said of how the process is to live."""

    detach: bool = False
    pidfile: str | None = None
    uid: str | None = None
    gid: str | None = None
    umask: str | None = None

    @contextmanager
    def entered(self, node: str, logfile: str | None) -> Iterator[None]:
        """Become what was said, and have the pid file as long as the body runs.

        With `detach` the process that called ends here, once the one in the background has its pid file and its user.
        Raises WorkerError when another living process has the pid file, or what is wanted is not permitted.
        """
        detached = os.environ.get(DETACHED) == str(os.getpid())  # and started again by SIGHUP
        log = Path(expand(logfile, node)) if logfile else None
        path = Path(expand(os.path.expanduser(self.pidfile), node)) if self.pidfile else None
        files = [file for file in (path, log) if file is not None]
        made = [folder for file in files for folder in file.parents if not folder.exists()]
        answer = _fork(log) if self.detach and not detached else None
        try:
            if self.umask is not None:
                os.umask(_umask(self.umask))
            if path is not None:
                claim(path)
            _become(self.uid, self.gid, files, made)
        except WorkerError as error:
            _answer(answer, str(error).encode())
            raise
        _answer(answer, STARTED)
        try:
            yield
        finally:
            if path is not None:
                release(path)


def daemon_options(function: F) -> F:
    """Give a command the options of a process in the background, as its argument `daemon`."""

    def collect(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        given = context.params.get("daemon") or Daemon()
        said = {name: getattr(given, name) for name in Daemon.__slots__} | {str(parameter.name): value}
        context.params["daemon"] = Daemon(**said)

    options = (
        click.option("-D", "--detach", "--daemon", "detach", is_flag=True, help="Run in the background.",
                     callback=collect, expose_value=False),
        click.option("--pidfile", metavar="PATH", callback=collect, expose_value=False,
                     help="Write the process id into this file, %n %h %d as in -n; refuse to start while "
                     "the process in it lives."),
        click.option("--uid", metavar="USER", callback=collect, expose_value=False, help="Run as this user."),
        click.option("--gid", metavar="GROUP", callback=collect, expose_value=False, help="Run as this group."),
        click.option("--umask", metavar="OCTAL", callback=collect, expose_value=False,
                     help="Mask of the files it makes: 022."),
        click.option("--executable", expose_value=False, metavar="PATH",
                     help="For Celery's command lines. The interpreter is the one that runs the command."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def claim(path: Path) -> None:
    """Write our pid into the file. Raises WorkerError when a living process is in it, or it cannot be written."""
    owner = read_pid(path)
    if owner == os.getpid():
        return  # started again by SIGHUP, when its folder may be another user's
    if owner is not None and alive(owner):
        raise WorkerError(f"process {owner} has the pid file {path}; stop it, or give another --pidfile")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In one step, so that nobody reads a file without its number.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(f"{os.getpid()}\n")
        draft.replace(path)
    except OSError as error:
        raise WorkerError(f"the pid file {path} cannot be written: {error.strerror}; name another") from error


def release(path: Path) -> None:
    """Delete the file, if it is still ours; in a folder where only another user may do so it is left empty."""
    if read_pid(path) != os.getpid():
        return
    try:
        path.unlink()
    except OSError:
        with suppress(OSError):
            path.write_text("")


def read_pid(path: Path) -> int | None:
    """Return the pid in a file, or None."""
    try:
        return int(path.read_text().strip())
    except (OSError, ValueError):
        return None


def alive(pid: int) -> bool:
    """Whether there is such a process, zombies not counted."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def _umask(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise WorkerError(f"--umask {text} is no octal number; write for example 022") from None


def _become(uid: str | None, gid: str | None, files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Take the group first: the user may not be permitted to. `files` and `folders` are theirs then."""
    if uid is None and gid is None:
        return
    user = None if uid is None else _named(pwd.getpwuid, pwd.getpwnam, uid, "user", "--uid")
    if gid is None and user is not None:
        group = user.pw_gid
    else:
        group = _named(grp.getgrgid, grp.getgrnam, gid or "", "group", "--gid").gr_gid
    try:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        for path in (*files, *folders):
            os.chown(path, -1 if user is None else user.pw_uid, group)
        if os.geteuid() == 0:
            os.initgroups(user.pw_name, group) if user is not None else os.setgroups([group])
        os.setgid(group)
        if user is not None:
            os.setuid(user.pw_uid)
            os.environ["HOME"] = user.pw_dir
    except OSError as error:
        raise WorkerError(
            f"cannot run as user {uid}, group {gid}: {error.strerror}; start it as root"
        ) from error


def _named(
    by_id: Callable[[int], Any], by_name: Callable[[str], Any], given: str, kind: str, option: str
) -> Any:
    try:
        return by_id(int(given)) if given.isdecimal() else by_name(given)
    except KeyError:
        raise WorkerError(f"there is no {kind} {given} on this machine; correct {option}") from None


def _answer(pipe: int | None, text: bytes) -> None:
    if pipe is not None:
        os.write(pipe, text)
        os.close(pipe)


def _fork(logfile: Path | None) -> int:
    """Go into the background; return, there, the pipe on which the process that called waits for an answer.

    That process ends here, or raises what went wrong.
    """
    out = os.open(os.devnull, os.O_RDWR) if logfile is None else _opened(logfile)
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        os.close(out)
        _wait_and_exit(reading)
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    # What comes before the log is set up, and what the interpreter itself says at its end, goes there too.
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ[DETACHED] = str(os.getpid())
    return writing


def _opened(logfile: Path) -> int:
    try:
        logfile.parent.mkdir(parents=True, exist_ok=True)
        return os.open(logfile, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise WorkerError(
            f"the log file {logfile} cannot be opened: {error.strerror}; name another by -f"
        ) from error


def _wait_and_exit(reading: int) -> NoReturn:
    told, _, _ = select.select([reading], [], [], PATIENCE)
    answer = os.read(reading, 4096) if told else f"it said nothing within {PATIENCE:g} s; look at it".encode()
    if answer == STARTED:
        os._exit(0)
    if answer:
        raise WorkerError(answer.decode(errors="replace"))
    raise Failure("the process in the background ended at once", INTERNAL, "see its log")
