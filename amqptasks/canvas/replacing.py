"""What a running task may do to the workflow that it is part of: be replaced, or add a member to its chord.

A part of `Task`. Knows requests and canvases; knows nothing of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from amqptasks import batch
from amqptasks.canvas import parts, sending
from amqptasks.canvas.rules import leaves, members
from amqptasks.canvas.shaping import link, link_error, shaped, single
from amqptasks.client import Client
from amqptasks.errors import Ignore, ImproperlyConfigured
from amqptasks.options import as_list
from amqptasks.request import Request
from amqptasks.signatures import Signature, kind_of, signature


class Running(Protocol):
    """What is needed of the task."""

    name: str

    @property
    def app(self) -> Client: ...
    @property
    def request(self) -> Request: ...
    def on_replace(self, sig: Signature) -> Any: ...


class Replaceable:
    """The methods of a task that change the workflow it runs in."""

    def replace(self: Running, sig: Any) -> Any:
        """Run `sig` in place of this call: it gets its id, callbacks, stamps, its place in a chord, what follows it.

        Does not return: raises Ignore, and `sig` is published with this run's outcome (eager: returns its value).
        A group, and a chain that ends in one, give the list of their values. Raises ImproperlyConfigured for an
        empty chain, and what composing messages raises.
        """
        return self.on_replace(replacement(self.app, self.request, signature(sig, app=self.app), self.name))

    def on_replace(self: Running, sig: Signature) -> Any:
        """End this run, so that the replacement leaves with its outcome. Called by `replace`."""
        request = self.request
        if request.is_eager:
            return sig.apply().get(disable_sync_subtasks=False)
        gathering = batch.Gathering(self.app, answers=True)
        token = batch.current.set(gathering)
        try:
            sending.send(sig)
        finally:
            batch.current.reset(token)
        request.replaced = gathering.envelopes
        raise Ignore("replaced by another task")

    def add_to_chord(self: Running, sig: Any, lazy: bool = False) -> Any:
        """Add a member to the chord that this call is a member of; its value comes after those of the others.

        Returns its result; with `lazy` the signature, which is to be called. The chord waits for it because
        this call's own part says so: return, do not fail, after it. Raises ValueError outside of a chord.
        """
        request = self.request
        place = parts.place_in(request.callbacks)
        if place is None:
            raise ValueError(f"{self.name}[{request.id}] is in no chord, so nothing can be added to it")
        extra = place.extra + 1
        for linked in (*(request.callbacks or ()), *(request.errbacks or ())):
            if linked.get("task") == parts.PART:
                linked["kwargs"]["extra"] = extra
        added = single(shaped(signature(sig, app=self.app)))
        for task in leaves(added):
            task.options.setdefault("root_id", request.root_id)
        index = (*place.index, extra)
        member = sending.placed(added, parts.Place(place.chord, index, place.size))
        return member if lazy else member.delay()


def replacement(app: Client, request: Request, sig: Signature, name: str) -> Signature:
    """Return what runs in place of `request`. Raises ImproperlyConfigured."""
    if kind_of(sig) == "chain" and not members(sig):
        raise ImproperlyConfigured(f"{name} cannot be replaced by an empty chain: there is nothing to run")
    run = single(shaped(sig))
    for callback in request.callbacks or ():
        link(run, callback)
    for errback in request.errbacks or ():
        link_error(run, errback)
    nesting = request.replaced_task_nesting + 1
    for task in leaves(run):
        task.options["replaced_task_nesting"] = nesting
        if request.root_id:
            task.options["root_id"] = request.root_id
        _stamp(task, request)
    _take_the_place(run, request)
    rest = [_nested(step, nesting) for step in request.chain or ()]
    return sending.then(run, rest, app)


def _take_the_place(run: Signature, request: Request) -> None:
    """The task that gives the value has the id that the caller, or the chain, waits for."""
    match kind_of(run):
        case "chain":
            _take_the_place(members(run)[-1], request)
        case "chord":
            _take_the_place(run["kwargs"]["body"], request)
        case _:
            given = {
                "task_id": request.id,
                "group_id": request.group,
                "group_index": request.group_index,
                "reply_to": request.reply_to,
                "correlation_id": request.correlation_id,
                "ignore_result": request.ignore_result,
            }
            run.options.update({key: value for key, value in given.items() if value is not None})


def _stamp(task: Signature, request: Request) -> None:
    """Stamps of the replaced call, below those that the replacement has."""
    names = [*(request.stamped_headers or ())]
    if not names:
        return
    own = as_list(task.options.get("stamped_headers"))
    for key in names:
        if key in request.stamps:
            task.options.setdefault(key, request.stamps[key])
    task.options["stamped_headers"] = list(dict.fromkeys([*own, *names]))


def _nested(step: Mapping[str, Any], nesting: int) -> Mapping[str, Any]:
    options = {**(step.get("options") or {}), "replaced_task_nesting": nesting}
    return {**step, "options": options} if not str(step["task"]).startswith(sending.WRAPPED) else step
