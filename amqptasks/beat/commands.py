"""What operators tell the leading beat: messages of its queue, and the answers to them. Pure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import orjson

from amqptasks.amqp import TRANSIENT, Address, Envelope, Properties
from amqptasks.beat.entries import Entry, read
from amqptasks.beat.lease import Note
from amqptasks.beat.state import State
from amqptasks.errors import AmqptasksError
from amqptasks.ids import new_id

log = logging.getLogger(__name__)

CHANGING = frozenset({"add", "remove", "pause", "resume"})


def change(
    state: State,
    given: Note,
    entries: Collection[str] | None = None,
    check: Callable[[Entry], str] = lambda _: "",
) -> dict[str, Any]:
    """Carry out a command that changes the state; return its answer.

    `entries` are the known names; None, when a beat takes over, lets every name pass. `check` returns a remark on an
    entry that is added, and raises ImproperlyConfigured for one that cannot be sent.
    """
    said = given.read()
    name, remark = str(said.get("entry")), ""
    if given.kind == "add":
        try:
            remark = check(read(name, said.get("given") or {}))
        except AmqptasksError as error:
            return {"error": str(error)}
        if entries is not None and name in entries and name not in state.added:
            return {"error": f"there is an entry {name!r} in the app's own schedule; choose another name"}
    elif entries is not None and name not in entries:
        return missing(given, entries)
    if not state.command(given.kind, name, said.get("given") or {"at": said.get("at")}):
        return {"error": f"{name!r} is in the app's own schedule, not added at run time; pause it instead"}
    return {"ok": f"{given.kind}: {name}", **({"remark": remark} if remark else {})}


def missing(given: Note, entries: Collection[str]) -> dict[str, Any]:
    """Return the answer when there is no such entry."""
    known = ", ".join(sorted(entries)[:10]) or "none"
    return {"error": f"there is no entry {given.read().get('entry')!r}; entries are {known}"}


def added(state: State) -> dict[str, Entry]:
    """Return the entries added at run time; what cannot be read any more is logged and left out."""
    entries = {}
    for name, line in state.added.items():
        try:
            entries[name] = read(name, line)
        except AmqptasksError as error:
            log.error("beat: %s", error)
    return entries


def reply(given: Note, answer: Mapping[str, Any]) -> Envelope | None:
    """Return the message that carries an answer, where one is wanted."""
    if not given.properties.reply_to:
        return None
    properties = Properties(
        content_type="application/json",
        delivery_mode=TRANSIENT,
        correlation_id=given.id,
        message_id=new_id(),
    )
    return Envelope(Address("", given.properties.reply_to), orjson.dumps(answer), properties, "drop")
