"""Many calls in few messages: one task over many arguments, within one call or a few."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from amqptasks.canvas.primitives import group
from amqptasks.client import Client
from amqptasks.signatures import Signature, signature


def chunks(task: Any, it: Iterable[Any], n: int, *, app: Client | None = None) -> group:
    """Return a group of calls that each take up to `n` lists of arguments: fewer messages for many small
    tasks.
    """
    called = signature(task, app=app)
    elements = iter(it)
    parts = iter(lambda: list(itertools.islice(elements, n)), [])
    return group([_over("celery.starmap", called, part) for part in parts], app=called.app)


def _over(name: str, called: Signature, it: Iterable[Any]) -> Signature:
    """Return one call that runs `called` for each element."""
    return Signature(name, (), {"task": called, "it": list(it)}, immutable=True, app=called.app)


def xmap(task: Any, it: Iterable[Any], *, app: Client | None = None) -> Signature:
    """Return one call that runs the task for each element, one after the other."""
    return _over("celery.map", signature(task, app=app), it)


def xstarmap(task: Any, it: Iterable[Any], *, app: Client | None = None) -> Signature:
    """As `xmap`, where each element is a list of arguments."""
    return _over("celery.starmap", signature(task, app=app), it)
