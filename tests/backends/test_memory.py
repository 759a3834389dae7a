"""The memory backend."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from amqptasks import states
from amqptasks.backends.base import Backend, Meta
from amqptasks.backends.memory import MemoryBackend
from tests.backends.contract import BackendContract


def _never(envelope: Any) -> None:
    raise AssertionError("the memory backend publishes nothing")


class TestMemoryBackend(BackendContract):
    @pytest.fixture
    def backend(self) -> Backend:
        return MemoryBackend(f"memory://{uuid.uuid4()}")

    def store(self, backend: Backend, call: tuple[str, str | None], status: str, result: Any = None) -> None:
        backend.store(Meta(task_id=call[0], status=status, result=result), _never)

    def test_backends_of_one_name_share_their_states(self, backend: Backend) -> None:
        other = MemoryBackend(backend.url)
        self.store(other, ("t1", None), states.SUCCESS, 4)

        meta = backend.fetch("t1")

        assert meta is not None
        assert meta.result == 4

    def test_a_late_started_does_not_hide_the_value(self, backend: Backend) -> None:
        self.store(backend, ("t1", None), states.SUCCESS, 4)
        self.store(backend, ("t1", None), states.STARTED)

        meta = backend.fetch("t1")

        assert meta is not None
        assert meta.status == states.SUCCESS

    def test_states_expire(self) -> None:
        backend = MemoryBackend(f"memory://{uuid.uuid4()}", expires=0.0)
        self.store(backend, ("t1", None), states.SUCCESS, 4)
        self.store(backend, ("t2", None), states.SUCCESS, 4)

        assert backend.fetch("t1") is None
