"""`repr` for logs, monitors and other people's values: bounded in time and length, and it never raises."""

from __future__ import annotations

import reprlib
from typing import Any

LENGTH = 1024
"""Characters at most, as in Celery's `argsrepr`."""
_SMALL = 16_384
"""Bytes of an encoded value up to which writing the whole `repr`, then cutting it, is quick enough."""


class _Brief(reprlib.Repr):
    """A repr that looks at the beginning of everything: a million elements cost no more than thirty."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxtuple = self.maxlist = self.maxdict = self.maxset = self.maxfrozenset = self.maxdeque = 30
        self.maxstring = self.maxlong = self.maxother = 300

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value) if len(value) <= self.maxother else f"{value[: self.maxother]!r}..."


_brief = _Brief().repr


def shown(value: Any, size: int = 0, most: int = LENGTH) -> str:
    """Return `repr(value)`, cut to `most`; of a value whose encoded `size` is large, the beginning."""
    try:
        text = repr(value) if size <= _SMALL else _brief(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose repr() raised {type(error).__name__}>"
    return text if len(text) <= most else f"{text[: max(0, most - 3)]}..."
