"""The asyncio client over `memory://`: calls, canvas, results and batches, awaited on a loop that never blocks."""

from __future__ import annotations

import asyncio
import builtins
import gc
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App, AsyncResult, GroupResult, chain, chord, group, signals
from amqptasks.backends import awaiting
from amqptasks.backends.base import Backend, Meta
from amqptasks.backends.database import DatabaseBackend
from amqptasks.backends.stored import StoreOptions
from amqptasks.backends.wire import ResultFormat
from amqptasks.errors import (
    BrokerBlocked,
    PublishError,
    PublishTimeout,
    ResultIgnored,
    StoreUnavailable,
    TimeoutError,
    TransportError,
    Unroutable,
    WouldDeadlock,
)
from amqptasks.ids import process
from amqptasks.testing import running_worker
from amqptasks.transport import memory
from amqptasks.transport.memory_broker import MemoryBroker
from amqptasks.waiting import running
from tests.working import Work

LONGEST = 100.0


def on_loop(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LONGEST):
            await scenario()

    asyncio.run(bounded())


async def handed_over(app: App, count: int) -> None:
    while app.aconnection.pending < count:  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(0.001)


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    return add


@pytest.fixture
def total(app: App) -> Any:
    @app.task(name="proj.total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    return total


@pytest.fixture
def broker(app: App) -> MemoryBroker:
    return memory.broker(app.conf.broker_url.removeprefix("memory://"))


@pytest.fixture
def no_blocking(app: App, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Threads that waited for the process's own connection while a loop ran in them."""
    waited: list[str] = []
    connection, refuse = app.connection, app.connection._refuse_io_thread

    def noticed() -> None:
        refuse()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        waited.append(threading.current_thread().name)

    monkeypatch.setattr(connection, "_refuse_io_thread", noticed)
    return waited


# --- calls --------------------------------------------------------------------------------------------------


def test_a_call_and_its_result_are_awaited(app: App, add: Any, work: Work, no_blocking: list[str]) -> None:
    async def scenario() -> None:
        called = await add.adelay(2, 2)
        optional = await add.aapply_async((3, 4), queue="amqptasks", priority=3)
        named = await app.asend_task("proj.add", (5, 6))
        await asyncio.to_thread(work, 3)

        assert await called.aget(timeout=60) == 4
        assert [await optional.aget(60), await named.aget(60)] == [7, 11]

    on_loop(scenario)

    assert no_blocking == []


def test_a_result_of_delay_is_awaited_and_one_of_adelay_is_got(app: App, add: Any, work: Work) -> None:
    called = add.delay(1, 1)

    async def scenario() -> Any:
        awaited = await add.adelay(2, 2)
        await asyncio.to_thread(work, 2)
        assert await called.aget(60) == 2
        return awaited

    assert asyncio.run(scenario()).get(timeout=60) == 4


def test_a_failure_is_raised_where_it_is_awaited(app: App, add: Any, work: Work) -> None:
    async def scenario() -> None:
        called = await add.adelay(1, "1")
        await asyncio.to_thread(work, 1)

        with pytest.raises(TypeError, match="unsupported operand"):
            await called.aget(60)
        assert isinstance(await called.aget(60, propagate=False), TypeError)

    on_loop(scenario)


def test_a_mistake_is_raised_at_once(app: App, add: Any) -> None:
    async def scenario() -> None:
        with pytest.raises(TypeError, match="missing"):
            await add.adelay(1)
        with pytest.raises(TypeError, match="countdwn"):
            await add.aapply_async((1, 2), countdwn=3)
        with pytest.raises(PublishError):
            await add.aapply_async(("x" * (app.conf.broker_max_message_size + 1), 2))

    on_loop(scenario)


def test_many_at_once_share_a_round_trip(app: App, add: Any, broker: MemoryBroker) -> None:
    """None is confirmed before all are sent: one that waited for its own confirm would never end."""

    async def scenario() -> None:
        await add.adelay(0, 0)
        broker.withhold_confirms()
        calls = [asyncio.ensure_future(add.adelay(number, 1)) for number in range(50)]
        await handed_over(app, 50)
        assert not any(call.done() for call in calls)

        broker.release_confirms()

        assert len({result.id for result in await asyncio.gather(*calls)}) == 50

    on_loop(scenario)


def test_the_window_bounds_what_is_unconfirmed(app: App, add: Any, broker: MemoryBroker) -> None:
    app.conf.update(broker_publish_window=10)

    async def scenario() -> None:
        await add.adelay(0, 0)
        broker.withhold_confirms()
        first = [asyncio.ensure_future(add.adelay(number, 1)) for number in range(10)]
        await handed_over(app, 10)

        with pytest.raises(PublishTimeout, match="leave no room"):
            await add.aapply_async((1, 2), timeout=0.05)
        last = asyncio.ensure_future(add.adelay(1, 1))
        broker.release_confirms()

        await asyncio.gather(*first, last)

    on_loop(scenario)


def test_a_deleted_queue_is_declared_again(app: App, add: Any, work: Work) -> None:
    async def scenario() -> None:
        await add.adelay(1, 1)
        await app.aconnection.perform(lambda link: link.delete_queue("amqptasks"))

        called = await add.adelay(2, 2)
        grouped = await group(add.s(1, 1), add.s(2, 2)).aapply_async()
        await asyncio.to_thread(work, 3)

        assert await called.aget(60) == 4
        assert await grouped.aget(60) == [2, 4]

    on_loop(scenario)


def test_without_a_queue_nothing_is_sent_and_nothing_is_expected(app: App) -> None:
    app.conf.update(task_create_missing_queues=False)

    async def scenario() -> None:
        with pytest.raises(Unroutable, match="no queue 'amqptasks'"):
            await app.asend_task("proj.add", (1, 2))

    on_loop(scenario)

    assert not getattr(app.backend, "_recent").expected


def test_a_blocked_broker_is_told_of_within_the_timeout(app: App, add: Any, broker: MemoryBroker) -> None:
    async def scenario() -> None:
        await add.adelay(0, 0)
        broker.block("low on memory")

        with pytest.raises(BrokerBlocked, match="low on memory"):
            await add.aapply_async((1, 2), timeout=0.1)

    on_loop(scenario)


def test_an_outage_repeats_what_was_unconfirmed_under_the_same_id(
    app: App, add: Any, work: Work, broker: MemoryBroker
) -> None:
    async def scenario() -> None:
        await add.adelay(0, 0)
        broker.withhold_confirms()
        calling = asyncio.ensure_future(add.adelay(1, 2))
        await handed_over(app, 1)
        broker.drop_connections()
        broker.release_confirms()
        called = await calling
        await asyncio.to_thread(work)

        assert await called.aget(60) == 3

    on_loop(scenario)

    ids = [delivery.header for delivery in work.deliveries[1:]]
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_a_cancelled_call_expects_nothing(app: App, add: Any, broker: MemoryBroker) -> None:
    async def scenario() -> None:
        await add.adelay(0, 0)
        broker.withhold_confirms()
        calling = asyncio.ensure_future(add.adelay(1, 2))
        await handed_over(app, 1)
        calling.cancel()
        await asyncio.wait({calling})
        broker.release_confirms()

    on_loop(scenario)

    assert len(getattr(app.backend, "_recent").expected) == 1


def test_signals_are_sent_once_for_each_call(app: App, add: Any) -> None:
    """Also for the first one, whose declarations make it begin anew in a thread."""
    told: list[str] = []

    def before(sender: Any = None, **_: Any) -> None:
        told.append(f"before {sender}")

    def after(sender: Any = None, **_: Any) -> None:
        told.append(f"after {sender}")

    async def scenario() -> None:
        await add.adelay(1, 2)

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        on_loop(scenario)
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)

    assert told == ["before proj.add", "after proj.add"]


def test_tasks_that_run_in_place_do_not_hold_the_loop(app: App) -> None:
    app.conf.update(task_always_eager=True)

    @app.task(name="proj.who")
    def who() -> str:
        return threading.current_thread().name

    @app.task(name="proj.later")
    async def later() -> str:
        await asyncio.sleep(0)
        return "later"

    async def scenario() -> None:
        result = await who.adelay()
        assert await result.aget() != threading.current_thread().name
        assert await (await later.adelay()).aget() == "later"

    on_loop(scenario)


# --- canvas -------------------------------------------------------------------------------------------------


def test_canvases_are_awaited(app: App, add: Any, total: Any, work: Work, no_blocking: list[str]) -> None:
    async def scenario() -> None:
        chained = await chain(add.s(1, 2), add.s(10)).aapply_async()
        grouped = await group(add.s(number, 1) for number in range(20)).adelay()
        chorded = await chord([add.s(1, 1), add.s(2, 2)], total.s()).aapply_async()
        single = await add.s(1).adelay(1)
        await asyncio.to_thread(work.all)

        assert await chained.aget(60) == 13
        assert await grouped.aget(60) == [number + 1 for number in range(20)]
        assert await chorded.aget(60) == 6
        assert await single.aget(60) == 2

    on_loop(scenario)

    assert no_blocking == []


def test_a_batch_is_sent_at_its_end_or_when_a_result_is_awaited(app: App, add: Any, work: Work) -> None:
    async def scenario() -> None:
        async with app.abatch() as batch:
            called = [await add.adelay(number, 1) for number in range(3)]
            async with app.abatch() as inner:
                grouped = await group(add.s(1, 1), add.s(2, 2)).aapply_async()
            assert inner is batch
            assert await asyncio.to_thread(work) == 0
            with pytest.raises(TimeoutError):
                await called[0].aget(0)
            assert await asyncio.to_thread(work) == 5
            assert await called[0].aget(60) == 1
            await add.adelay(7, 7)
        assert batch.published == 6
        assert await asyncio.to_thread(work) == 1
        assert await grouped.aget(60) == [2, 4]

    on_loop(scenario)


def test_a_batch_names_what_failed(app: App, add: Any) -> None:
    async def scenario() -> None:
        with pytest.raises(PublishError, match="1 of 2 messages of the batch") as caught:
            async with app.abatch():
                await add.adelay(1, 2)
                await add.aapply_async((1, 2), exchange="amq.direct", routing_key="nowhere")
        assert [each.routing_key for each in (caught.value.envelopes[0].address,)] == ["nowhere"]

    on_loop(scenario)


# --- results ------------------------------------------------------------------------------------------------


def test_a_group_yields_its_results_as_they_come(app: App, add: Any, work: Work) -> None:
    async def scenario() -> None:
        grouped = await group(add.s(number, 0) for number in range(5)).aapply_async()
        await asyncio.to_thread(work, 2)
        seen = []
        async for result in grouped:
            seen.append(result.get())
            if len(seen) == 2:
                await asyncio.to_thread(work, 3)
        assert seen == [0, 1, 2, 3, 4]
        assert [result.get() async for result in grouped.as_completed(timeout=60)] == seen

    on_loop(scenario)


def test_waiting_ends_in_time_and_leaves_the_loop_free(app: App, add: Any) -> None:
    async def scenario() -> None:
        grouped = await group(add.s(1, 1), add.s(2, 2)).aapply_async()
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.001)

        turning = asyncio.ensure_future(turn())
        for result in (grouped, grouped[0]):
            most = 0
            while (
                most <= 10
            ):  # of the turns in one wait: a machine that stands still lets few of them be made
                before = turns
                with pytest.raises(TimeoutError, match=r"within 0\.[01]"):
                    await result.aget(0.1)
                most = max(most, turns - before)
        turning.cancel()

    on_loop(scenario)


