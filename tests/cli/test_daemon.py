"""`--pidfile`, `--logfile`, `--uid`, `--gid`: whose the process and its files are. Forks, since a process cannot go back."""

import json
import os
import pwd
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amqptasks.cli.daemon import Daemon, claim, read_pid, release
from tests.support.pages import ROOT

AS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may become another user: run the tests as root"
)
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user can look into, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def in_a_process(function: Callable[[], Any]) -> Any:
    """What `function` returns in a forked process, as JSON."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = function()
        except BaseException:
            answer = traceback.format_exc()
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    return answer


def owners(folder: Path) -> dict[str, list[int]]:
    return {
        str(path.relative_to(folder)): [path.stat().st_uid, path.stat().st_gid] for path in folder.rglob("*")
    }


@AS_ROOT
def test_process_files_and_the_folders_made_for_them_belong_to_the_user(folder: Path) -> None:
    daemon = Daemon(pidfile=f"{folder}/run/%n.pid", uid="nobody")

    def become() -> Any:
        with daemon.entered("w1@here", f"{folder}/log/deep/%n.log"):
            Path(f"{folder}/log/deep/w1.log").open("a").close()
            return [os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"], owners(folder)]

    users, groups, more, home, made = in_a_process(become)

    whose = [NOBODY.pw_uid, NOBODY.pw_gid]
    assert users == [NOBODY.pw_uid] * 3
    assert groups == [NOBODY.pw_gid] * 3
    assert 0 not in more
    assert home == NOBODY.pw_dir
    assert made == dict.fromkeys(["run", "run/w1.pid", "log", "log/deep", "log/deep/w1.log"], whose)
    assert not (folder / "run" / "w1.pid").exists(), "deleted at the end"


@AS_ROOT
def test_a_group_alone_keeps_the_user(folder: Path) -> None:
    daemon = Daemon(pidfile=f"{folder}/%n.pid", gid=str(NOBODY.pw_gid))

    def become() -> Any:
        with daemon.entered("w1@here", None):
            return [os.geteuid(), os.getegid(), os.getgroups(), owners(folder)]

    group = NOBODY.pw_gid
    assert in_a_process(become) == [0, group, [group], {"w1.pid": [0, group]}]


@AS_ROOT
def test_in_a_folder_of_roots_the_pid_file_is_emptied_and_the_same_process_may_start_again(
    folder: Path,
) -> None:
    daemon = Daemon(pidfile=f"{folder}/w1.pid", uid="nobody")

    def twice() -> Any:
        with daemon.entered("w1@here", None):
            with daemon.entered("w1@here", None):  # as after SIGHUP, when it is nobody already
                within = (folder / "w1.pid").read_text().strip()
            return [within, str(os.getpid())]

    within, pid = in_a_process(twice)

    assert within == pid
    assert (folder / "w1.pid").read_text() == ""


@pytest.mark.parametrize(
    ("uid", "gid", "said"),
    [
        ("nosuchuser", None, "there is no user nosuchuser on this machine; correct --uid"),
        (None, "nosuchgroup", "there is no group nosuchgroup on this machine; correct --gid"),
        ("nobody", "nosuchgroup", "there is no group nosuchgroup on this machine; correct --gid"),
    ],
)
def test_who_is_not_there_is_said(folder: Path, uid: str | None, gid: str | None, said: str) -> None:
    def become() -> Any:
        with Daemon(uid=uid, gid=gid).entered("w1@here", None):
            return "became it"

    assert said in in_a_process(become)


def test_a_pid_file_of_another_process_is_left_alone(folder: Path) -> None:
    path = folder / "w.pid"
    claim(path)
    path.write_text("1\n")

    release(path)

    assert read_pid(path) == 1


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_what_keeps_a_process_from_the_background_is_one_line_and_its_own_exit_code(
    folder: Path, command: str
) -> None:
    """As in the foreground."""
    claim(folder / "taken.pid")  # by this process, which lives
    (folder / "shop.py").write_text("from amqptasks import App\napp = App('shop', broker='memory://')\n")

    def detached(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "amqptasks", "-A", "shop", command, "--detach", *words]
        return subprocess.run(
            line,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    taken = detached("--pidfile", f"{folder}/taken.pid")
    assert taken.returncode == 73
    assert taken.stderr.startswith(f"error: process {os.getpid()} has the pid file")
    assert taken.stderr.count("\n") == 1
    nowhere = detached("--logfile", "/proc/nowhere/w.log")
    assert nowhere.returncode == 73
    assert nowhere.stderr == (
        "error: the log file /proc/nowhere/w.log cannot be opened: No such file or directory; name another by -f\n"
    )
