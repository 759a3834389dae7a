"""What the parent does not do: look into bodies, hold more than its prefetch, settle on a channel that is gone."""

from __future__ import annotations

import uuid
from functools import partial
from types import SimpleNamespace

from amqptasks import protocol
from amqptasks.amqp import Address, Delivery, Queue
from amqptasks.transport import codec, memory
from amqptasks.worker.consumer import Consumers, Retrying
from amqptasks.worker.outcome import Outcome, WorkerQueue
from amqptasks.worker.prefetch import Prefetch
from tests.transport.contract import message, on_loop, send, settled, until
from tests.worker.test_dispatch import result, scenario

# --- bodies --------------------------------------------------------------------------------------------------


class Sealed:
    """A body that keeps who looked: no decoder can take it, and none can try unnoticed."""

    looks: list[str] = []

    def __getattribute__(self, name):
        Sealed.looks.append(name)
        return object.__getattribute__(self, name)

    def __len__(self):
        Sealed.looks.append("len")
        return 12

    def __bytes__(self):
        Sealed.looks.append("bytes")
        return b"[[], {}, {}]"


@scenario
async def test_no_body_is_looked_at_between_its_delivery_and_its_ack(stage):
    Sealed.looks.clear()
    for tag, task in enumerate(["late", "early", "not registered"], 1):
        call = protocol.TaskMessage(id=f"t{tag}", task=task)
        header = codec.pack(protocol.encode(call, Address("amqptasks", "q"))).header
        body = Sealed()
        stage.lane.take(Delivery("q", tag, 1, False, "amqptasks", "q", header, body))
        run = stage.pool.submitted[-1]
        stage.start(run.key)
        stage.finish(run.key, Outcome(publish=(result(),)))
        stage.publisher.answer()
        assert run.delivery.body is body, "it goes to the pool as it came"

    assert await stage.settled() == [("ack", 3)]
    assert Sealed.looks == []


# --- channels ------------------------------------------------------------------------------------------------


@scenario
async def test_an_early_task_that_starts_after_its_channel_was_lost_is_not_acknowledged_on_it(stage):
    key = stage.deliver("early")
    stage.pool.waiting.clear()  # the child has it
    stage.dispatch.void(stage.lane)
    stage.new_lane()

    stage.start(key)
    stage.finish(key, Outcome())

    assert (await stage.settled(0), await stage.settled(1)) == ([], [])
    assert stage.deliver("early", redelivered=True) is None, "it comes again, and ran already"
    assert await stage.settled(1) == [("ack", 1)]


# --- prefetch ------------------------------------------------------------------------------------------------


class Held:
    """In the dispatch's place: takes, and settles nothing."""

    def __init__(self):
        self.deliveries = []
        self.flights, self.pool = {}, SimpleNamespace(running={})
        self.holding = SimpleNamespace(due=())

    def receive(self, lane, delivery):
        self.deliveries.append((lane.queue.name, delivery))

    def void(self, lane):
        """Nothing is settled, so nothing is void."""


@on_loop
async def test_each_queue_hands_over_its_own_prefetch_and_no_more():
    connect = partial(memory.connect, f"prefetch-{uuid.uuid4()}")
    held, link = Held(), await connect()
    await link.declare(Queue("short"), Queue("long"))
    await send(link, *(message(queue) for queue in ("short", "long") for _ in range(20)))
    queues = [WorkerQueue("short"), WorkerQueue("long")]
    consumers = Consumers(
        connect, queues, held, prefetch=lambda: Prefetch(2, 3), node="n@h", retrying=Retrying()
    )

    await consumers.open()
    await until(lambda: len(held.deliveries) >= 12)
    await settled(link)

    names = [name for name, _ in held.deliveries]
    assert (names.count("short"), names.count("long")) == (6, 6)
    await consumers.close()
    await link.close()
