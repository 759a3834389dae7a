"""What every result backend does: states stored under an id come out of it, newest last, without polling.

A test module subclasses `BackendContract` and says by the fixture `backend` what is tested.
"""

from __future__ import annotations

import builtins
import threading
from typing import Any

import pytest

from amqptasks import states
from amqptasks.backends.base import Backend, Meta
from amqptasks.errors import TimeoutError


class BackendContract:
    """`store(meta)` must bring the state to `backend` as a worker would."""

    def call(self, backend: Backend, task_id: str = "t1") -> tuple[str, str | None]:
        """Announce a call; return its id and where its states go."""
        reply_to = backend.reply_to()
        self.claims = [*getattr(self, "claims", []), backend.expect(task_id)]
        return task_id, reply_to

    def store(self, backend: Backend, call: tuple[str, str | None], status: str, result: Any = None) -> None:
        raise NotImplementedError

    def final(self, backend: Backend, *ids: str, timeout: float = 5.0) -> dict[str, Meta]:
        return {meta.task_id: meta for meta in backend.watch(list(ids), timeout) if meta.ready}

    def test_a_value_comes_out_as_it_went_in(self, backend: Backend) -> None:
        call = self.call(backend)
        self.store(backend, call, states.SUCCESS, {"sum": [1, 2, None, "ü"]})

        meta = self.final(backend, "t1")["t1"]

        assert (meta.status, meta.result) == (states.SUCCESS, {"sum": [1, 2, None, "ü"]})
        assert backend.fetch("t1") == meta

    def test_an_exception_comes_out_with_class_and_arguments(self, backend: Backend) -> None:
        call = self.call(backend)
        self.store(backend, call, states.FAILURE, KeyError("k", 3))

        meta = self.final(backend, "t1")["t1"]

        assert isinstance(meta.result, KeyError)
        assert meta.result.args == ("k", 3)

    def test_nothing_is_known_before_the_first_state(self, backend: Backend) -> None:
        self.call(backend)

        assert backend.fetch("t1") is None

    def test_states_arrive_in_order_until_the_last(self, backend: Backend) -> None:
        call = self.call(backend)
        arriving = backend.watch(["t1"], 5.0)
        self.store(backend, call, states.STARTED, {"pid": 1})
        first = next(arriving)
        self.store(backend, call, states.SUCCESS, 4)
        rest = list(arriving)

        assert first.status == states.STARTED
        assert [meta.status for meta in rest] == [states.SUCCESS]

    def test_a_waiting_thread_is_woken(self, backend: Backend) -> None:
        call = self.call(backend)
        found: list[Meta] = []
        waiting = threading.Thread(target=lambda: found.extend(backend.watch(["t1"], 5.0)))
        waiting.start()
        self.store(backend, call, states.SUCCESS, 4)
        waiting.join(5.0)

        assert [meta.result for meta in found] == [4]

    def test_many_are_gathered_in_one_pass(self, backend: Backend) -> None:
        calls = [self.call(backend, f"t{number}") for number in range(200)]
        for number, call in enumerate(calls):
            self.store(backend, call, states.SUCCESS, number)

        found = self.final(backend, *(id for id, _ in calls))

        assert {id: meta.result for id, meta in found.items()} == {f"t{n}": n for n in range(200)}

    def test_several_threads_may_wait_for_one_result(self, backend: Backend) -> None:
        call = self.call(backend)
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda: found.append(self.final(backend, "t1")["t1"].result))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        self.store(backend, call, states.SUCCESS, 4)
        for thread in threads:
            thread.join(5.0)

        assert found == [4] * 8

    def test_a_wait_ends_at_its_timeout_and_says_what_is_known(self, backend: Backend) -> None:
        call = self.call(backend)
        self.store(backend, call, states.STARTED, {"pid": 1})

        with pytest.raises(TimeoutError, match=r"t1.*0\.2 s.*STARTED") as caught:
            list(backend.watch(["t1"], 0.2))

        assert isinstance(caught.value, builtins.TimeoutError)

    def test_what_is_forgotten_is_not_known_any_more(self, backend: Backend) -> None:
        call = self.call(backend)
        self.store(backend, call, states.SUCCESS, 4)
        self.final(backend, "t1")

        backend.forget("t1")

        assert backend.fetch("t1") is None

    def test_watching_nothing_ends_at_once(self, backend: Backend) -> None:
        assert list(backend.watch([], None)) == []
