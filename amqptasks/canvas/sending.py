"""A canvas on its way: shaped, frozen, published in one pipelined batch.

Of a chain the first task is published, the others in its message; of a group every member; of a chord its plan,
then every member of its header. Knows how an app sends; knows nothing of workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from amqptasks.canvas import parts
from amqptasks.canvas.freezing import Freezing, Result
from amqptasks.canvas.rules import leaves, members
from amqptasks.canvas.shaping import JOIN_TIMEOUT, link, link_error, shaped
from amqptasks.client import Client
from amqptasks.errors import TooLarge
from amqptasks.options import moment
from amqptasks.signatures import KINDS, Signature, kind_of, signature
from amqptasks.waiting import joining_allowed, running

WRAPPED = "amqptasks."
"""A step that a worker of Celery's could not publish travels as a call of the built-in task of this prefix."""


def send(sig: Signature) -> Result:
    """Publish a signature that holds others; return the result of the whole once all is confirmed. Blocks."""
    app = sig.app
    run = shaped(sig)
    result = freezing(app, run).freeze(run)
    with app.batch():
        publish(app, run)
    return result


def freezing(app: Client, sig: Signature) -> Freezing:
    """Return how a canvas that is sent here and now is frozen."""
    parent = running.get()
    wanted = parent is None or joining_allowed.get()
    root_id = sig.options.get("root_id")
    if root_id is None and parent is not None:
        root_id = parent.root_id or parent.id
    return Freezing(app, root_id, app.backend.reply_to() if wanted else None)


def publish(app: Client, run: Signature) -> None:
    """Publish a shaped and frozen signature, inside an open batch."""
    match kind_of(run):
        case "chain":
            steps = members(run)
            if steps:
                if any(map(_holds_chord, steps[1:])):
                    app.prepare_entities(
                        parts.internal_entities(app.conf)
                    )  # whoever runs the step before sends there
                rest = [wrapped(step, app) for step in reversed(steps[1:])]
                _publish_first(app, steps[0], rest)
        case "group":
            for member in members(run):
                publish(app, member)
        case "chord":
            _publish_chord(app, run)
        case _:
            run.apply_async()


def _publish_first(app: Client, first: Signature, rest: Sequence[Mapping[str, Any]]) -> None:
    if not rest:
        publish(app, first)
    else:
        first.apply_async(chain=list(rest))


def _publish_chord(app: Client, run: Signature) -> None:
    header, body = run["kwargs"]["header"], run["kwargs"]["body"]
    group_id, count = header.options["task_id"], len(members(header))
    if not count:
        send(body.clone(([],)))
        return
    app.prepare_entities(parts.internal_entities(app.conf))
    app.declare(parts.entity_of(group_id, _wait(header)))
    plan = parts.plan_message(group_id, parts.Plan(body, count), app.conf)
    if len(plan.body) > app.conf.broker_max_message_size:
        raise TooLarge(
            f"the body of a chord has {len(plan.body)} bytes, over the limit of "
            f"{app.conf.broker_max_message_size} (broker_max_message_size); store what is large elsewhere",
            [plan],
        )
    # Confirmed before any member can leave its part: what counts the last part must find the plan.
    app.connection.publish([plan])
    seconds = run.options.get(JOIN_TIMEOUT)
    if seconds is not None:
        expiry, ladder = parts.expiry_message(group_id, float(seconds), app.conf)
        app.prepare_entities(ladder)
        with app.batch() as batch:
            batch.add(expiry)
    for index, member in enumerate(members(header)):
        publish(app, placed(member, parts.Place(group_id, (index,), count)))


def placed(member: Signature, place: parts.Place) -> Signature:
    """Have a shaped member of a header leave its part when it ends; return it."""
    callback, errback = parts.callbacks(place, member.app.conf)
    link(member, callback)
    link_error(member, errback)
    return member


def _wait(header: Signature) -> float:
    """Return the seconds until the last member of a header may start."""
    now = datetime.now(UTC)
    waits = [0.0]
    for member in members(header):
        first = members(member)[0] if kind_of(member) == "chain" else member
        if first.options.get("countdown"):
            waits.append(float(first.options["countdown"]))
        elif first.options.get("eta"):
            due = moment(first.options["eta"], now)
            waits.append(0.0 if due is None else (due - now).total_seconds())
    return max(waits)


# --- steps that travel ----------------------------------------------------------------------------------------


def wrapped(step: Signature, app: Client) -> Mapping[str, Any]:
    """Return a step as it travels in a chain: a chord as a call of `amqptasks.chord`, which any worker can send."""
    if not _holds_chord(step):
        return step
    return {
        "task": f"{WRAPPED}{kind_of(step)}",
        "args": list(step.args),
        "kwargs": {"canvas": {"kwargs": step.kwargs, "options": step.options}},
        "options": {**parts.internal_options(app.conf), **_told(step)},
        "subtask_type": None,
        "immutable": step.immutable,
    }


def _told(step: Signature) -> dict[str, Any]:
    """Return what makes a worker of Celery's, when a task before fails, tell the caller who waits for this step."""
    *_, last = leaves(step)
    return {key: last.options[key] for key in ("task_id", "reply_to") if key in last.options}


def held(kind: str, args: Sequence[Any], kwargs: Mapping[str, Any], app: Client) -> Signature:
    """Return what a call of `amqptasks.chain`, `group` or `chord` is to send: what its `canvas` says; without it, what
    its own keywords say."""
    canvas = kwargs.get("canvas")
    said = {"kwargs": kwargs, "options": {}} if canvas is None else canvas
    stored = {"task": f"celery.{kind}", "subtask_type": kind, "args": args, "immutable": False, **said}
    return signature(stored, app=app)


def unwrapped(step: Mapping[str, Any], app: Client) -> Signature:
    """Return the signature of a step that came in a message."""
    name = str(step.get("task"))
    kind = name.removeprefix(WRAPPED)
    canvas = (step.get("kwargs") or {}).get("canvas")
    if canvas is None or not name.startswith(WRAPPED) or kind not in KINDS:
        return signature(step, app=app)
    stored = {**canvas, "args": step.get("args") or (), "immutable": step.get("immutable")}
    return signature({"task": f"celery.{kind}", "subtask_type": kind, **stored}, app=app)


def _holds_chord(sig: Signature) -> bool:
    match kind_of(sig):
        case "chord":
            return True
        case "chain" | "group":
            return any(map(_holds_chord, members(sig)))
    return False


def then(sig: Signature, rest: Sequence[Mapping[str, Any]], app: Client) -> Signature:
    """Return `sig` with the rest of a chain after it; `rest` is reversed, as it travels."""
    if not rest:
        return sig
    steps = [sig, *(unwrapped(step, app) for step in reversed(rest))]
    return KINDS["chain"]({"kwargs": {"tasks": steps}}, app)