def test_a_wait_without_end_is_woken_by_what_comes(app: App, add: Any, work: Work) -> None:
    async def scenario() -> None:
        called = await add.adelay(1, 1)
        waiting = asyncio.ensure_future(called.aget())
        gathering = asyncio.ensure_future((await group(add.s(1, 1), add.s(2, 2)).aapply_async()).aget())
        await asyncio.sleep(0)
        await asyncio.to_thread(work, 3)

        assert await waiting == 2
        assert await gathering == [2, 4]

    on_loop(scenario)


def test_a_cancelled_wait_can_be_taken_up_again(app: App, add: Any, work: Work) -> None:
    async def scenario() -> None:
        called = await add.adelay(1, 1)
        waiting = asyncio.ensure_future(called.aget())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        await asyncio.to_thread(work, 1)

        assert await called.aget(60) == 2

    on_loop(scenario)


def test_what_will_never_come_is_not_awaited(app: App, add: Any) -> None:
    async def scenario() -> None:
        called = await add.aapply_async((1, 1), ignore_result=True)
        with pytest.raises(ResultIgnored):
            await called.aget()
        token = running.set(type("Request", (), {"task": "t", "id": "1"})())
        try:
            with pytest.raises(WouldDeadlock):
                await (await asyncio.to_thread(app.AsyncResult, "x")).aget()
        finally:
            running.reset(token)

    on_loop(scenario)


