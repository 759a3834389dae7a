"""What `|` makes of two signatures, and what `chain(...)` makes of several: Celery's table, and nothing else.

Pure. Reads and makes signatures by their kind, so it need not know the classes that use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from amqptasks.client import Client
from amqptasks.options import as_list
from amqptasks.signatures import KINDS, Signature, kind_of


def joined(left: Signature, right: Signature) -> Signature:
    """Return `left | right`."""
    match kind_of(left):
        case "chain":
            return _after_chain(left, right)
        case "group":
            return left if is_empty_group(right) else make_chord(members(left), right, left._app)
        case "chord":
            return _after_chord(left, right)
    return _after_task(left, right)


def _after_task(left: Signature, right: Signature) -> Signature:
    if kind_of(right) == "chain":
        return make_chain([left, *unchained(right)], left._app)
    return make_chain([left, unrolled(right)], left._app)


def _after_chord(left: Signature, right: Signature) -> Signature:
    other = unrolled(right)
    if kind_of(other) in ("group", "chain"):
        return _after_task(left, other)
    return _with_body(left, other)


def _after_chain(left: Signature, right: Signature) -> Signature:
    if is_empty_group(right):
        return left
    if kind_of(right) == "chain":
        result = left
        for step in unchained(right):
            result = joined(result, step)
        return result
    other = unrolled(right)
    if kind_of(other) == "chain" and other is not right:
        return _after_chain(left, other)
    steps = unchained(left)
    if not steps:
        return other if kind_of(other) == "group" else make_chain([other], left._app)
    return make_chain(_extended(steps, other), left._app)


def _extended(steps: Sequence[Signature], other: Signature) -> list[Signature]:
    """Return a chain's steps with one more: what follows a group is its callback, and a chord's body grows."""
    *before, last = steps
    kind, added = kind_of(last), kind_of(other)
    if kind == "group" and added != "group":
        folded = make_chord(members(last), other, last._app)
        if before and kind_of(before[-1]) == "chord":
            return [*before[:-1], _with_body(before[-1], folded)]
        return [*before, folded]
    if kind == "chord" and added != "chord":
        return [*before, _with_body(last, other)]
    return [*steps, other]


def fold(tasks: Iterable[Signature], app: Client | None) -> Signature:
    """Return `tasks[0] | tasks[1] | ...`, begun with an empty chain."""
    result = make_chain([], app)
    steps: list[Signature] = []
    rest = iter(tasks)
    for task in rest:
        # Most chains are of plain tasks: gathered at once, they are not copied again for every further step.
        if kind_of(task) != "task":
            result = joined(make_chain(steps, app), task)
            break
        steps.append(task)
    else:
        return make_chain(steps, app)
    for task in rest:
        result = joined(result, task)
    return result


# --- parts ----------------------------------------------------------------------------------------------------


def members(sig: Signature) -> Sequence[Signature]:
    """Return what a chain or a group holds."""
    return sig["kwargs"]["tasks"]  # type: ignore[no-any-return]


def header_members(sig: Signature) -> Sequence[Signature]:
    """Return a chord's header, which is a list, or a group once it has an id."""
    header = sig["kwargs"]["header"]
    return members(header) if isinstance(header, Signature) else header


def is_empty_group(sig: Mapping[str, Any]) -> bool:
    return kind_of(sig) == "group" and not sig["kwargs"]["tasks"]


def unrolled(sig: Signature) -> Signature:
    """Return the one member of a group of one; anything else as it is."""
    if kind_of(sig) == "group" and len(members(sig)) == 1:
        return members(sig)[0]
    return sig


def unchained(sig: Signature) -> list[Signature]:
    """Return copies of a chain's steps, its callbacks on the last and its errbacks on all."""
    steps = [step.clone() for step in members(sig)]
    for callback in as_list(sig.options.get("link")):
        if steps:
            steps[-1].link(callback)
    for errback in as_list(sig.options.get("link_error")):
        for step in steps:
            step.link_error(errback)
    return steps


def _with_body(sig: Signature, other: Signature) -> Signature:
    copy = sig.clone()
    body = copy["kwargs"].get("body")
    copy["kwargs"]["body"] = other.clone() if body is None else joined(body, other)
    return copy


def make_chain(steps: Iterable[Signature], app: Client | None) -> Signature:
    return KINDS["chain"]({"kwargs": {"tasks": list(steps)}}, app)


def make_group(tasks: Iterable[Signature], app: Client | None, **options: Any) -> Signature:
    return KINDS["group"]({"kwargs": {"tasks": list(tasks)}, "options": options}, app)


def make_chord(header: Iterable[Signature], body: Signature, app: Client | None) -> Signature:
    return KINDS["chord"]({"kwargs": {"header": list(header), "body": body}}, app)


def leaves(sig: Signature) -> Iterator[Signature]:
    """Yield every task in a signature, in the order of writing."""
    match kind_of(sig):
        case "chain" | "group":
            for member in members(sig):
                yield from leaves(member)
        case "chord":
            for member in header_members(sig):
                yield from leaves(member)
            if sig["kwargs"].get("body") is not None:
                yield from leaves(sig["kwargs"]["body"])
        case _:
            yield sig
