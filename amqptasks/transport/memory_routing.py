"""Exchanges of the in-process broker: which queues a message reaches. Holds no messages and takes no lock."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from amqptasks.amqp import Binding, Exchange

TYPES = ("direct", "fanout", "topic", "headers")
PREDECLARED = tuple(
    Exchange(name, kind)
    for name, kind in (
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    )
)


@dataclass(slots=True, eq=False)
class MemoryExchange:
    """A declared exchange and what is bound to it."""

    spec: Exchange
    bindings: list[Binding] = field(default_factory=list)
    _by_key: dict[str, list[Binding]] = field(default_factory=dict)

    def bind(self, binding: Binding) -> None:
        if binding not in self.bindings:
            self.bindings.append(binding)
            self._by_key.setdefault(binding.routing_key, []).append(binding)

    def unbind(self, kind: str, name: str) -> bool:
        """Remove every binding to a destination that is gone; return whether none is left now."""
        kept = [each for each in self.bindings if (each.kind, each.destination) != (kind, name)]
        went = len(kept) < len(self.bindings)
        self.bindings = kept
        self._by_key = {}
        for each in kept:
            self._by_key.setdefault(each.routing_key, []).append(each)
        return went and not kept

    def matching(self, routing_key: str, headers: Mapping[str, Any]) -> Iterator[Binding]:
        """Yield the bindings that take this message."""
        match self.spec.type:
            case "direct":
                yield from self._by_key.get(routing_key, ())
            case "fanout":
                yield from self.bindings
            case "topic":
                key = words(routing_key)
                yield from (each for each in self.bindings if topic_matches(words(each.routing_key), key))
            case _:
                yield from (each for each in self.bindings if headers_match(each.arguments, headers))


def words(key: str) -> tuple[str, ...]:
    return tuple(key.split(".")) if key else ()


@functools.lru_cache(maxsize=4096)
def topic_matches(pattern: tuple[str, ...], key: tuple[str, ...]) -> bool:
    """`*` stands for one word, `#` for any number of words."""
    if not pattern:
        return not key
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(topic_matches(rest, key[start:]) for start in range(len(key) + 1))
    return bool(key) and head in ("*", key[0]) and topic_matches(rest, key[1:])


def headers_match(wanted: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """`x-match` is all (the default) or any; names in `x-` count only for the `-with-x` variants."""
    how = wanted.get("x-match", "all")
    names = [
        name
        for name in wanted
        if name != "x-match" and (str(how).endswith("-with-x") or not name.startswith("x-"))
    ]
    found = (name in headers and wanted[name] in (None, headers[name]) for name in names)
    return any(found) if str(how).startswith("any") else all(found)
