"""The rpc backend, on the in-process broker: one reply queue, bounded memory, exact words for what cannot come."""

from __future__ import annotations

import gc
import os
import threading
import tracemalloc
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from amqptasks import states
from amqptasks.amqp import Address, Envelope, Properties
from amqptasks.backends import rpc
from amqptasks.backends.base import Backend, Meta
from amqptasks.backends.recent import Recent
from amqptasks.backends.rpc import RpcBackend
from amqptasks.backends.wire import ResultFormat, bundled, result_envelope
from amqptasks.errors import ContentDisallowed, NotFound, ResultElsewhere, ResultLost
from amqptasks.transport import codec
from amqptasks.transport.blocking import BlockingConnection
from amqptasks.transport.opening import opener
from amqptasks.transport.url import parse
from tests.backends.contract import BackendContract

FORMAT = ResultFormat()


@pytest.fixture
def connection() -> Iterator[BlockingConnection]:
    opened = BlockingConnection(opener(parse(f"memory://{uuid.uuid4()}")), timeout=60)
    yield opened
    opened.close()


@pytest.fixture
def backend(connection: BlockingConnection) -> Iterator[RpcBackend]:
    made = RpcBackend(lambda: connection, FORMAT)
    yield made
    made.close()


def answer(
    connection: BlockingConnection, backend: Backend, id: str, result: Any, status: str = "SUCCESS"
) -> None:
    meta = Meta(task_id=id, status=status, result=result, reply_to=backend.reply_to(), correlation_id=id)
    backend.store(meta, lambda envelope: connection.publish([envelope]))


class TestRpcBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def _connected(self, connection: BlockingConnection) -> None:
        self.connection = connection

    def store(self, backend: Backend, call: tuple[str, str | None], status: str, result: Any = None) -> None:
        meta = Meta(task_id=call[0], status=status, result=result, reply_to=call[1], correlation_id=call[0])
        backend.store(meta, lambda envelope: self.connection.publish([envelope]))


def test_results_that_came_in_one_message_are_as_many(
    connection: BlockingConnection, backend: RpcBackend
) -> None:
    held = {id: backend.expect(id) for id in ("a", "b", "c")}
    to = backend.reply_to()
    metas = [Meta(task_id=id, status="SUCCESS", result=id * 2, reply_to=to, correlation_id=id) for id in held]
    parcels = [codec.pack(result_envelope(meta, to, FORMAT)) for meta in metas]
    bundle = bundled(to, parcels, persistent=False)

    connection.publish(
        [Envelope(Address("", to), bundle.body, codec.decode_header(bundle.header), bundle.fate)]
    )

    assert {meta.task_id: meta.result for meta in backend.watch(list(held), 60)} == {
        "a": "aa",
        "b": "bb",
        "c": "cc",
    }


# --- the reply queue -----------------------------------------------------------------------------------------


def test_the_reply_queue_is_declared_once_by_the_first_call(
    connection: BlockingConnection, backend: RpcBackend
) -> None:
    names = {backend.reply_to() for _ in range(3)}

    assert len(names) == 1
    (name,) = names
    assert name.startswith("amqptasks.reply.")
    assert connection.inspect(name).consumers == 1


def test_many_first_calls_at_once_make_one_queue(backend: RpcBackend) -> None:
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(backend.reply_to())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(names)) == 1


def test_close_deletes_the_queue_when_nothing_is_expected(
    connection: BlockingConnection, backend: RpcBackend
) -> None:
    name = backend.reply_to()
    backend.expect("t1")
    answer(connection, backend, "t1", 4)
    list(backend.watch(["t1"], 60))

    backend.close()

    with pytest.raises(NotFound, match=name):
        connection.inspect(name)


def test_close_leaves_the_queue_while_a_result_is_expected(
    connection: BlockingConnection, backend: RpcBackend
) -> None:
    name = backend.reply_to()
    backend.expect("t1")

    backend.close()

    assert connection.inspect(name).consumers == 0


def test_a_state_without_reply_queue_is_dropped(backend: RpcBackend) -> None:
    published: list[Envelope] = []

    backend.store(Meta(task_id="t1", status=states.SUCCESS), published.append)

    assert published == []


def test_results_go_to_the_default_exchange_transient_unless_persistent() -> None:
    meta = Meta(task_id="t1", status=states.SUCCESS, result=4, correlation_id="c1")

    transient = result_envelope(meta, "reply", ResultFormat())
    persistent = result_envelope(meta, "reply", ResultFormat(persistent=True))

    assert transient.address == Address("", "reply")
    assert (transient.properties.correlation_id, transient.fate) == ("c1", "drop")
    assert (transient.properties.delivery_mode, persistent.properties.delivery_mode) == (1, 2)


# --- what cannot come ----------------------------------------------------------------------------------------


def test_an_id_of_another_process_is_a_typed_error_at_once(backend: RpcBackend) -> None:
    backend.reply_to()

    with pytest.raises(ResultElsewhere, match=r"nope was not called by this process.*shared"):
        list(backend.watch(["nope"], None))


