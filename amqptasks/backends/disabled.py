"""`backend=None`: no results at all. No reply queue is declared, and asking for a result says why there is
none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NoReturn

from amqptasks.backends.base import Backend, Meta, Publish
from amqptasks.errors import NoBackend


class DisabledBackend(Backend):
    """Stores nothing, and raises NoBackend where a state is asked for."""

    url = "disabled://"

    def store(self, meta: Meta, publish: Publish) -> None:
        """Do nothing: the task's effects are all it leaves."""

    def _refuse(self, task_id: str) -> NoReturn:
        raise NoBackend(
            f"the result of {task_id} cannot be read: this app was made without a result backend "
            "(backend=None); "
            'make it with backend="rpc://"'
        )

    def fetch(self, task_id: str) -> Meta | None:
        self._refuse(task_id)

    def watch(self, task_ids: Sequence[str], timeout: float | None) -> Iterator[Meta]:
        if task_ids:
            self._refuse(task_ids[0])
        return iter(())

    def forget(self, task_id: str) -> None:
        """Do nothing: nothing is kept."""
