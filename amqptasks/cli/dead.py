"""`amqptasks dead`: what lies in the dead-letter queues, and what is to become of it."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, TypeVar

import click

from amqptasks.amqp import Envelope
from amqptasks.cli.apps import load_any_app
from amqptasks.cli.options import Common, listing_options, names
from amqptasks.cli.output import CONFIG, FAILED, Failure, sentence, show_json, table
from amqptasks.dead import DeadLetter, DeadLetters, Selection, Tally
from amqptasks.errors import ImproperlyConfigured, NotFound
from amqptasks.worker.rates import per_second

F = TypeVar("F", bound=Callable[..., Any])

WIDTH = 60
"""Characters of an error in the table; `show` has all of it."""
PAUSE = 2.0
"""Seconds between two lines of progress."""


def _rate(text: str) -> float:
    with contextlib.suppress(ImproperlyConfigured):
        if rate := per_second(text):
            return rate
    raise click.BadParameter(f"{text!r} is no rate; write for example 10/s, 100/m or 1000/h")


_SELECTING = (
    click.argument("ids", nargs=-1, metavar="[ID]..."),
    click.option(
        "-Q",
        "--queues",
        type=names,
        metavar="NAMES",
        help="Dead letters of these queues only: short,long. [the app's queues, and what is lost]",
    ),
    click.option(
        "--reason", "reasons", type=names, metavar="NAMES", help="With these reasons: unknown,rejected."
    ),
    click.option("--task", "tasks", type=names, metavar="NAMES", help="Of these tasks; shop.* is a pattern."),
    click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many."),
    click.option(
        "--look",
        type=click.IntRange(1),
        metavar="N",
        default=Selection().look,
        help="Look at so many messages of each queue, the oldest. [10000]",
    ),
)
_ALL = click.option("--all", "everything", is_flag=True, help="All of them, without naming any.")


def _selecting(function: F) -> F:
    """Give a command what says which dead letters are meant."""
    for option in reversed(_SELECTING):
        function = option(function)
    return function


def _selection(
    ids: tuple[str, ...],
    reasons: tuple[str, ...] | None,
    tasks: tuple[str, ...] | None,
    limit: int | None,
    look: int,
) -> Selection:
    return Selection(frozenset(ids), frozenset(reasons or ()), tasks or (), limit, look)


def _required(everything: bool, queues: tuple[str, ...] | None, selection: Selection) -> None:
    if not (everything or queues or selection.ids or selection.reasons or selection.tasks):
        raise click.UsageError(
            "nothing says which dead letters; name IDs, -Q, --reason or --task, or add --all"
        )


@contextlib.contextmanager
def _letters(queues: tuple[str, ...] | None) -> Iterator[DeadLetters]:
    with load_any_app(Common.current()) as app:
        found = app.dead_letters(queues)
        try:
            yield found
        except NotFound as error:
            happened, _ = sentence(error)
            raise Failure(happened, CONFIG, "`amqptasks queues` lists what there is") from error


@click.group("dead")
@listing_options
def command() -> None:
    """List, show, replay or drop dead letters.

    \b
    amqptasks -A proj dead list
    amqptasks -A proj dead replay --reason unknown --rate 10/s

    Without an app the broker of -b is asked, for the queues of -Q.
    """


@command.command("list")
@_selecting
@listing_options
def list_(queues: tuple[str, ...] | None, **given: Any) -> None:
    """List dead letters, the oldest of each queue first. They stay where they are.

    No dead letter is no error: exit code 0.
    """
    common, tally = Common.current(), Tally()
    with _letters(queues) as letters:
        found = letters.list(_selection(**given), tally)
    if common.json:
        show_json([_facts(letter) for letter in found])
    elif found:
        head = ("id", "task", "reason", "queue", "died", "times", "error")
        print(table(head, [_cells(letter) for letter in found]))
    elif not common.quiet:
        print("no dead letters")
    _tell_of_more(tally)


@command.command("show")
@_selecting
@_ALL
@listing_options
def show(queues: tuple[str, ...] | None, everything: bool, **given: Any) -> None:
    """Show dead letters whole: why, when and where, headers and body. They stay where they are.

    A body is shown as it is, never decoded: it may be what killed its reader.
    """
    common, tally, selection = Common.current(), Tally(), _selection(**given)
    _required(everything, queues, selection)
    with _letters(queues) as letters:
        found = letters.show(selection, tally)
    _tell_of_more(tally)
    if not found:
        raise _nothing()
    if common.json:
        show_json([{**_facts(letter), **_message(envelope)} for letter, envelope in found])
    else:
        print("\n\n".join(_page(letter, envelope) for letter, envelope in found))


@command.command("replay")
@_selecting
@_ALL
@click.option("--rate", type=_rate, metavar="N/s", help="At most so many a second: 10/s, 100/m, 1000/h.")
@click.option("--to", metavar="QUEUE", help="Send them to this queue. [the one that each died in]")
@listing_options
def replay(
    queues: tuple[str, ...] | None, everything: bool, rate: float | None, to: str | None, **given: Any
) -> None:
    """Send dead letters back to the queues that they died in, to run again.

    Each is in a queue before it leaves the dead letters, so none is lost however this ends; the one that is
    in flight when it is killed may be there twice. What no queue takes stays: exit code 1.
    """
    selection = _selection(**given)
    _required(everything, queues, selection)
    with _letters(queues) as letters:
        tally = letters.replay(selection, rate=rate, to=to, progress=_progress("replayed"))
    _conclude(tally, "replayed")


@command.command("drop")
@_selecting
@_ALL
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@listing_options
def drop(queues: tuple[str, ...] | None, everything: bool, force: bool, **given: Any) -> None:
    """Remove dead letters, after a question. There is no way back."""
    selection = _selection(**given)
    _required(everything, queues, selection)
    with _letters(queues) as letters:
        if not force:
            meant = len(letters.list(selection))
            if not meant:
                raise _nothing()
            if not click.confirm(f"Drop {_number(meant)}?", err=True):
                click.get_current_context().exit(FAILED)
            # What has died since nobody was asked about; it lies behind the others.
            selection = replace(selection, limit=meant)
        tally = letters.drop(selection, progress=_progress("dropped"))
    _conclude(tally, "dropped")


# --- what is printed -------------------------------------------------------------------------------------


def _progress(word: str) -> Callable[[int], None] | None:
    common = Common.current()
    if common.quiet or common.json:
        return None
    told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        if time.monotonic() - told >= PAUSE:
            told = time.monotonic()
            print(f"{word} {done}", file=sys.stderr, flush=True)

    return tell


def _conclude(tally: Tally, word: str) -> None:
    """Print what was done, and end with 1 if that was not everything that was meant."""
    common = Common.current()
    _tell_of_more(tally)
    if not tally.matched:
        raise _nothing()
    if common.json:
        show_json({"matched": tally.matched, word: tally.done, "left": tally.left, "beyond": tally.beyond})
    elif not common.quiet:
        print(f"{_number(tally.done)} {word}")
    for why, count in tally.left.items():
        print(f"{_number(count)} left: {why}", file=sys.stderr)
    if tally.left:
        click.get_current_context().exit(FAILED)


def _tell_of_more(tally: Tally) -> None:
    if tally.beyond:
        print(f"{tally.beyond} more messages were not looked at; add --look N", file=sys.stderr)


def _nothing() -> Failure:
    return Failure("no dead letter matches", FAILED, "`amqptasks dead list` shows what there is")


def _number(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


def _facts(letter: DeadLetter) -> dict[str, Any]:
    return {**asdict(letter), "died_at": letter.died_at and letter.died_at.isoformat()}


def _cells(letter: DeadLetter) -> tuple[object, ...]:
    error = _plain(" ".join(letter.error.split()))
    short = error if len(error) <= WIDTH else f"{error[: WIDTH - 3]}..."
    return (
        _plain(letter.id) or None,
        _plain(letter.task) or None,
        _plain(letter.reason) or None,
        _plain(letter.queue) or None,
        _when(letter) or None,
        letter.times,
        short or None,
    )


def _when(letter: DeadLetter) -> str:
    return "" if letter.died_at is None else f"{letter.died_at:%Y-%m-%d %H:%M:%SZ}"


def _page(letter: DeadLetter, envelope: Envelope) -> str:
    properties = envelope.properties
    came = f"by exchange {letter.exchange or '(default)'}, key {letter.routing_key}"
    lines = {
        "id": letter.id,
        "task": letter.task,
        "reason": letter.reason,
        "error": letter.error,
        "died": " ".join(filter(None, (_when(letter), letter.node and f"on {letter.node}"))),
        "times": letter.times,
        "queue": f"{letter.queue or '-'} ({came})",
        "lies in": letter.lies_in,
        "args": letter.args,
        "kwargs": letter.kwargs,
        "headers": json.dumps(dict(properties.headers or {}), default=str, ensure_ascii=False),
        "body": f"{letter.size} bytes, {properties.content_type or 'of no type'}",
    }
    text = "\n".join(f"{name:<8} {value}" for name, value in lines.items() if value != "")
    return _plain(f"{text}\n{envelope.body.decode(errors='backslashreplace')}")


def _plain(text: str) -> str:
    """What strangers wrote must not command the terminal."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def _message(envelope: Envelope) -> dict[str, Any]:
    properties = asdict(envelope.properties)
    return {"properties": properties, "body": envelope.body.decode(errors="backslashreplace")}