class Polling(Backend):
    """A store that can only block."""

    url = "polling://"

    def __init__(self) -> None:
        self.known: dict[str, Meta] = {}
        self.changed = threading.Condition()

    def store(self, meta: Meta, publish: Any = None) -> None:
        with self.changed:
            self.known[meta.task_id] = meta
            self.changed.notify_all()

    def fetch(self, task_id: str) -> Meta | None:
        return self.known.get(task_id)

    def watch(self, task_ids: Any, timeout: float | None) -> Any:
        for task_id in task_ids:
            with self.changed:
                if not self.changed.wait_for(lambda id=task_id: id in self.known, timeout):
                    raise TimeoutError(f"no result of {task_id}")
            yield self.known[task_id]

    def forget(self, task_id: str) -> None:
        self.known.pop(task_id, None)


def test_a_store_that_can_only_block_is_awaited_aside(app: App) -> None:
    store = Polling()

    async def scenario() -> None:
        result: AsyncResult[int] = AsyncResult("a", store)
        with pytest.raises(TimeoutError):
            await result.aget(0.1)
        waiting = asyncio.ensure_future(result.aget(60))
        await asyncio.sleep(0)
        store.store(Meta(task_id="a", status="SUCCESS", result=5))
        assert await waiting == 5

    on_loop(scenario)


