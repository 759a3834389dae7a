"""A canvas as it runs: nested chains and groups made flat, a group that is followed made a chord.

Pure, and shaping twice changes nothing more. In the shape that runs, a chain is tasks, of which only the last
step may be a group or a chord; a group holds no group; each member of a chord's header ends in one task; and
options of a whole stand on its parts. Knows signatures; sends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amqptasks.canvas.rules import is_empty_group, make_chain, make_chord, make_group, members
from amqptasks.options import as_list
from amqptasks.signatures import Signature, kind_of

COLLECT = "celery.accumulate"
JOIN_TIMEOUT = "join_timeout"
"""An option of a chord: the seconds after which its body fails if its header has not ended."""
_OF_THE_LAST = frozenset({"task_id", "group_id", "group_index", "link", "chord"})
_IDS = frozenset({"task_id", "group_id", "group_index", "chord"})
_OF_THE_CHORD = _OF_THE_LAST | {JOIN_TIMEOUT}
_TIMES = ("countdown", "eta")


def shaped(sig: Signature) -> Signature:
    """Return a copy of `sig` as it runs; nothing of it is shared with `sig`."""
    match kind_of(sig):
        case "chain":
            return _chain(sig)
        case "group":
            return _group(sig)
        case "chord":
            return _chord(sig)
    return sig.clone()


def single(sig: Signature) -> Signature:
    """Return a shaped signature whose value comes out of one task: what a group would give is collected."""
    match kind_of(sig):
        case "group":
            collected = make_chord(members(sig), _collecting(sig), sig._app)
            return _chord(collected)
        case "chord":
            return _chord_of(sig, sig["kwargs"]["header"], single(sig["kwargs"]["body"]))
        case "chain" if members(sig):
            *before, last = members(sig)
            return _chain_of(sig, [*before, single(last)])
    return sig


def _collecting(sig: Signature) -> Signature:
    return Signature(COLLECT, kwargs={"index": 0}, app=sig._app)


# --- chains ---------------------------------------------------------------------------------------------------


def _chain(sig: Signature) -> Signature:
    steps: list[Signature] = []
    for step in members(sig):
        _extend(steps, shaped(step))
    if len(steps) > 1:
        steps = [step for step in steps if not is_empty_group(step)] or steps[:1]
    if not steps:
        return _chain_of(sig, [])
    if as_list(sig.options.get("link")) and kind_of(steps[-1]) != "task":
        steps[-1] = single(steps[-1])
    _hand_down_chain(sig, steps)
    return steps[0] if len(steps) == 1 else _chain_of(sig, steps)


def _extend(steps: list[Signature], step: Signature) -> None:
    if kind_of(step) == "chain":
        for one in members(step):
            _extend(steps, one)
        return
    last = steps[-1] if steps else None
    if last is None or kind_of(last) == "task" or is_empty_group(last):
        steps.append(step)
    elif is_empty_group(step):
        return
    elif kind_of(last) == "group":
        steps[-1] = _chord(make_chord(members(last), step, last._app))
        if "task_id" in last.options:
            steps[-1]["kwargs"]["header"].options["task_id"] = last.options["task_id"]
    else:
        body = _flat([last["kwargs"]["body"]])
        _extend(body, step)
        joined = body[0] if len(body) == 1 else make_chain(body, last._app)
        steps[-1] = _chord_of(last, last["kwargs"]["header"], joined)


def _flat(steps: Sequence[Signature]) -> list[Signature]:
    flat: list[Signature] = []
    for step in steps:
        flat.extend(_flat(members(step)) if kind_of(step) == "chain" else [step])
    return flat


def _hand_down_chain(sig: Signature, steps: Sequence[Signature]) -> None:
    """Arguments and plain options are the first step's, ids and callbacks the last one's, errbacks everybody's."""
    first, last = steps[0], steps[-1]
    plain = {key: value for key, value in sig.options.items() if key not in _OF_THE_LAST}
    plain.pop("link_error", None)
    if sig.args or sig.kwargs.keys() - {"tasks"} or plain:
        kwargs = {key: value for key, value in sig.kwargs.items() if key != "tasks"}
        give(first, sig.args, kwargs, plain)
    for key in _IDS & sig.options.keys():
        last.options.setdefault(key, sig.options[key])
    for callback in as_list(sig.options.get("link")):
        link(last, callback)
    for errback in as_list(sig.options.get("link_error")):
        for step in steps:
            link_error(step, errback)


