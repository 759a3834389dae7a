"""Which nodes `amqptasks multi` means, and the command line of each: Celery's syntax of names and options. Pure.

`3` is three nodes, `w1 w2 w3` are those; `-c 4` is for all, `-c:w1 8`, `-c:1,2 8` and `-c:1-3 8` for some, by name or
by number. What is said of one node wins over what is said of all.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amqptasks.worker.options import expand, node_name

RANGE_PREFIX = "amqptasks"
OWN = frozenset(
    {
        "--prefix",
        "--suffix",
        "--range-prefix",
        "--hostname",
        "-n",
        "--cmd",
        "--append",
        "--executable",
        "--timeout",
    }
)
"""Options for `multi` itself."""
DEFAULT_COMMAND = "-m amqptasks worker --detach"
PATHS = {"-p": "--pidfile", "--pidfile": "--pidfile", "-f": "--logfile", "--logfile": "--logfile"}


class BadNodes(ValueError):
    """What was written means no nodes; the message says why."""


@dataclass(slots=True)
class Words:
    """The arguments, read: names, options for all, options for some by what stood behind the colon."""

    names: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)
    some: dict[str, dict[str, str]] = field(default_factory=dict)
    rest: tuple[str, ...] = ()
    """What follows `--`."""

    @classmethod
    def read(cls, words: Sequence[str], flags: Collection[str], valued: Collection[str]) -> Words:
        """`flags` are options without a value, `valued` long ones that have one, with or without an equals sign."""
        found = cls()
        at = 0
        while at < len(words):
            word = words[at]
            at += 1
            if word == "--":
                found.rest = tuple(words[at:])
                break
            if not word.startswith("-") or word == "-":
                found.names.append(word)
                continue
            name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
            bare, _, target = name.partition(":")
            takes = bare in valued if word.startswith("--") else bare not in flags
            if not equals and takes and at < len(words) and not words[at].startswith("-"):
                value = words[at]
                at += 1
            (found.some.setdefault(target, {}) if target else found.options)[bare] = value
        return found


@dataclass(frozen=True, slots=True)
class Node:
    """One worker: its name, and how it is started."""

    name: str
    executable: str
    command: tuple[str, ...]
    pidfile: Path
    logfile: str

    @property
    def argv(self) -> list[str]:
        return [self.executable, *self.command]

    def expand(self, template: str) -> str:
        """Replace %n, %h, %d and %p; Celery's %i and %I, of children, stay as they are."""
        return _expand(template, self.name)


def nodes(words: Words, *, executable: str, folders: tuple[Path, Path]) -> list[Node]:
    """Return the nodes, in order. `folders` are those of pid and log files. Raises BadNodes."""
    given = words.options
    if not words.names:
        raise BadNodes("no node is named; write names, w1 w2, or how many, 3")
    ranged = len(words.names) == 1 and words.names[0].isdecimal()
    names = [str(number + 1) for number in range(int(words.names[0]))] if ranged else words.names
    host = given.get("--hostname") or given.get("-n") or socket.gethostname()
    suffix = given.get("--suffix") or host
    prefix = (given.get("--range-prefix") or RANGE_PREFIX) if ranged else given.get("--prefix", "")
    full = [node_name(name if "@" in name else f"{prefix}{name}@{suffix}") for name in names]
    if len(set(full)) != len(full):
        raise BadNodes("two nodes have the same name; names are unique on a broker")
    own = _for_some(words.some, names, full, ranged)
    return [
        _node(name, {**given, **extra}, words.rest, executable, folders)
        for name, extra in zip(full, own, strict=True)
    ]


def _for_some(
    some: Mapping[str, Mapping[str, str]], names: Sequence[str], full: Sequence[str], ranged: bool
) -> list[dict[str, str]]:
    own: list[dict[str, str]] = [{} for _ in names]
    for target, options in some.items():
        for part in target.split(","):
            for index in _indexes(part, names, full, ranged):
                own[index].update(options)
    return own


def _indexes(part: str, names: Sequence[str], full: Sequence[str], ranged: bool) -> Iterable[int]:
    """A name that is not among these nodes is no mistake: options are kept for all, commands are for some."""
    for known in (names, full):
        if part in known:
            return [known.index(part)]
    numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
    if numbers is None:
        return []
    first, last = int(numbers[1]), int(numbers[2] or numbers[1])
    if not ranged and not 1 <= first <= last <= len(names):
        raise BadNodes(f"there is no node {part}; there are {len(names)}, counted from 1")
    return range(max(first, 1) - 1, min(last, len(names)))


def _node(
    name: str, given: Mapping[str, str], rest: Sequence[str], executable: str, folders: tuple[Path, Path]
) -> Node:
    pids, logs = folders
    paths = {"--pidfile": str(pids / "%n.pid"), "--logfile": str(logs / "%n%I.log")}
    for option, value in given.items():
        if option in PATHS:
            paths[PATHS[option]] = os.path.abspath(os.path.expanduser(value))
    options = [
        word
        for option, value in given.items()
        if option not in OWN and option not in PATHS
        for word in _written(option, _expand(value, name))
    ]
    files = [f"{option}={_expand(path, name)}" for option, path in paths.items()]
    appended = [_expand(word, name) for word in shlex.split(given.get("--append", ""))]
    command = shlex.split(given.get("--cmd", DEFAULT_COMMAND))
    return Node(
        name=name,
        executable=given.get("--executable") or executable,
        command=(*command, "-n", name, *files, *options, *(["--", *rest] if rest else []), *appended),
        pidfile=Path(expand(paths["--pidfile"], name)),
        logfile=expand(paths["--logfile"], name),
    )


def _written(option: str, value: str) -> Iterator[str]:
    if not value:
        yield option
    elif option.startswith("--"):
        yield f"{option}={value}"
    else:
        yield option
        yield value


def _expand(template: str, node: str) -> str:
    return expand(template.replace("%i", "%%i").replace("%I", "%%I"), node)


def folders(environment: Mapping[str, str], *, root: bool) -> tuple[Path, Path]:
    """Return where pid and log files go by default: folders that this user can write.

    XDG_STATE_HOME where it is set; /var/run and /var/log for root; else ~/.local/state.
    """
    if environment.get("XDG_STATE_HOME"):
        state = Path(environment["XDG_STATE_HOME"]) / "amqptasks"
    elif root and os.access("/var/run", os.W_OK) and os.access("/var/log", os.W_OK):
        return Path("/var/run/amqptasks"), Path("/var/log/amqptasks")
    else:
        state = Path(environment.get("HOME") or "~").expanduser() / ".local" / "state" / "amqptasks"
    return state, state
