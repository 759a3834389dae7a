"""What hangs on a call: the results of the calls that it made, and of those that they made.

Knows results by what it asks of them: `ready`, `children`, `get`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from amqptasks.errors import ResultError


class Node(Protocol):
    id: str

    @property
    def children(self) -> Sequence[Any]: ...
    def ready(self) -> bool: ...
    def get(self, *args: Any, **kwargs: Any) -> Any: ...


def walk(root: Any, intermediate: bool) -> Iterator[tuple[Any, Any]]:
    """Yield (parent, result) of `root` and all below it, the nearest first.

    What a call called is known when it has ended. One that has not raises ResultError when its turn to be followed
    comes; with `intermediate` it is passed over.
    """
    waiting: deque[tuple[Any, Node]] = deque([(None, root)])
    while waiting:
        parent, node = waiting.popleft()
        yield parent, node
        if node.ready():
            waiting.extend((node, child) for child in node.children)
        elif not intermediate:
            raise ResultError(
                f"what {node.id} called cannot be followed yet: it has not ended; get() it first, use collect(), which "
                "waits, or pass intermediate=True"
            )


def collect(root: Any, intermediate: bool, options: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield (result, value) of `root` and all below it; waits for each by `get(**options)`."""
    for _, node in walk(root, intermediate):
        yield node, node.get(**options)


def graph(root: Any, intermediate: bool) -> dict[Any, list[Any]]:
    """Return each result of the walk with those that it called."""
    found: dict[Any, list[Any]] = {}
    for parent, node in walk(root, intermediate):
        found.setdefault(node, [])
        if parent is not None:
            found[parent].append(node)
    return found
