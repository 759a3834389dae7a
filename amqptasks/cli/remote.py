"""What `inspect`, `control` and `status` share: their options, reading a command's words, and showing replies.

Knows which arguments a command takes; what a worker does with them is its own business.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from amqptasks import revokes
from amqptasks.app import App
from amqptasks.cli.apps import load_any_app, load_app
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.output import TEMPORARY, UNAVAILABLE, Failure, show_json
from amqptasks.cli.spec import app_spec
from amqptasks.commands import Command, Kind, reader
from amqptasks.worker.loading import import_tasks

F = TypeVar("F", bound=Callable[..., Any])

TIMEOUT = 1.0
"""Seconds."""

KEPT = ("revoke", "terminate", "revoke_by_stamped_headers")

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
            "-t", "--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
            help="How long replies are waited for. [1.0, or as a command of your own says]",
        ),
        click.option("-j", "as_json", is_flag=True, help="As --json."),
    ):  # fmt: skip
        function = option(function)
    return function


def conversation_options(function: F) -> F:
    """A command's name and its words, whom to tell it, and `--list`: what `converse` takes."""
    for option in (
        listing_options,
        remote_options,
        click.option("--list", "-l", "only_list", is_flag=True, help="List the commands."),
        click.argument("words", nargs=-1, metavar="[ARGUMENTS]..."),
        click.argument("name", metavar="COMMAND", required=False),
    ):
        function = option(function)
    return function


def converse(  # noqa: PLR0917 (click passes by name)
    kind: Kind,
    known: Mapping[str, tuple[Words, str]],
    name: str | None,
    words: tuple[str, ...],
    only_list: bool,
    destination: tuple[str, ...],
    timeout: float | None,
    as_json: bool,
) -> None:
    """Tell the workers a command and print what they answer, or print the commands that there are.

    Ends with exit code 1 if a node answered with an error.
    """
    common = Common.current()
    if only_list or name is None:
        print(listed({**known, **own_commands(common, kind)}))
        return
    with load_any_app(common) as app:
        answers = asked(app, name, read(app, kind, known, name, words), destination, timeout)
        all_known = {*known, *(own for own, _ in app.commands.items())}
        waited = _patience(app, name, timeout)
    show(answers, as_json=common.json or as_json)
    if name not in all_known:
        _say_if_unknown(name, answers, all_known)
    _fail_if_refused(answers)
    fail_if_silent(answers, destination, waited)


def _patience(app: App, command: str, timeout: float | None) -> float:
    own = app.commands.find(command)
    return timeout or (own.default_timeout if own is not None else TIMEOUT)


def _nodes(destination: Sequence[str]) -> list[str]:
    return [name for each in destination for name in each.split(",") if name]


def _is_pattern(node: str) -> bool:
    return any(sign in node for sign in "*?[")


def asked(
    app: App, command: str, arguments: Mapping[str, Any], destination: Sequence[str], timeout: float | None
) -> dict[str, Any]:
    """Return the answers by node. Raises Failure with exit code 69 when nobody answers."""
    timeout = _patience(app, command, timeout)
    nodes = _nodes(destination)
    options: dict[str, Any] = {"destination": nodes or None}
    if len(nodes) > 1 and any(map(_is_pattern, nodes)):
        raise click.UsageError("-d takes names, or one pattern; ask once for each pattern")
    if len(nodes) == 1 and _is_pattern(nodes[0]):
        options = {"pattern": nodes[0], "matcher": "glob"}
    replies = _broadcast(app, command, arguments, {**options, "timeout": timeout, "reply": True})
    if not replies:
        cure = (
            "is a worker running on this broker, with this node name?"
            if nodes
            else "workers that start later know it from the broker, where it is kept"
            if command in KEPT
            else "is a worker running on this broker?"
        )
        raise Failure(f"{NOBODY} ({timeout:g} s)", UNAVAILABLE, cure)
    return {node: answer for reply in replies for node, answer in sorted(reply.items())}