class Aside(DatabaseBackend):
    """As a store that can only block."""

    awatch = None  # type: ignore[assignment]


def test_a_wait_aside_that_is_over_says_how_long_it_was(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not how long its last slice was."""
    monkeypatch.setattr(awaiting, "SLICE", 0.05)
    store = Aside(f"db+sqlite:///{tmp_path}/results.db", StoreOptions(format=ResultFormat()))
    store.store(Meta(task_id="a", status="STARTED"), print)

    async def scenario() -> None:
        words = r"no result of a and 1 more within 0\.12 s; its last known state is STARTED"
        with pytest.raises(TimeoutError, match=words):
            async for _ in awaiting.awatch(store, ["a", "b"], 0.12):
                pass

    on_loop(scenario)
    store.close()


@pytest.fixture(params=[DatabaseBackend, Aside])
def dead_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> DatabaseBackend:
    monkeypatch.setattr(awaiting, "SLICE", 0.05)
    options = StoreOptions(format=ResultFormat(), patience=0.3)
    made: DatabaseBackend = request.param(f"db+sqlite:///{tmp_path}/absent/results.db", options)
    return made


def test_a_store_that_stays_down_ends_a_wait_without_timeout(app: App, dead_store: DatabaseBackend) -> None:
    """As `get`: the slices that a wait is cut into must not begin the store's patience anew."""
    results: list[AsyncResult[int]] = [AsyncResult(name, dead_store) for name in "ab"]

    async def scenario() -> None:
        for waiting in (results[0].aget(), results[0].aget(60), GroupResult("g", results).aget()):
            with pytest.raises(
                StoreUnavailable, match=r"db\+sqlite:///.*does not answer.*result_store_timeout"
            ):
                await waiting

    on_loop(scenario)


def test_a_timeout_ends_a_wait_for_a_store_that_is_down(app: App, dead_store: DatabaseBackend) -> None:
    dead_store.patience = 60.0
    result: AsyncResult[int] = AsyncResult("a", dead_store)

    async def scenario() -> None:
        with pytest.raises(TimeoutError, match="does not answer"):
            await result.aget(0.1)

    on_loop(scenario)


class Deaf(Polling):
    """It answers when it is told to, and not before."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = threading.Event()

    def watch(self, task_ids: Any, timeout: float | None) -> Any:
        self.answer.wait(600)
        yield from super().watch(task_ids, timeout)


def test_waiting_in_a_store_takes_no_threads_that_others_need(app: App) -> None:
    """The loop's own threads look up host names, too; more waits than it has would stand in the way of everything."""
    store = Deaf()
    store.store(Meta(task_id="awaited", status="SUCCESS", result=3))
    results: list[AsyncResult[int]] = [AsyncResult("awaited", store) for _ in range(40)]

    async def scenario() -> None:
        waits = [asyncio.ensure_future(result.aget(60)) for result in results]
        for _ in range(10):
            await asyncio.sleep(0)
        try:
            await asyncio.wait_for(asyncio.to_thread(store.answer.set), 60)
        finally:
            store.answer.set()
        assert await asyncio.gather(*waits) == [3] * 40

    on_loop(scenario)


def test_a_cancelled_wait_for_a_store_says_nothing_afterwards(app: App, dead_store: DatabaseBackend) -> None:
    """Its thread ends with a TimeoutError that nobody waits for."""
    dead_store.patience = 60.0
    said: list[Any] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: said.append(context))
        result: AsyncResult[int] = AsyncResult("a", dead_store)
        with pytest.raises(builtins.TimeoutError):
            await asyncio.wait_for(result.aget(), 0.02)
        awaiting.threads(process()).shutdown()
        awaiting.threads.cache_clear()
        gc.collect()

    on_loop(scenario)
    assert not said


