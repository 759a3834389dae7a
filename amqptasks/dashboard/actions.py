"""The buttons: what each does, what it needs, and the question that the dangerous ones ask first.

A form goes to `/do/NAME`. Without `sure` a dangerous one only gets its question; so it is without a script, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from amqptasks.dashboard.guard import TOKEN_FIELD, Visit, visit_of
from amqptasks.dashboard.rendering import Renderer, Told, own_address
from amqptasks.dashboard.wording import plural, sentence
from amqptasks.errors import AmqptasksError
from amqptasks.monitor.observer import Observer
from amqptasks.monitor.snapshot import Answer

LONGEST_NAME = 255
MOST_CHILDREN = 1000
_RATE = re.compile(r"\d+(\.\d+)?(/[smh])?")

Run = Callable[[Observer, Visit], Sequence[Answer]]


class BadForm(Exception):
    """What was filled in cannot be done; the message is a sentence for the visitor."""


@dataclass(frozen=True, slots=True)
class Action:
    """A button. `question` is asked before, and says what will be lost."""

    title: str
    run: Run
    question: Callable[[Visit], str] | None = None


@dataclass(frozen=True, slots=True)
class Actions:
    """Answers the forms of one dashboard."""

    observer: Observer
    renderer: Renderer

    def do(self, request: Request) -> Response:
        action = ACTIONS.get(request.path_params["name"])
        visit = visit_of(request)
        back = own_address(visit.field("back", "/"))
        if action is None:
            return self.renderer.refuse(request, 404, "There is no such button.", "Load the page again.")
        try:
            if action.question is not None and visit.field("sure") != "yes":
                return self._ask(request, visit, action, back)
            told = _told(action, action.run(self.observer, visit))
        except (BadForm, AmqptasksError) as error:
            told = [("bad", sentence(str(error)))]
        return self.renderer.back(request, back, told)

    def _ask(self, request: Request, visit: Visit, action: Action, back: str) -> Response:
        assert action.question is not None
        kept = [
            (name, value)
            for name, values in visit.form.items()
            if name not in (TOKEN_FIELD, "sure", "back")
            for value in values
        ]
        return self.renderer.page(
            request,
            "confirm.html",
            title=action.title,
            question=action.question(visit),
            kept=kept,
            back=back,
        )


def _told(action: Action, answers: Sequence[Answer]) -> list[Told]:
    if not answers:
        return [("warn", f"{action.title}: no worker answered. It may still act on it, if it is busy.")]
    return [
        ("good" if answer.ok else "bad", f"{answer.node}: {answer.text}" if answer.node else answer.text)
        for answer in answers
    ]


# --- what the forms say ----------------------------------------------------------------------------------


def _name(visit: Visit, field: str, what: str) -> str:
    found = visit.field(field)
    if not found:
        raise BadForm(f"Name {what}.")
    if len(found) > LONGEST_NAME:
        raise BadForm(f"No name has more than {LONGEST_NAME} characters.")
    return found


def _node(visit: Visit) -> str:
    return _name(visit, "node", "the worker")


def _queue(visit: Visit) -> str:
    return _name(visit, "queue", "the queue")


def _id(visit: Visit) -> str:
    return _name(visit, "id", "the call")


def _calls(visit: Visit) -> str | tuple[str, ...]:
    """Return the call of a button of its own, or those that are marked."""
    ids = tuple(name for name in visit.form.get("id", ()) if name)
    if not ids:
        raise BadForm("Nothing is selected: mark some calls first.")
    if any(len(name) > LONGEST_NAME for name in ids):
        raise BadForm(f"No id has more than {LONGEST_NAME} characters.")
    return ids[0] if len(ids) == 1 else ids


def _some(visit: Visit) -> str | None:
    """Return the worker that is meant, or None for all of them."""
    return visit.field("node") or None


def _count(visit: Visit, field: str, least: int = 1) -> int:
    text = visit.field(field)
    if not re.fullmatch(r"[0-9]{1,4}", text) or not least <= int(text) <= MOST_CHILDREN:
        raise BadForm(f"{text!r} is no number from {least} to {MOST_CHILDREN}.")
    return int(text)


def _rate(visit: Visit) -> str:
    text = visit.field("rate")
    if not _RATE.fullmatch(text):
        raise BadForm(f"{text!r} is no rate; write for example 10/s, 100/m or 1000/h, or 0 for no limit.")
    return text


def _seconds(visit: Visit, field: str) -> float | None:
    text = visit.field(field)
    if not text:
        return None
    if not re.fullmatch(r"\d{1,7}(\.\d{1,3})?", text) or not float(text):
        raise BadForm(f"{text!r} is no number of seconds.")
    return float(text)


def _letters(visit: Visit) -> tuple[str | None, tuple[str, ...], int | None]:
    """Return the queue, and the ids that are meant or, for `all`, how many: what has died since was not seen."""
    queue = visit.field("queue") or None
    if visit.field("all"):
        return queue, (), int(visit.field("total")) if visit.field("total").isdecimal() else None
    ids = tuple(name for name in visit.form.get("id", ()) if name)
    if not ids:
        raise BadForm("Nothing is selected: mark some dead letters first.")
    return queue, ids, None


def _which(visit: Visit) -> str:
    queue, ids, most = _letters(visit)
    if ids:
        return plural(len(ids), "dead letter")
    many = f"the {plural(most, 'dead letter')}" if most else "all dead letters"
    return f"{many} of {queue or 'all queues'}"


# --- what they do ----------------------------------------------------------------------------------------


def _purge(observer: Observer, visit: Visit) -> Sequence[Answer]:
    queue = _queue(visit)
    return (Answer(text=f"{plural(observer.purge(queue), 'message')} of {queue} removed."),)


def _replay(observer: Observer, visit: Visit) -> Sequence[Answer]:
    queue, ids, most = _letters(visit)
    return (observer.replay_dead(queue, ids=ids, limit=most),)


def _drop(observer: Observer, visit: Visit) -> Sequence[Answer]:
    queue, ids, most = _letters(visit)
    return (observer.drop_dead(queue, ids=ids, limit=most),)


def _autoscale(observer: Observer, visit: Visit) -> Sequence[Answer]:
    most, least = _count(visit, "most"), _count(visit, "least", 0)
    if least > most:
        raise BadForm(f"The least, {least}, is more than the most, {most}.")
    return observer.autoscale(_node(visit), most, least)


def _time_limit(observer: Observer, visit: Visit) -> Sequence[Answer]:
    soft, hard = _seconds(visit, "soft"), _seconds(visit, "hard")
    return observer.time_limit(_name(visit, "task", "the task"), soft, hard, _some(visit))


ACTIONS = {
    "revoke": Action("Revoke", lambda observer, visit: observer.revoke(_calls(visit))),
    "terminate": Action(
        "Terminate",
        lambda observer, visit: observer.revoke(_id(visit), terminate=True, signal="SIGTERM"),
        lambda visit: (
            f"The process that runs {_id(visit)} is ended now, in the middle of what it does. "
            "The call will not run again."
        ),
    ),
    "rate_limit": Action(
        "Rate limit",
        lambda observer, visit: observer.rate_limit(
            _name(visit, "task", "the task"), _rate(visit), _some(visit)
        ),
    ),
    "time_limit": Action("Time limit", _time_limit),
    "pool_grow": Action("Grow", lambda observer, visit: observer.pool_grow(_node(visit), _count(visit, "n"))),
    "pool_shrink": Action(
        "Shrink", lambda observer, visit: observer.pool_shrink(_node(visit), _count(visit, "n"))
    ),
    "autoscale": Action("Autoscale", _autoscale),
    "pool_restart": Action(
        "Restart the pool",
        lambda observer, visit: observer.pool_restart(_node(visit)),
        lambda visit: f"The children of {_node(visit)} are replaced by new ones, which load the app anew.",
    ),
    "add_consumer": Action(
        "Consume", lambda observer, visit: observer.add_consumer(_queue(visit), _some(visit))
    ),
    "cancel_consumer": Action(
        "Stop consuming",
        lambda observer, visit: observer.cancel_consumer(_queue(visit), _some(visit)),
        lambda visit: (
            f"{_some(visit) or 'Every worker'} takes nothing more from {_queue(visit)}, until it is told "
            "to consume it or starts anew. What it holds still runs."
        ),
    ),
    "enable_events": Action(
        "Switch task events on", lambda observer, visit: observer.enable_events(_some(visit))
    ),
    "disable_events": Action(
        "Switch task events off", lambda observer, visit: observer.disable_events(_some(visit))
    ),
    "shutdown": Action(
        "Shut down",
        lambda observer, visit: observer.shutdown(_node(visit)),
        lambda visit: (
            f"{_node(visit)} finishes the calls that it runs, gives the others back to the broker, and "
            "ends. Nothing here can start it again."
        ),
    ),
    "purge": Action(
        "Purge",
        _purge,
        lambda visit: f"All messages that wait in {_queue(visit)} are removed. There is no way back.",
    ),
    "replay": Action(
        "Replay",
        _replay,
    ),
    "replay_all": Action(
        "Replay all",
        _replay,
        lambda visit: f"This sends {_which(visit)} back to the queues that they died in, to run again.",
    ),
    "drop": Action(
        "Drop",
        _drop,
        lambda visit: f"This removes {_which(visit)}. There is no way back.",
    ),
    "schedule_pause": Action(
        "Pause", lambda observer, visit: (observer.schedule_pause(_name(visit, "entry", "the entry")),)
    ),
    "schedule_resume": Action(
        "Resume", lambda observer, visit: (observer.schedule_resume(_name(visit, "entry", "the entry")),)
    ),
    "schedule_run": Action(
        "Run now", lambda observer, visit: (observer.schedule_run(_name(visit, "entry", "the entry")),)
    ),
    "schedule_remove": Action(
        "Remove",
        lambda observer, visit: (observer.schedule_remove(_name(visit, "entry", "the entry")),),
        lambda visit: f"The entry {_name(visit, 'entry', 'the entry')} is removed from the schedule.",
    ),
}