def _broadcast(
    app: App, command: str, arguments: Mapping[str, Any], options: Mapping[str, Any]
) -> Sequence[Mapping[str, Any]] | None:
    """Have it carried out; what is revoked for everyone is kept on the broker too, for workers that start later."""
    control = app.control
    match command:
        case "revoke":
            return control.revoke(arguments["task_id"], **options)
        case "terminate":
            try:
                name = revokes.signal_name(arguments["signal"])
            except ValueError as error:
                raise click.UsageError(str(error)) from None
            return control.terminate(arguments["task_id"], signal=name, **options)
        case "revoke_by_stamped_headers":
            try:
                stamps = revokes.stamps(arguments["headers"])
            except ValueError as error:
                raise click.UsageError(str(error)) from None
            return control.revoke_by_stamped_headers(stamps, **options)
    return control.broadcast(command, arguments, **options)


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
    if answer is None:  # as `heartbeat` answers
        return "OK", ""
    if isinstance(answer, list):
        return "OK", "\n".join(f"* {_text(each)}" for each in answer) or "- empty -"
    return "OK", _text(answer)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=4, default=str, ensure_ascii=False)


def _fail_if_refused(answers: Mapping[str, Any]) -> None:
    """End with exit code 1 if a node answered with an error, which has been shown."""
    if any(isinstance(answer, Mapping) and set(answer) == {"error"} for answer in answers.values()):
        sys.stdout.flush()
        click.get_current_context().exit(1)


def fail_if_silent(answers: Mapping[str, Any], destination: Sequence[str], waited: float) -> None:
    """End with exit code 75 if a node that was named has not answered; `waited` seconds. A pattern names nobody."""
    silent = [node for node in _nodes(destination) if node not in answers and not _is_pattern(node)]
    if not silent:
        return
    sys.stdout.flush()
    cure = "is it running?" if len(silent) == 1 else "are they running?"
    print(f"error: {', '.join(silent)} did not answer within {waited:g} s; {cure}", file=sys.stderr)
    click.get_current_context().exit(TEMPORARY)


def _say_if_unknown(name: str, answers: Mapping[str, Any], known: Collection[str]) -> None:
    """A mistyped name is answered by each worker with the same bare error, as Celery's do."""
    if any(answer != {"error": f"KeyError({name!r})"} for answer in answers.values()):
        return
    near = difflib.get_close_matches(name, known, n=1)
    cure = f"did you mean {near[0]}? " if near else ""
    sys.stdout.flush()
    print(f"error: no worker knows a command {name}; {cure}`--list` shows all", file=sys.stderr)


def own_commands(common: Common, kind: Kind) -> dict[str, tuple[Words, str]]:
    """Return the app's own commands of this kind; none where nothing names an app."""
    if not app_spec(common):
        return {}
    with load_app(common) as app:
        import_tasks(app)
        return {
            name: (words_of(command), command.help)
            for name, command in sorted(app.commands.items())
            if command.kind == kind and command.visible
        }


def read(
    app: App, kind: Kind, known: Mapping[str, tuple[Words, str]], name: str, words: Sequence[str]
) -> Any:
    """Return the arguments that a command's words are. Raises click.UsageError.

    What nobody here knows is asked too, without arguments: the workers may know it.
    """
    if name in known:
        return known[name][0].read(name, words)
    import_tasks(app)
    own = app.commands.find(name)
    if own is not None and own.kind != kind:
        raise click.UsageError(f"{name} is asked by `amqptasks {own.kind} {name}`")
    if own is None and words:
        raise click.UsageError(
            f"there is no command {name} here, so what {' '.join(words)} means is unknown; `--list` shows those there "
            "are, your own ones where -A names your app"
        )
    return words_of(own).read(name, words) if own is not None else {}


def words_of(command: Command) -> Words:
    """Return how the words after a command of one's own become its arguments."""
    return Words(
        tuple((name, reader(kind)) for name, kind in command.args),
        command.variadic,
        command.required,
        command.signature,
    )


def listed(commands: Mapping[str, tuple[Words, str]]) -> str:
    """Return one line a command, for `--list`."""
    width = max(len(f"{name} {words.shown}") for name, (words, _) in commands.items())
    return "\n".join(
        f"{f'{name} {words.shown}':<{width}}  {told}" for name, (words, told) in commands.items()
    )
