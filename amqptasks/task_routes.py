"""The setting `task_routes`, read once: names, globs, regular expressions and functions, all as functions.

Knows no queues: what a route answers are options, `queue` among them, for `routing` to make an address of.
"""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from amqptasks.errors import ImproperlyConfigured
from amqptasks.topology import Queue

Options = Mapping[str, Any]
Answer = Mapping[str, Any] | None
Ask = Callable[[str, Sequence[Any], Mapping[str, Any], Options, Any], Answer]
"""(task name, args, kwargs, the call's options, the task) -> the route's options; None: ask the next."""


def read(given: Any) -> Iterable[Ask]:
    """Return one function for each route in the setting. A list of (pattern, target) pairs is one route.

    Raises ImproperlyConfigured for what is no route.
    """
    if given is None:
        return
    routes = given if isinstance(given, list | tuple) and not _is_pair(given) else [given]
    pairs = [route for route in routes if _is_pair(route)]
    if pairs and len(pairs) == len(routes):
        yield ByName(pairs)
        return
    for route in routes:
        if isinstance(route, Mapping):
            yield ByName(route.items())
        elif _is_pair(route):
            yield ByName([route])
        elif isinstance(route, list | tuple):
            yield ByName(route)
        elif isinstance(route, str):
            yield _Named(route)
        elif callable(route) or hasattr(route, "route_for_task"):
            yield _by_function(route)
        else:
            raise ImproperlyConfigured(
                f"task_routes cannot hold {route!r}; write a dict, a function, or a function's dotted name"
            )


def _is_pair(route: Any) -> bool:
    return (
        isinstance(route, tuple)
        and len(route) == 2
        and isinstance(route[0], str | re.Pattern)
        and (isinstance(route[1], Mapping | Queue) or isinstance(route[0], re.Pattern))
    )


class ByName:
    """A route by names and patterns: it says beforehand where calls may go."""

    def __init__(self, pairs: Iterable[Any]) -> None:
        self._exact: dict[str, Answer] = {}
        self._patterns: list[tuple[re.Pattern[str], Answer]] = []
        self.answers: dict[str, Options] = {}
        """What it answers, by where that stands in the settings."""
        for pattern, target in pairs:
            where = f"task_routes[{getattr(pattern, 'pattern', pattern)!r}]"
            answer = _answer(target, where)
            if answer:
                self.answers[where] = answer
            if isinstance(pattern, re.Pattern):
                self._patterns.append((pattern, answer))
            elif any(wild in pattern for wild in "*?["):
                self._patterns.append((re.compile(fnmatch.translate(pattern)), answer))
            else:
                self._exact[pattern] = answer

    def __call__(self, name: str, args: Any, kwargs: Any, options: Any, task: Any) -> Answer:
        if name in self._exact:
            return self._exact[name]
        return next((answer for pattern, answer in self._patterns if pattern.match(name)), None)

    @property
    def queues(self) -> list[Any]:
        """The queues in it, as they are given there: names or values."""
        return [answer["queue"] for answer in self.answers.values() if answer.get("queue")]


def _by_function(route: Any) -> Ask:
    old = getattr(route() if isinstance(route, type) else route, "route_for_task", None)

    def ask(name: str, args: Any, kwargs: Any, options: Any, task: Any) -> Answer:
        found = old(name, args, kwargs) if old else route(name, args, kwargs, options, task=task)
        return _answer(found, f"what the router {route!r} returned")

    return ask


def _answer(target: Any, where: str) -> Answer:
    if target is None or isinstance(target, Mapping):
        return target
    if isinstance(target, str) or hasattr(target, "routing_key"):
        return {"queue": target}
    raise ImproperlyConfigured(
        f"{where} is {target!r}; it must be a queue's name, a dict of options, or None"
    )


class _Named:
    """A router given by its dotted name, imported when it is first asked: its module may import the app."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._ask: Ask | None = None

    def __call__(self, name: str, args: Any, kwargs: Any, options: Any, task: Any) -> Answer:
        if self._ask is None:
            self._ask = _by_function(self._load())
        return self._ask(name, args, kwargs, options, task)

    def _load(self) -> Any:
        module, _, attribute = self.path.replace(":", ".").rpartition(".")
        try:
            return getattr(importlib.import_module(module or attribute), attribute)
        except (ImportError, AttributeError) as error:
            raise ImproperlyConfigured(
                f"task_routes names {self.path!r}, which cannot be imported: {error}; write "
                "'module.function', or a dict {'task.*': 'queue'}"
            ) from error
