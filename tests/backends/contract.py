"""What every result backend does: states stored under an id come out of it, newest last, without polling.

A test module subclasses `BackendContract` and says by the fixture `backend` what is tested.
"""

from __future__ import annotations

import builtins
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from amqptasks import states
from amqptasks.backends.base import Backend, Meta
from amqptasks.backends.stored import StoreOptions
from amqptasks.backends.wire import ResultFormat
from amqptasks.errors import ContentDisallowed, TimeoutError, TooLarge
from amqptasks.serialization import accept_set

PATIENCE = 60.0
"""Seconds for what comes: a server may share a busy machine."""


class BackendContract:
    """`store(meta)` must bring the state to `backend` as a worker would."""

    def call(self, backend: Backend, task_id: str = "t1") -> tuple[str, str | None]:
        """Announce a call; return its id and where its states go."""
        reply_to = backend.reply_to()
        self.claims = [*getattr(self, "claims", []), backend.expect(task_id)]
        return task_id, reply_to

    def store(self, backend: Backend, call: tuple[str, str | None], status: str, result: Any = None) -> None:
        raise NotImplementedError

    def final(self, backend: Backend, *ids: str, timeout: float = PATIENCE) -> dict[str, Meta]:
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
        arriving = backend.watch(["t1"], PATIENCE)
        self.store(backend, call, states.STARTED, {"pid": 1})
        first = next(arriving)
        self.store(backend, call, states.SUCCESS, 4)
        rest = list(arriving)

        assert first.status == states.STARTED
        assert [meta.status for meta in rest] == [states.SUCCESS]

    def test_a_waiting_thread_is_woken(self, backend: Backend) -> None:
        call = self.call(backend)
        found: list[Meta] = []
        waiting = threading.Thread(target=lambda: found.extend(backend.watch(["t1"], PATIENCE)))
        waiting.start()
        self.store(backend, call, states.SUCCESS, 4)
        waiting.join(PATIENCE)

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
            thread.join(PATIENCE)

        assert found == [4] * 8

    def test_a_wait_ends_at_its_timeout_and_says_what_is_known(self, backend: Backend) -> None:
        call = self.call(backend)
        self.store(backend, call, states.STARTED, {"pid": 1})
        next(iter(backend.watch(["t1"], PATIENCE)))  # it has come

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


OPTIONS = StoreOptions(format=ResultFormat(), interval=0.05, patience=60.0)


def _never(envelope: Any) -> None:
    raise AssertionError("a store publishes nothing")


