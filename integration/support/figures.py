"""What a run counted, as one line: the base of each test's own figures."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Figures:
    """Add the fields that are counted; `str` shows them all."""

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))
