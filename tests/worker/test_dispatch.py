"""The parent's centre, without a broker: publish, confirm, then settle; and what a lost channel changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from amqptasks import protocol
from amqptasks.amqp import Address, Delivery, Parcel
from amqptasks.errors import ConnectionLost, Nacked, TransportError, Unroutable
from amqptasks.transport import codec
from amqptasks.transport.base import Done
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.lane import Lane
from amqptasks.worker.outcome import Cause, Manifest, Outcome, Run, TaskOptions, Verdict, WorkerQueue
from amqptasks.worker.prefetch import Prefetch

TASKS = {
    "early": TaskOptions("early"),
    "late": TaskOptions("late", acks_late=True),
    "again": TaskOptions("again", acks_late=True, reject_on_worker_lost=True),
}


class FakePool:
    """Takes runs and reports nothing by itself."""

    def __init__(self) -> None:
        self.submitted: list[Run] = []
        self.waiting: list[Run] = []
        self.paused = False
        self.terminated: list[int] = []
        self.running: dict[int, float] = {}

    def submit(self, run: Run) -> None:
        self.submitted.append(run)
        self.waiting.append(run)

    def recall(self) -> list[Run]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def pause(self, paused: bool) -> None:
        self.paused = paused

    def terminate(self, key: int, reason: str) -> bool:
        self.terminated.append(key)
        return True


class FakePublisher:
    """Keeps what is posted until the test says what became of it."""

    def __init__(self) -> None:
        self.posted: list[tuple[Parcel, Done]] = []
        self.saturated = False

    def post(self, parcel: Parcel, done: Done) -> None:
        self.posted.append((parcel, done))

    def flush(self) -> None: ...

    def answer(self, error: TransportError | None = None) -> Parcel:
        """The fate of the oldest message without one."""
        parcel, done = self.posted.pop(0)
        done(error)
        return parcel


class FakeConsumer:
    queue, generation, prefetch = "q", 1, 10

    def __init__(self) -> None:
        self.settled: list[tuple[str, int]] = []

    def ack(self, tag: int, multiple: bool = False) -> None:
        self.settled.append(("ack", tag))

    def reject(self, tag: int, requeue: bool) -> None:
        self.settled.append(("requeue" if requeue else "reject", tag))

    def nack(self, tag: int) -> None:
        self.settled.append(("requeue", tag))

    async def renew(self, prefetch: int) -> None: ...
    async def fence(self) -> None: ...
    async def cancel(self) -> None: ...
    async def close(self) -> None: ...


class Stage:
    """A dispatch between fakes, with deliveries made to measure."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pool = FakePool()
        self.publisher = FakePublisher()
        self.dispatch = Dispatch(self.pool, "node@here")
        manifest = Manifest("proj", {"task_dead_letter_exchange": "amqptasks.dead"}, (), TASKS)
        self.dispatch.begin(self.publisher, manifest)
        self.consumers: list[FakeConsumer] = []
        self.tag = 0
        self.lane = self.new_lane()

    def new_lane(self) -> Lane:
        """As after a reconnect: a consumer of its own, tags from 1."""
        lane = Lane(WorkerQueue("q"), Prefetch(10, 1), self.dispatch.receive)
        self.consumers.append(FakeConsumer())
        lane.attach(self.consumers[-1], self.loop)
        self.lane, self.tag = lane, 0
        return lane

    def deliver(
        self,
        task: str,
        task_id: str = "1",
        *,
        redelivered: bool = False,
        exchange: str = "amqptasks",
        headers: dict[str, object] | None = None,
        **options: object,
    ) -> int | None:
        """The key of its run; None when it was not handed to the pool."""
        message = protocol.TaskMessage(id=task_id, task=task, headers=headers or {}, **options)
        parcel = codec.pack(protocol.encode(message, Address(exchange, "q")))
        self.tag += 1
        before = len(self.pool.submitted)
        self.lane.take(Delivery("q", self.tag, 1, redelivered, exchange, "q", parcel.header, parcel.body))
        new = self.pool.submitted[before:]
        return new[0].key if new else None

    def start(self, key: int, publish: Sequence[Parcel] = ()) -> None:
        self.pool.waiting = [run for run in self.pool.waiting if run.key != key]
        self.pool.running[key] = self.loop.time()
        self.dispatch.started(key, 1, publish)

    def finish(self, key: int, outcome: Outcome) -> None:
        self.pool.running.pop(key, None)
        self.pool.waiting = [run for run in self.pool.waiting if run.key != key]
        self.dispatch.finished(key, outcome)

    def lose(self, key: int, *, innocent: bool = False) -> None:
        self.pool.running.pop(key, None)
        self.pool.waiting = [run for run in self.pool.waiting if run.key != key]
        self.dispatch.lost(key, "signal 9 (SIGKILL)", innocent)

    async def settled(self, generation: int = -1) -> list[tuple[str, int]]:
        """What the broker was told, at the end of this turn of the loop."""
        await asyncio.sleep(0)
        return self.consumers[generation].settled


