"""A canvas run in place, task after task, without a broker: `apply` and `task_always_eager`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amqptasks.canvas.freezing import Result, hang
from amqptasks.canvas.rules import members
from amqptasks.canvas.shaping import shaped
from amqptasks.eager import as_sent
from amqptasks.ids import new_id
from amqptasks.result import GroupResult
from amqptasks.signatures import Signature, kind_of


def apply(sig: Signature) -> Any:
    """Run it; return the result of the whole, None for an empty chain. Raises what a step raised that others await."""
    run = shaped(sig)
    if kind_of(run) == "chain" and not members(run):
        return None
    return _apply(run, ())


def _apply(run: Signature, args: Sequence[Any]) -> Result:
    match kind_of(run):
        case "chain":
            return _chain(run, args)
        case "group":
            return _group(run, args)
        case "chord":
            header = _group(run["kwargs"]["header"], args)
            result = _apply(run["kwargs"]["body"], (header.get(disable_sync_subtasks=False),))
            hang(result, header)
            return result
    done: Result = run.apply(args, **({} if run.options.get("serializer") else as_sent(run.app)))
    return done


def _chain(run: Signature, args: Sequence[Any]) -> Result:
    first, *others = members(run)
    above = _apply(first, args)
    for step in others:
        result = _apply(step, (above.get(disable_sync_subtasks=False),))
        hang(result, above)
        above = result
    return above


def _group(run: Signature, args: Sequence[Any]) -> GroupResult:
    results: list[Any] = [_apply(member, args) for member in members(run)]
    return GroupResult(run.options.get("task_id") or new_id(), results, app=run.app)
