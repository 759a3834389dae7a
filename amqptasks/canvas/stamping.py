"""Stamps: headers of one's own on every message of a canvas, put there by hand or by a visitor.

Celery's rules. In a signature a stamp is an option under its own name, and `stamped_headers` lists them; in a message
they stand under `stamps`. Pure: changes the signatures that it is given, in place.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from amqptasks.canvas.rules import header_members, members
from amqptasks.options import as_list
from amqptasks.signatures import OPERATIONS, Signature, kind_of, signature

Stamps = dict[str, Any]
_NAMES = "stamped_headers"


class StampingVisitor(ABC):
    """Says which stamps each part of a canvas gets. Every method returns a dictionary of stamps.

    `stamped_headers` in it lists which of its keys are stamps; without it all are.
    """

    @abstractmethod
    def on_signature(self, sig: Signature, **headers: Any) -> Stamps:
        """Called for each task."""

    def on_group_start(self, group: Signature, **headers: Any) -> Stamps:
        return {}

    def on_group_end(self, group: Signature, **headers: Any) -> None:
        """Called when a group's members are stamped."""

    def on_chain_start(self, chain: Signature, **headers: Any) -> Stamps:
        return {}

    def on_chain_end(self, chain: Signature, **headers: Any) -> None:
        """Called when a chain's steps are stamped."""

    def on_chord_header_start(self, sig: Signature, **header: Any) -> Stamps:
        """Called before a chord's header, which is a group to the visitor as well."""
        if kind_of(sig) == "group":
            return self.on_group_start(sig, **header)
        return {}

    def on_chord_header_end(self, sig: Signature, **header: Any) -> None:
        if kind_of(sig) == "group":
            self.on_group_end(sig, **header)

    def on_chord_body(self, sig: Signature, **header: Any) -> Stamps:
        return {}

    def on_callback(self, callback: Signature, **header: Any) -> Stamps:
        return {}

    def on_errback(self, errback: Signature, **header: Any) -> Stamps:
        return {}


def stamp(
    sig: Signature, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
) -> Signature:
    """See `Signature.stamp`."""
    match kind_of(sig):
        case "chain" | "group":
            return _held(sig, visitor, append, headers)
        case "chord":
            return _chord(sig, visitor, append, headers)
    _links(sig, visitor, append, headers)
    said = None if visitor is None else visitor.on_signature(sig, **headers)
    return sig.set(**_merged(sig.options, said, append, headers))


def _held(
    sig: Signature, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
) -> Signature:
    """Stamp the members of a chain or a group, and what hangs on the whole."""
    kind = kind_of(sig)
    said: Stamps | None = None
    if visitor is not None:
        starts = visitor.on_chain_start if kind == "chain" else visitor.on_group_start
        said = starts(sig, **headers)
    merged = _merged(sig.options, said, append, headers)
    _links(sig, visitor, append, merged)
    for member in members(sig):
        stamp(member, visitor, append, merged)
    if visitor is not None:
        ends = visitor.on_chain_end if kind == "chain" else visitor.on_group_end
        ends(sig, **merged)
    return sig


def _chord(
    sig: Signature, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]
) -> Signature:
    said = None if visitor is None else visitor.on_chord_header_start(sig, **headers)
    merged = _merged(sig.options, said, append, headers)
    _links(sig, visitor, append, merged)
    for member in header_members(sig):
        stamp(member, visitor, append, copy.deepcopy(merged))
    if visitor is not None:
        visitor.on_chord_header_end(sig, **merged)
    body = sig["kwargs"].get("body")
    if body is not None:
        said = None if visitor is None else visitor.on_chord_body(sig, **merged)
        stamp(body, visitor, append, _merged(sig.options, said, append, merged))
    return sig


def _links(sig: Signature, visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    """Stamp callbacks and errbacks; with what was asked for, not with the stamps of the task that they hang on."""
    for key in ("link", "link_error"):
        linked = [signature(one, app=sig._app) for one in as_list(sig.options.get(key))]
        for one in linked:
            said: Stamps | None = None
            if visitor is not None:
                told = visitor.on_callback if key == "link" else visitor.on_errback
                said = told(one, **headers)
            stamp(one, visitor, append, _merged({}, said, append, headers))
        if linked:
            sig.options[key] = linked


# --- merging --------------------------------------------------------------------------------------------------


def _merged(
    own: Mapping[str, Any], said: Mapping[str, Any] | None, append: bool, headers: Mapping[str, Any]
) -> Stamps:
    """Return the stamps asked for, below them what the visitor says, below them those that are there."""
    merged = copy.deepcopy(dict(headers))
    merged.setdefault(_NAMES, list(merged))
    for further in (said, {key: own[key] for key in (*as_list(own.get(_NAMES)), _NAMES) if key in own}):
        if further:
            named = {**further, _NAMES: list(further.get(_NAMES) or further)}
            _merge(merged, copy.deepcopy(named), append)
    merged[_NAMES] = list(dict.fromkeys(name for name in merged[_NAMES] if name != _NAMES))
    return merged


def _merge(into: Stamps, further: Stamps, append: bool) -> None:
    for key, value in further.items():
        if key not in into:
            into[key] = value
        elif key == _NAMES:
            into[key] = [*into[key], *value]
        elif isinstance(into[key], dict) and isinstance(value, dict):
            _merge(into[key], value, append)
        elif isinstance(into[key], list) and isinstance(value, list):
            into[key] = [*into[key], *value]
        elif append:
            before = into[key]
            listed = (
                [] if before is None else [before] if isinstance(before, int | float | str) else list(before)
            )
            into[key] = [*listed, value]


OPERATIONS.update(stamp=stamp)