def _chain_of(sig: Signature, steps: Sequence[Signature]) -> Signature:
    chain = make_chain(steps, sig._app)
    chain["immutable"] = sig.immutable
    return chain


# --- groups and chords ----------------------------------------------------------------------------------------


def _group(sig: Signature) -> Signature:
    flat: list[Signature] = []
    options = {key: value for key, value in sig.options.items() if key not in _IDS}
    kwargs = {key: value for key, value in sig.kwargs.items() if key != "tasks"}
    for member in members(sig):
        one = shaped(member)
        parts = members(one) if kind_of(one) == "group" else [one]
        flat.extend(part for part in parts if not (kind_of(part) == "chain" and not members(part)))
    for member in flat:
        if sig.args or kwargs or options:
            give(member, sig.args, kwargs, options)
    kept = {"task_id": sig.options["task_id"]} if "task_id" in sig.options else {}
    return make_group(flat, sig._app, **kept)


def _chord(sig: Signature) -> Signature:
    header, body = sig["kwargs"]["header"], sig["kwargs"].get("body")
    if body is None:
        raise TypeError(f"{sig!r} has no body; write chord(header, body)")
    group = header if isinstance(header, Signature) else make_group(header, sig._app)
    flat = shaped(group)
    flat["kwargs"]["tasks"] = [single(member) for member in members(flat)]
    made = _chord_of(sig, flat, shaped(body))
    _hand_down_chord(sig, made)
    return made


def _hand_down_chord(sig: Signature, made: Signature) -> None:
    """Arguments and times are the header's, callbacks and ids the body's, other options both's."""
    header, body = made["kwargs"]["header"], made["kwargs"]["body"]
    options = {key: value for key, value in sig.options.items() if key not in _OF_THE_CHORD}
    errbacks = as_list(options.pop("link_error", None))
    own = {key: value for key, value in sig.kwargs.items() if key not in ("kwargs", "header", "body")}
    kwargs = {**(sig.kwargs.get("kwargs") or {}), **own}
    for member in members(header):
        if sig.args or kwargs or options:
            give(member, sig.args, kwargs, options)
    give(body, (), {}, {key: value for key, value in options.items() if key not in _TIMES})
    for key in _IDS & sig.options.keys():
        body.options.setdefault(key, sig.options[key])
    for callback in as_list(sig.options.get("link")):
        link(body, callback)
    for errback in errbacks:
        link_error(body, errback)


def _chord_of(sig: Signature, header: Signature, body: Signature) -> Signature:
    chord = make_chord((), body, sig._app)
    chord["kwargs"]["header"] = header
    chord["kwargs"]["body"] = body
    if JOIN_TIMEOUT in sig.options:
        chord.options[JOIN_TIMEOUT] = sig.options[JOIN_TIMEOUT]
    return chord


# --- handing down ---------------------------------------------------------------------------------------------


def give(sig: Signature, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Give partial arguments and options to a shaped signature, in place, as a call of it would."""
    match kind_of(sig):
        case "chain":
            if members(sig):
                give(members(sig)[0], args, kwargs, options)
        case "group":
            for member in members(sig):
                give(member, args, kwargs, options)
        case "chord":
            for member in members(sig["kwargs"]["header"]):
                give(member, args, kwargs, options)
            if not members(sig["kwargs"]["header"]):
                return
            later = {key: value for key, value in options.items() if key not in _TIMES}
            give(sig["kwargs"]["body"], (), {}, later)
        case _:
            given = sig._merged(args, kwargs, options)
            sig["args"], sig["kwargs"], sig["options"] = given


def link(sig: Signature, callback: Any) -> None:
    """Call `callback` with the value of a shaped signature that ends in one task."""
    match kind_of(sig):
        case "chain":
            link(members(sig)[-1], callback)
        case "chord":
            link(sig["kwargs"]["body"], callback)
        case "group":
            for member in members(sig):
                link(member, callback)
        case _:
            Signature.link(sig, callback)


def link_error(sig: Signature, errback: Any) -> None:
    """Call `errback` when any task of a shaped signature fails; of a chord's, when its body does."""
    match kind_of(sig):
        case "chain" | "group":
            for member in members(sig):
                link_error(member, errback)
        case "chord":
            link_error(sig["kwargs"]["body"], errback)
        case _:
            Signature.link_error(sig, errback)
