"""A due run that two beats have sent: the worker that has seen the first drops the second. Others do not know of it."""

from __future__ import annotations

from amqptasks.beat.sending import DUE
from amqptasks.worker.outcome import Outcome, Verdict
from tests.worker.test_dispatch import Stage, scenario


def sent(stage: Stage, task: str = "late", **headers: object) -> int | None:
    return stage.deliver(task, exchange="amqptasks", headers=headers or {DUE: "2026-05-01T12:00:00+00:00"})


@scenario
async def test_a_double_of_what_has_ended_is_acknowledged(stage):
    stage.finish(sent(stage), Outcome())

    assert sent(stage) is None
    assert stage.dispatch.counters.doubles == 1
    assert await stage.settled() == [("ack", 2)]


@scenario
async def test_a_double_of_what_runs_shares_its_outcome(stage):
    key = sent(stage)
    stage.start(key)
    assert sent(stage) is None
    stage.finish(key, Outcome(Verdict.REJECT))

    assert sorted(await stage.settled()) == [("reject", 1), ("reject", 2)]


@scenario
async def test_only_what_beat_sent_is_told_by_its_id_alone(stage):
    """A caller may have given one id to two calls, and both are to run."""
    assert sent(stage, x="1") is not None
    assert sent(stage, x="1") is not None