class StoreContract(BackendContract):
    """What every store does besides: any process reads it, it expires, it keeps groups.

    A test module says by the fixture `url` where the store is, and by `open` how it is opened.
    """

    def open(self, url: str, options: StoreOptions = OPTIONS) -> Backend:
        raise NotImplementedError

    @pytest.fixture
    def backend(self, url: str) -> Iterator[Backend]:
        opened = self.open(url)
        # A server is shared by the tests: what each of them calls t1 is another's.
        opened.forget("t1")
        yield opened
        opened.close()

    def store(self, backend: Backend, call: tuple[str, str | None], status: str, result: Any = None) -> None:
        backend.store(Meta(task_id=call[0], status=status, result=result), _never)

    def test_another_client_reads_what_one_stored(self, backend: Backend, url: str) -> None:
        meta = Meta(
            task_id="t1",
            status=states.FAILURE,
            result=KeyError("k"),
            traceback="where",
            children=((("c", None), None),),
            date_done="2026-01-01T00:00:00+00:00",
            group_id="g",
            parent_id="p",
            extended={"name": "proj.add", "args": [1]},
        )
        backend.store(meta, _never)
        other = self.open(url)

        found = other.fetch("t1")
        other.close()

        assert found is not None
        assert isinstance(found.result, KeyError)
        assert (found.traceback, found.date_done, found.group_id, found.parent_id) == (
            "where",
            meta.date_done,
            "g",
            "p",
        )
        assert found.extended == {"name": "proj.add", "args": [1]}

    def test_a_forked_child_uses_the_store_by_connections_of_its_own(self, backend: Backend) -> None:
        self.store(backend, ("t1", None), states.STARTED)
        pid = os.fork()
        if not pid:
            try:
                self.store(backend, ("t1", None), states.SUCCESS, "child")
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)

        assert status == 0
        assert self.final(backend, "t1")["t1"].result == "child"
        self.store(backend, ("t1", None), states.SUCCESS, "parent")
        assert self.final(backend, "t1")["t1"].result == "parent"

    def test_a_late_started_does_not_hide_the_value(self, backend: Backend) -> None:
        self.store(backend, ("t1", None), states.STARTED)
        self.store(backend, ("t1", None), states.SUCCESS, 4)
        self.store(backend, ("t1", None), states.STARTED)
        known = backend.fetch("t1")

        assert known is not None
        assert (known.status, known.result) == (states.SUCCESS, 4)

    def test_states_expire(self, url: str) -> None:
        backend = self.open(url, replace(OPTIONS, format=ResultFormat(expires=0.2)))
        self.store(backend, ("t-expires", None), states.SUCCESS, 4)
        deadline = time.monotonic() + 60

        while backend.fetch("t-expires") is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        expired = backend.fetch("t-expires")
        backend.cleanup()
        lasting = self.open(url)
        found = lasting.fetch("t-expires")
        backend.close()
        lasting.close()

        assert (expired, found) == (None, None)

    def test_groups_are_saved_restored_and_forgotten(self, backend: Backend) -> None:
        backend.save_group("g1", (("g1", None), [(("a", None), None)]))

        assert backend.restore_group("g1") == [["g1", None], [[["a", None], None]]]
        backend.forget_group("g1")
        assert backend.restore_group("g1") is None

    @pytest.mark.parametrize("compression", [None, "gzip"])
    @pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle", "yaml"])
    def test_each_serializer_and_compression(
        self, url: str, serializer: str, compression: str | None
    ) -> None:
        accepted = accept_set([serializer])
        format = ResultFormat(serializer=serializer, accept=accepted)
        backend = self.open(url, replace(OPTIONS, format=format, compression=compression))
        self.store(backend, ("t2", None), states.SUCCESS, ["ä" * 10_000, 2])

        found = self.final(backend, "t2")["t2"].result
        backend.close()

        assert found == ["ä" * 10_000, 2]

    def test_content_that_is_not_accepted_is_not_decoded(self, url: str) -> None:
        sender = self.open(
            url, replace(OPTIONS, format=ResultFormat(serializer="pickle", accept=accept_set(["pickle"])))
        )
        reader = self.open(url)
        self.store(sender, ("t3", None), states.SUCCESS, 4)

        with pytest.raises(ContentDisallowed):
            reader.fetch("t3")
        sender.close()
        reader.close()

    def test_a_large_result_is_kept_whole_and_one_too_large_is_refused(self, url: str) -> None:
        backend = self.open(url, replace(OPTIONS, largest=2 << 20))
        self.store(backend, ("t4", None), states.SUCCESS, "x" * (1 << 20))

        with pytest.raises(TooLarge, match=r"t5 has .* over the limit of 2097152"):
            self.store(backend, ("t5", None), states.SUCCESS, "x" * (2 << 20))
        assert len(self.final(backend, "t4")["t4"].result) == 1 << 20
        backend.close()

    def test_a_thousand_arrive_while_they_are_awaited(self, backend: Backend, url: str) -> None:
        ids = [str(uuid.uuid4()) for _ in range(1000)]

        def work() -> None:
            other = self.open(url)
            for number, id in enumerate(ids):
                self.store(other, (id, None), states.SUCCESS, number)
            other.close()

        worker = threading.Thread(target=work)
        worker.start()
        found = self.final(backend, *ids, timeout=200)
        worker.join()

        assert [found[id].result for id in ids] == list(range(1000))
