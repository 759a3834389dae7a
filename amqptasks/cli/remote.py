"""What `inspect`, `control` and `status` share: their options, reading a command's words, and showing replies.

Knows which arguments a command takes; what a worker does with them is its own business.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from amqptasks.app import App
from amqptasks.cli.output import UNAVAILABLE, Failure, show_json

F = TypeVar("F", bound=Callable[..., Any])

NOBODY = "no node replied within the time"


@dataclass(frozen=True, slots=True)
class Words:
    """How the words after a command become its arguments: one each in order, the rest by the last name."""

    names: tuple[tuple[str, Callable[[str], Any]], ...] = ()
    rest: str = ""
    required: int = 0
    shown: str = ""

    def read(self, command: str, words: Sequence[str]) -> dict[str, Any]:
        """Raises click.UsageError."""
        if len(words) < self.required or (not self.rest and len(words) > len(self.names)):
            raise click.UsageError(
                f"{command} takes {self.shown or 'no arguments'}; got {' '.join(words) or 'none'}"
            )
        arguments: dict[str, Any] = {}
        for (name, kind), word in zip(self.names, words, strict=False):
            try:
                arguments[name] = kind(word)
            except ValueError:
                raise click.UsageError(
                    f"{command} takes {self.shown}; {word!r} does not fit {name}"
                ) from None
        if self.rest:
            arguments[self.rest] = list(words[len(self.names) :])
        return arguments


def truth(word: str) -> bool:
    if word.lower() in ("1", "true", "yes", "on"):
        return True
    if word.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(word)


def remote_options(function: F) -> F:
    """Whom to ask, and for how long."""
    for option in (
        click.option(
            "-d",
            "--destination",
            multiple=True,
            metavar="NODES",
            help="These nodes only: w1@host,w2@host. With a * or ? in it: every node whose name fits.",
        ),
        click.option(
            "-t", "--timeout", type=click.FloatRange(0, min_open=True), default=1.0, metavar="SECONDS",
            help="How long replies are waited for. [1.0]",
        ),
        click.option("-j", "as_json", is_flag=True, help="As --json."),
    ):  # fmt: skip
        function = option(function)
    return function


def asked(
    app: App, command: str, arguments: Mapping[str, Any], destination: Sequence[str], timeout: float
) -> dict[str, Any]:
    """Return the answers by node. Raises Failure with exit code 69 when nobody answers."""
    nodes = [name for each in destination for name in each.split(",") if name]
    options: dict[str, Any] = {"destination": nodes or None}
    if len(nodes) == 1 and any(sign in nodes[0] for sign in "*?["):
        options = {"pattern": nodes[0], "matcher": "glob"}
    replies = app.control.broadcast(command, arguments, reply=True, timeout=timeout, **options)
    if not replies:
        cure = (
            "is a worker running on this broker, with this node name?"
            if nodes
            else "is a worker running on this broker?"
        )
        raise Failure(f"{NOBODY} ({timeout:g} s)", UNAVAILABLE, cure)
    return {node: answer for reply in replies for node, answer in sorted(reply.items())}


def show(answers: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what the nodes said, as Celery's command does; JSON is one object by node."""
    if as_json:
        show_json(dict(answers))
        return
    for node, answer in answers.items():
        word, body = _summary(answer)
        print(f"->  {node}: {word}")
        if body:
            print("\n".join(f"    {line}" for line in body.splitlines()))
    count = len(answers)
    print(f"\n{count} {'node' if count == 1 else 'nodes'} online.")


def _summary(answer: Any) -> tuple[str, str]:
    if isinstance(answer, Mapping) and set(answer) == {"ok"}:
        return "OK", str(answer["ok"])
    if isinstance(answer, Mapping) and set(answer) == {"error"}:
        return "ERROR", str(answer["error"])
    if isinstance(answer, list):
        return "OK", "\n".join(f"* {_text(each)}" for each in answer) or "- empty -"
    return "OK", _text(answer)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=4, default=str, ensure_ascii=False)


def fail_if_refused(answers: Mapping[str, Any]) -> None:
    """End with exit code 1 if a node answered with an error, which has been shown."""
    if any(isinstance(answer, Mapping) and set(answer) == {"error"} for answer in answers.values()):
        sys.stdout.flush()
        click.get_current_context().exit(1)


def listed(commands: Mapping[str, tuple[Words, str]]) -> str:
    """Return one line a command, for `--list`."""
    width = max(len(f"{name} {words.shown}") for name, (words, _) in commands.items())
    return "\n".join(
        f"{f'{name} {words.shown}':<{width}}  {told}" for name, (words, told) in commands.items()
    )