# --- life ---------------------------------------------------------------------------------------------------


def test_each_loop_has_a_connection_of_its_own(app: App, add: Any, work: Work) -> None:
    async def once() -> Any:
        await add.adelay(1, 1)
        return app.aconnection

    first, second = asyncio.run(once()), asyncio.run(once())

    assert first is not second
    assert work(2) == 2

    async def from_another_loop() -> None:
        with pytest.raises(TransportError, match="event loop that is closed"):
            await first.publish([])

    asyncio.run(from_another_loop())


def test_a_loop_that_ended_without_a_word_does_not_stop_the_clock(app: App, add: Any, work: Work) -> None:
    """The memory broker's time passes on its links' loops; one that is closed must not be chosen."""

    async def once() -> None:
        await add.aapply_async((1, 1), ignore_result=True)  # so that its link is the first

    asyncio.run(once())
    add.apply_async((1, 2), countdown=1.2)

    assert work(2) == 2


def test_loops_in_threads_share_one_reply_queue(app: App, add: Any, broker: MemoryBroker) -> None:
    @app.task(name="proj.double")
    def double(x: int) -> int:
        return 2 * x

    async def scenario() -> list[int]:
        called = await asyncio.gather(*[double.adelay(number) for number in range(20)])
        return [await result.aget(60) for result in called]

    values: list[list[int]] = []
    with running_worker(app):
        threads = [threading.Thread(target=lambda: values.append(asyncio.run(scenario()))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONGEST)

        replies = [name for name in broker.queues if name.startswith("amqptasks.reply.")]

    assert values == [[2 * number for number in range(20)]] * 4
    assert len(replies) == 1


def test_the_first_calls_may_all_come_at_once(app: App, add: Any, work: Work, broker: MemoryBroker) -> None:
    """One declares, in a thread and over this very loop; the others must not hold the loop while they wait for it."""

    async def scenario() -> None:
        called = await asyncio.gather(*[add.adelay(number, 1) for number in range(100)])
        await asyncio.to_thread(work, 100)
        assert [await result.aget(60) for result in called] == [number + 1 for number in range(100)]

    on_loop(scenario)


def test_a_loop_does_not_stand_still_while_another_declares(app: App, add: Any) -> None:
    """Who declares holds a lock until its own loop has answered: nobody may wait for that lock on a loop."""
    lock = app._declarations._lock

    async def scenario() -> None:
        lock.acquire()
        calling = asyncio.ensure_future(add.aapply_async((1, 1), ignore_result=True))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not calling.done()
        lock.release()
        await calling

    on_loop(scenario)


def test_an_app_is_an_async_context(app: App, add: Any, broker: MemoryBroker, work: Work) -> None:
    async def scenario() -> None:
        async with app as entered:
            called = await entered.tasks["proj.add"].adelay(1, 1)
            await asyncio.to_thread(work, 1)
            assert await called.aget(60) == 2
        assert "0 links" in repr(broker)
        assert [name for name in broker.queues if name.startswith("amqptasks.reply.")] == []
        await add.adelay(1, 1)  # it opens anew
        await app.aclose()

    on_loop(scenario)
