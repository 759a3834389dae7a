"""Ids for every task of a canvas before any is sent, and the results that they will have.

Knows signatures and results; sends nothing. What has an id keeps it, so freezing twice gives the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amqptasks.canvas.rules import leaves, members
from amqptasks.client import Client
from amqptasks.ids import new_id
from amqptasks.result import AsyncResult, GroupResult
from amqptasks.signatures import Signature, kind_of

Result = AsyncResult[Any] | GroupResult


@dataclass(frozen=True, slots=True)
class Freezing:
    """What every task of one canvas is given."""

    app: Client
    root_id: str | None = None
    reply_to: str | None = None
    """Where results go; None: results are not waited for, or nothing is sent yet."""

    def freeze(self, sig: Signature) -> Result:
        """Give ids to all tasks of a shaped signature, in place; return the result of the whole."""
        match kind_of(sig):
            case "chain":
                return self._chain(sig)
            case "group":
                return self._group(sig)
            case "chord":
                return self._chord(sig)
        return self._task(sig)

    def _task(self, sig: Signature) -> AsyncResult[Any]:
        options = sig.options
        task_id = options.get("task_id")
        if task_id is None:
            task_id = options["task_id"] = new_id()
        if self.root_id is not None:
            options.setdefault("root_id", self.root_id)
        ignored = is_ignored(self.app, sig)
        result: AsyncResult[Any] = AsyncResult(task_id, self.app.backend, sig.task, self.app, ignored=ignored)
        wanted = self.reply_to is not None and not ignored
        if wanted and options.setdefault("reply_to", self.reply_to) == self.reply_to:
            result.claim = self.app.backend.expect(task_id)
        return result

    def _chain(self, sig: Signature) -> Result:
        inner = self.under(sig)
        above: Result | None = None
        for step in members(sig):
            result = inner.freeze(step)
            if above is not None:
                hang(result, above)
            above = result
        return AsyncResult(new_id(), self.app.backend, app=self.app) if above is None else above

    def _group(self, sig: Signature) -> GroupResult:
        group_id = sig.options.setdefault("task_id", new_id())
        results = []
        for index, member in enumerate(members(sig)):
            last = _last(member)
            last.setdefault("group_id", group_id)
            last.setdefault("group_index", index)
            results.append(self.freeze(member))
        return GroupResult(group_id, results, app=self.app)

    def _chord(self, sig: Signature) -> Result:
        inner = self.under(sig)
        header = inner._group(sig["kwargs"]["header"])
        body = inner.freeze(sig["kwargs"]["body"])
        hang(body, header)
        return body

    def under(self, sig: Signature) -> Freezing:
        """The first task of a chain or chord is the root of all that follows it, unless there is one above."""
        if self.root_id is not None:
            return self
        first = next(leaves(sig), None)
        if first is None:
            return self
        root_id = first.options.get("root_id") or first.options.setdefault("task_id", new_id())
        return Freezing(self.app, root_id, self.reply_to)


def _last(sig: Signature) -> dict[str, Any]:
    """Return the options of the task that a member of a group ends in; of a group, its own."""
    match kind_of(sig):
        case "chain" if members(sig):
            return _last(members(sig)[-1])
        case "chord":
            return _last(sig["kwargs"]["body"])
    return sig.options


def hang(result: Result, above: Result) -> None:
    """Make `above` the topmost parent of `result`."""
    node: Result = result
    while node.parent is not None:
        if node.parent is above:
            return
        node = node.parent
    if node is not above:
        node.parent = above


def is_ignored(app: Client, sig: Mapping[str, Any]) -> bool:
    """Will this call send no result? Its own word, else the task's, else the setting's."""
    for said in (sig["options"].get("ignore_result"), _preset(app, sig).get("ignore_result")):
        if said is not None:
            return bool(said)
    return bool(app.conf.task_ignore_result)


def _preset(app: Client, sig: Mapping[str, Any]) -> Mapping[str, Any]:
    task = app.tasks.get(sig["task"])
    return {} if task is None else task.preset
