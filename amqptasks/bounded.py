"""Dictionaries that are kept from growing: the oldest entries go. Knows nothing of what is in them."""

from __future__ import annotations

from itertools import islice
from typing import Any, TypeVar

K = TypeVar("K")


def drop_oldest(known: dict[K, Any], limit: int) -> list[K]:
    """Remove the oldest keys of a dictionary that holds more than `limit`, and return them.

    A sixteenth goes at once: a dictionary steps over all that was removed from its beginning to find its first key,
    which for each new key anew costs as much as a hundred insertions.
    """
    excess = len(known) - limit
    if excess <= 0:
        return []
    keys = list(islice(known, excess + limit // 16))
    for key in keys:
        del known[key]
    return keys
