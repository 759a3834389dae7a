"""A message that the ladder passed on twice runs once here, whatever the first copy is at when the second comes."""

from __future__ import annotations

from datetime import UTC, datetime

from amqptasks import protocol
from amqptasks.amqp import Address, Delivery
from amqptasks.protocol import CLIMBS
from amqptasks.transport import codec
from amqptasks.worker.admission import fields_of, identity_of
from amqptasks.worker.copies import climbing
from amqptasks.worker.outcome import Outcome, Verdict
from tests.worker.test_dispatch import Stage, scenario

ETA = datetime(2020, 1, 1, tzinfo=UTC)
BOTH = [("ack", 2)]
"""The second and all before it."""
LATER = datetime(2020, 1, 1, 0, 0, 0, 1, tzinfo=UTC)


def climbed(stage: Stage, task: str = "late", eta: datetime = ETA, **options: object) -> int | None:
    return stage.deliver(task, exchange="amqptasks.delay.1", eta=eta, **options)


@scenario
async def test_a_copy_of_what_has_ended_is_acknowledged(stage):
    stage.finish(climbed(stage), Outcome())

    assert climbed(stage) is None
    assert await stage.settled() == BOTH


@scenario
async def test_a_copy_of_an_early_task_that_runs_is_acknowledged(stage):
    stage.start(climbed(stage, "early"))

    assert climbed(stage, "early") is None
    assert await stage.settled() == BOTH


@scenario
async def test_copies_of_a_late_task_that_runs_share_its_outcome(stage):
    key = climbed(stage)
    stage.start(key)

    assert climbed(stage) is climbed(stage) is None
    assert await stage.settled() == []

    stage.finish(key, Outcome(Verdict.REJECT))
    assert sorted(await stage.settled()) == [("reject", 1), ("reject", 2), ("reject", 3)]
    assert stage.dispatch.in_flight == 0


@scenario
async def test_one_of_two_copies_goes_back_and_runs_again(stage):
    key = climbed(stage)
    assert climbed(stage) is None

    stage.finish(key, Outcome(Verdict.REQUEUE))

    assert sorted(await stage.settled()) == [("ack", 2), ("requeue", 1)]
    assert climbed(stage, redelivered=True) is not None


@scenario
async def test_copies_whose_channel_is_lost_before_they_start_come_again_and_one_runs(stage):
    climbed(stage)
    assert climbed(stage) is None
    stage.dispatch.void(stage.lane)
    assert stage.dispatch.in_flight == 0
    stage.new_lane()

    key = climbed(stage, redelivered=True)
    assert key is not None
    assert climbed(stage, redelivered=True) is None

    stage.finish(key, Outcome())
    assert await stage.settled() == BOTH


@scenario
async def test_copies_whose_channel_is_lost_while_one_runs_wait_for_its_outcome(stage):
    key = climbed(stage)
    stage.start(key)
    assert climbed(stage) is None
    stage.dispatch.void(stage.lane)
    stage.new_lane()

    assert climbed(stage, redelivered=True) is climbed(stage, redelivered=True) is None

    stage.finish(key, Outcome())
    assert await stage.settled() == BOTH
    assert stage.dispatch.in_flight == 0


@scenario
async def test_another_call_of_the_same_id_is_no_copy(stage):
    """Not for the same moment, not the next attempt, not one that climbs again."""
    stage.finish(climbed(stage), Outcome())

    assert climbed(stage, eta=LATER) is not None
    assert climbed(stage, retries=1) is not None
    assert climbed(stage, headers={CLIMBS: 1}) is not None


@scenario
async def test_without_the_ladder_only_what_is_marked_as_redelivered_is_a_double(stage):
    stage.finish(stage.deliver("late"), Outcome())

    assert stage.deliver("late") is not None


def test_each_climb_of_a_message_is_another_message():
    """What lies years ahead climbs the whole ladder again and again, by the same way."""
    message = protocol.TaskMessage(id="1", task="late", eta=LATER)
    parcel = codec.pack(protocol.encode(message, Address("", "q")))
    identities = set()
    for _ in range(3):
        delivery = Delivery("q", 1, 1, False, "amqptasks.delay.5", "9.9.x.q", parcel.header, parcel.body)
        identities.add(identity_of(delivery, fields_of(delivery)))
        parcel = codec.pack(climbing(delivery))

    assert len(identities) == 3
