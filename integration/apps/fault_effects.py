"""A file of effects: who started and finished what, in which process. Survives every kill."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

WIDTH = len("S 000000 0000000\n")


@dataclass(frozen=True)
class Effect:
    kind: str
    """S: started, F: finished."""
    number: int
    pid: int


class Effects:
    """Appends and reads lines of one width; O_APPEND and a single write make each of them whole."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None
        self._read: list[Effect] = []

    def add(self, kind: str, number: int) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(self._descriptor, f"{kind} {number:06d} {os.getpid():07d}\n".encode())

    def all(self) -> list[Effect]:
        """Every effect so far, in order; reads only what is new."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                file.seek(len(self._read) * WIDTH)
                for line in file.read().splitlines():
                    kind, number, pid = line.split()
                    self._read.append(Effect(kind.decode(), int(number), int(pid)))
        return self._read

    def counts(self, kind: str) -> Counter[int]:
        """How often each number started ("S") or finished ("F")."""
        return Counter(effect.number for effect in self.all() if effect.kind == kind)

    @property
    def finished(self) -> int:
        """Numbers that finished, each counted once."""
        return len(self.counts("F"))

    def running(self) -> list[Effect]:
        """The starts that their own process has not finished, latest last."""
        open_ = {}
        for effect in self.all():
            if effect.kind == "S":
                open_[effect.pid] = effect
            else:
                open_.pop(effect.pid, None)
        return list(open_.values())