def result(fate: str = "drop") -> Parcel:
    return Parcel("", "replies", b"", b"{}", "m1", fate)


def scenario(test):
    """Run a coroutine test on a stage of its own."""

    def run() -> None:
        async def within() -> None:
            await test(Stage())

        asyncio.run(within())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@scenario
async def test_a_late_task_is_acknowledged_only_when_its_messages_are_confirmed(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.finish(key, Outcome(publish=(result(), result("dead"))))

    assert await stage.settled() == []
    stage.publisher.answer()
    assert await stage.settled() == [], "one of two is confirmed"

    stage.publisher.answer()
    assert await stage.settled() == [("ack", 1)]


@scenario
async def test_an_early_task_is_acknowledged_when_it_starts_and_never_again(stage):
    key = stage.deliver("early")
    assert await stage.settled() == []

    stage.start(key)
    assert await stage.settled() == [("ack", 1)]

    stage.finish(key, Outcome(publish=(result(),)))
    stage.publisher.answer()
    assert await stage.settled() == [("ack", 1)]


@pytest.mark.parametrize(
    ("verdict", "told"), [(Verdict.ACK, "ack"), (Verdict.REJECT, "reject"), (Verdict.REQUEUE, "requeue")]
)
def test_a_verdict_is_what_the_broker_is_told(verdict, told):
    async def within() -> None:
        stage = Stage()
        key = stage.deliver("late")
        stage.start(key)

        stage.finish(key, Outcome(verdict))

        assert await stage.settled() == [(told, 1)]

    asyncio.run(within())


@scenario
async def test_a_result_whose_client_is_gone_is_dropped_and_its_task_acknowledged(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.finish(key, Outcome(publish=(result(),)))

    stage.publisher.answer(Unroutable("no such queue"))

    assert await stage.settled() == [("ack", 1)]
    assert stage.dispatch.counters.undeliverable == 1


@scenario
async def test_a_result_that_the_broker_refused_for_now_is_published_again(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.finish(key, Outcome(publish=(result(),)))

    stage.publisher.answer(Nacked("no majority"))

    assert await stage.settled() == [], "it is owed still"
    assert stage.dispatch.counters.undeliverable == 0


@scenario
async def test_what_finds_no_queue_goes_to_the_dead_letters_before_the_ack(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.finish(key, Outcome(publish=(Parcel("", "gone", b"\0\0", b"{}", "m1", "dead"),)))

    stage.publisher.answer(Unroutable("no such queue"))
    ((dead, _),) = stage.publisher.posted
    assert (dead.exchange, dead.routing_key) == ("amqptasks.dead", "gone")
    assert codec.decode_header(dead.header).headers["x-amqptasks-reason"] == "unroutable"
    assert await stage.settled() == []

    stage.publisher.answer()
    assert await stage.settled() == [("ack", 1)]


@scenario
async def test_void_tags_are_never_settled(stage):
    late, early = stage.deliver("late", "1"), stage.deliver("early", "2")
    stage.start(late)

    stage.dispatch.void(stage.lane)
    stage.new_lane()
    stage.finish(late, Outcome(publish=(result(),)))
    stage.publisher.answer()

    assert await stage.settled(0) == await stage.settled(1) == []
    assert stage.pool.waiting == [], f"run {early} had not started: it comes again, and is not run twice"
    assert stage.dispatch.in_flight == 0


@scenario
async def test_the_redelivery_of_a_running_task_waits_for_its_outcome(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.dispatch.void(stage.lane)
    stage.new_lane()

    assert stage.deliver("late", redelivered=True) is None
    assert await stage.settled() == []

    stage.finish(key, Outcome(Verdict.REJECT))
    assert await stage.settled() == [("reject", 1)]


@scenario
async def test_the_redelivery_of_a_task_whose_result_is_unconfirmed_is_not_run_again(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.finish(key, Outcome(publish=(result(),)))
    stage.dispatch.void(stage.lane)
    stage.new_lane()

    assert stage.deliver("late", redelivered=True) is None
    assert await stage.settled() == []

    stage.publisher.answer()
    assert await stage.settled() == [("ack", 1)]


@scenario
async def test_the_redelivery_of_a_task_that_a_child_has_taken_and_not_started_is_not_run_again(stage):
    key = stage.deliver("late")
    stage.pool.waiting.clear()  # the child has it
    stage.dispatch.void(stage.lane)
    stage.new_lane()

    assert stage.deliver("late", redelivered=True) is None

    stage.start(key)
    stage.finish(key, Outcome())
    assert await stage.settled() == [("ack", 1)]


@scenario
async def test_the_redelivery_of_a_finished_task_whose_ack_was_lost_is_acknowledged(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.finish(key, Outcome())
    await stage.settled()
    stage.dispatch.void(stage.lane)
    stage.new_lane()

    assert stage.deliver("late", redelivered=True) is None

    assert await stage.settled() == [("ack", 1)]
    assert stage.dispatch.counters.doubles == 1


@scenario
async def test_the_redelivery_of_an_early_task_that_was_started_is_acknowledged(stage):
    key = stage.deliver("early")
    stage.start(key)
    stage.dispatch.void(stage.lane)
    stage.new_lane()

    assert stage.deliver("early", redelivered=True) is None

    assert await stage.settled() == [("ack", 1)]


@scenario
async def test_a_task_that_asked_for_a_requeue_while_its_channel_was_lost_runs_again(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.dispatch.void(stage.lane)
    stage.finish(key, Outcome(Verdict.REQUEUE))
    stage.new_lane()

    assert stage.deliver("late", redelivered=True) is not None


@scenario
async def test_a_rejected_task_whose_channel_was_lost_is_rejected_when_it_comes_again(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.dispatch.void(stage.lane)
    stage.finish(key, Outcome(Verdict.REJECT))
    stage.new_lane()

    stage.deliver("late", redelivered=True)

    assert await stage.settled() == [("reject", 1)]


@scenario
async def test_a_task_that_comes_again_after_a_crash_runs_though_it_is_redelivered(stage):
    key = stage.deliver("again", exchange="", headers={"x-amqptasks-crashes": 1})
    stage.start(key)
    stage.dispatch.void(stage.lane)
    stage.finish(key, Outcome())  # its second crash, written down
    stage.new_lane()

    comes_again = {"x-amqptasks-crashes": 2}
    assert stage.deliver("again", exchange="", headers=comes_again, redelivered=True) is not None


@scenario
async def test_another_message_with_the_same_id_runs_unless_it_is_a_redelivery(stage):
    key = stage.deliver("early")
    stage.start(key)
    stage.finish(key, Outcome())

    assert stage.deliver("early") is not None


@scenario
async def test_what_replaced_a_task_runs_though_it_is_redelivered(stage):
    """`replace()`: the run ends without a word, and another message has its id."""
    for name in ("early", "late"):
        key = stage.deliver(name, task_id=name)
        stage.start(key)
        stage.finish(key, Outcome(state="IGNORED"))

        assert stage.deliver(name, task_id=name, redelivered=True) is not None


@scenario
async def test_losing_one_channel_does_not_start_another_ones_task_before_its_time(stage):
    from datetime import UTC, datetime, timedelta

    overslept = 0  # a machine that stands still for so long in between
    while stage.deliver("late", str(overslept), eta=datetime.now(UTC) + timedelta(seconds=0.9)) is not None:
        overslept += 1
    other = Lane(WorkerQueue("other"), Prefetch(10, 1), stage.dispatch.receive)

    stage.dispatch.void(other)

    assert len(stage.pool.submitted) == overslept
    assert stage.dispatch.in_flight == overslept + 1


@scenario
async def test_a_lost_late_task_gets_its_obituary_and_its_ack_comes_after(stage):
    key = stage.deliver("late")
    stage.start(key)

    stage.lose(key)
    assert stage.pool.submitted[-1].cause is Cause.LOST
    assert await stage.settled() == []

    stage.finish(key, Outcome(publish=(result(),)))
    stage.publisher.answer()
    assert await stage.settled() == [("ack", 1)]


@scenario
async def test_an_innocent_late_task_goes_back(stage):
    key = stage.deliver("late")
    stage.start(key)

    stage.lose(key, innocent=True)

    assert await stage.settled() == [("requeue", 1)]
    assert len(stage.pool.submitted) == 1, "no obituary: it may run elsewhere"


@scenario
async def test_an_early_task_that_a_cold_end_killed_is_answered_as_lost_not_as_revoked(stage):
    key = stage.deliver("early")
    stage.start(key)

    stage.dispatch.abandon()
    stage.pool.running.clear()
    stage.dispatch.lost(key, "the worker was shut down cold", False, Cause.TERMINATED)

    assert stage.pool.terminated == [key]
    assert stage.pool.submitted[-1].cause is Cause.LOST


@scenario
async def test_a_message_that_kills_whoever_reads_it_ends_as_a_dead_letter(stage):
    key = stage.deliver("late")

    for _ in range(10):
        if stage.publisher.posted:
            break
        stage.lose(key)

    dead = stage.publisher.answer()
    assert codec.decode_header(dead.header).headers["x-amqptasks-reason"] == "crashed"
    assert await stage.settled() == [("ack", 1)]


@scenario
async def test_a_saturated_publisher_pauses_the_pool_until_there_is_room(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.publisher.saturated = True

    stage.finish(key, Outcome(publish=(result(),)))
    assert stage.pool.paused

    stage.dispatch.room()
    assert not stage.pool.paused


@scenario
async def test_what_has_not_started_goes_back_at_the_end_and_obituaries_do_not(stage):
    lost, waiting = stage.deliver("early", "1"), stage.deliver("late", "2")
    stage.start(lost)
    stage.lose(lost)

    assert stage.dispatch.give_back() == 1
    assert [run.key for run in stage.pool.waiting] == [lost]
    assert await stage.settled() == [("requeue", 2), ("ack", 1)], f"{waiting} goes back, {lost} was early"


@scenario
async def test_headers_of_the_wrong_types_go_to_a_child_which_refuses_them(stage):
    before = len(stage.pool.submitted)
    header = codec.encode_header(codec.decode_header(b"\0\0"))
    stage.lane.take(Delivery("q", 1, 1, True, "amqptasks", "q", header, b"\xff"))
    for headers in ({"task": ["late"], "id": {"a": 1}}, {"task": "late", "id": "1", "retries": ["x"]}):
        properties = codec.Properties(headers=headers)
        stage.lane.take(
            Delivery("q", 2, 1, True, "amqptasks", "q", codec.encode_header(properties), b"[[], {}, {}]")
        )

    assert len(stage.pool.submitted) - before == 3


@scenario
async def test_a_lost_publisher_is_not_the_end_of_a_message(stage):
    key = stage.deliver("late")
    stage.start(key)
    stage.finish(key, Outcome(publish=(Parcel("", "next", b"\0\0", b"{}", "m1", "dead"),)))

    stage.publisher.answer(ConnectionLost("gone"))

    assert await stage.settled() == []
    assert stage.dispatch.in_flight == 1