def test_a_fork_is_told_that_the_result_goes_to_its_parent(
    backend: RpcBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.expect("t1")
    monkeypatch.setattr(os, "getpid", lambda: -1)

    with pytest.raises(ResultElsewhere, match="fork"):
        list(backend.watch(["t1"], None))


def test_an_evicted_result_says_so(connection: BlockingConnection) -> None:
    backend = RpcBackend(lambda: connection, FORMAT, recent=lambda: Recent(limit_answers=2))
    for number in range(3):
        backend.expect(f"t{number}")
        answer(connection, backend, f"t{number}", number)
    marker = backend.expect("last")
    answer(connection, backend, "last", 0)
    list(backend.watch(["last"], 60))

    with pytest.raises(ResultLost, match="nobody held its AsyncResult"):
        list(backend.watch(["t0"], None))
    assert marker is not None
    backend.close()


def test_what_somebody_holds_is_not_evicted(connection: BlockingConnection) -> None:
    backend = RpcBackend(lambda: connection, FORMAT, recent=lambda: Recent(limit_answers=2))
    claims = [backend.expect(f"t{number}") for number in range(50)]
    for number in range(50):
        answer(connection, backend, f"t{number}", number)

    found = {meta.task_id: meta.result for meta in backend.watch([f"t{n}" for n in range(50)], 60)}

    assert found == {f"t{number}": number for number in range(50)}
    assert len(claims) == 50
    backend.close()


def test_results_that_nobody_collects_leave_the_memory_flat_and_the_queue_empty(
    connection: BlockingConnection,
) -> None:
    recent = Recent(limit_answers=1000)
    backend = RpcBackend(lambda: connection, FORMAT, recent=lambda: recent)
    reply_to = backend.reply_to()

    def uncollected(first: int) -> None:
        for start in range(first, first + 5000, 100):
            ids = [f"task-{number}" for number in range(start, start + 100)]
            for id in ids:
                backend.expect(id)
            metas = [Meta(task_id=id, status="SUCCESS", result="x" * 100) for id in ids]
            connection.publish([result_envelope(meta, reply_to, FORMAT) for meta in metas])
        kept = backend.expect("marker")
        answer(connection, backend, "marker", 1)
        list(backend.watch(["marker"], 60))
        del kept
        backend.forget("marker")

    uncollected(0)
    gc.collect()
    tracemalloc.start()
    uncollected(5000)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert len(recent) <= 1000
    assert recent.expected == {}
    assert connection.inspect(reply_to).messages == 0
    assert grown < 2_000_000  # the thousand kept answers, replaced; 5,000 would be above 4 MB
    backend.close()


def test_a_body_that_is_not_accepted_is_an_error_for_who_asks(
    connection: BlockingConnection, backend: RpcBackend
) -> None:
    reply_to = backend.reply_to()
    claim = backend.expect("t1")
    properties = Properties(content_type="application/x-python-serialize", correlation_id="t1")
    connection.publish([Envelope(Address("", reply_to), b"cos\nsystem\n.", properties)])

    with pytest.raises(ContentDisallowed):
        list(backend.watch(["t1"], 60))
    assert claim is not None


def test_a_result_is_found_by_the_task_id_in_its_body(
    connection: BlockingConnection, backend: RpcBackend
) -> None:
    claim = backend.expect("t1")
    meta = Meta(task_id="t1", status="SUCCESS", result=4, reply_to=backend.reply_to(), correlation_id="mine")
    backend.store(meta, lambda envelope: connection.publish([envelope]))

    assert [found.result for found in backend.watch(["t1"], 60)] == [4]
    assert claim is not None


# --- outages -------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(rpc, "monotonic", lambda: now[0])
    return now


def outage(backend: RpcBackend, clock: list[float], seconds: float, *, kept: bool) -> None:
    backend._on_lost(None)
    clock[0] += seconds
    backend._on_restored(kept)


def test_after_an_outage_long_enough_for_a_restart_a_wait_without_timeout_ends(
    backend: RpcBackend, clock: list[float]
) -> None:
    claim = backend.expect("t1")
    outage(backend, clock, 5.0, kept=True)
    clock[0] += rpc.GRACE

    with pytest.raises(ResultLost, match=r"t1 may be lost.*call get\(\) again to wait on"):
        list(backend.watch(["t1"], None))
    assert claim is not None


def test_a_reply_queue_made_anew_has_lost_replies_however_short_the_outage(
    backend: RpcBackend, clock: list[float]
) -> None:
    backend.expect("t1")
    outage(backend, clock, 0.1, kept=False)
    clock[0] += rpc.GRACE

    with pytest.raises(ResultLost):
        list(backend.watch(["t1"], None))


def test_a_blip_loses_nothing(
    connection: BlockingConnection, backend: RpcBackend, clock: list[float]
) -> None:
    claim = backend.expect("t1")
    outage(backend, clock, 0.5, kept=True)
    clock[0] += 10 * rpc.GRACE
    answer(connection, backend, "t1", 4)

    assert [meta.result for meta in backend.watch(["t1"], None)] == [4]
    assert claim is not None


def test_a_call_made_after_the_outage_is_not_in_doubt(
    connection: BlockingConnection, backend: RpcBackend, clock: list[float]
) -> None:
    outage(backend, clock, 5.0, kept=False)
    claim = backend.expect("t1")
    clock[0] += 10 * rpc.GRACE
    answer(connection, backend, "t1", 4)

    assert [meta.result for meta in backend.watch(["t1"], None)] == [4]
    assert claim is not None


def test_doubt_is_said_once(connection: BlockingConnection, backend: RpcBackend, clock: list[float]) -> None:
    claim = backend.expect("t1")
    outage(backend, clock, 5.0, kept=True)
    clock[0] += rpc.GRACE
    with pytest.raises(ResultLost):
        list(backend.watch(["t1"], None))
    answer(connection, backend, "t1", 4)

    assert [meta.result for meta in backend.watch(["t1"], None)] == [4]
    assert claim is not None


def test_persistent_results_survive_a_restart(connection: BlockingConnection, clock: list[float]) -> None:
    backend = RpcBackend(lambda: connection, ResultFormat(persistent=True))
    claim = backend.expect("t1")
    outage(backend, clock, 5.0, kept=True)
    clock[0] += 10 * rpc.GRACE
    answer(connection, backend, "t1", 4)

    assert [meta.result for meta in backend.watch(["t1"], None)] == [4]
    assert claim is not None
    backend.close()
