"""Parts whose queue is not there: its node is down, and they wait for it; or its chord is done, and they are doubles."""

from __future__ import annotations

import json
from typing import Any

import pytest

from amqptasks import App, chord, late_parts
from amqptasks.amqp import Address
from amqptasks.canvas import joining, parts
from amqptasks.errors import ChordError, QueueDown, TimeoutError
from amqptasks.testing import running_worker
from amqptasks.transport import codec
from amqptasks.transport.memory_broker import MemoryBroker
from tests.working import Work, eventually


def queue_of(result: Any) -> str:
    return parts.queue_of(result.parent.id)


def test_parts_wait_for_the_node_of_their_queue(app: App, add: Any, total: Any, broker: MemoryBroker) -> None:
    result = chord([add.s(number) for number in range(3)], total.s()).apply_async()
    broker.take_down(queue_of(result))
    with running_worker(app) as worker:
        assert result.parent.get(timeout=60) == [0, 1, 2]
        with pytest.raises(TimeoutError):
            result.get(timeout=0.3)
        eventually(lambda: worker.counters.tasks[late_parts.LATE] > 3, "they are tried again")
        broker.bring_up(queue_of(result))

        assert result.get(timeout=60) == 3


def test_a_count_waits_for_the_node_too(
    app: App, add: Any, total: Any, broker: MemoryBroker, work: Work
) -> None:
    """The parts are there; the node went down before they were counted."""
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    work(2)
    broker.take_down(queue_of(result))
    for ask in (
        lambda: joining.unlock(app, result.parent.id, 2),
        lambda: joining.expired(app, result.parent.id, 1.0),
    ):
        with pytest.raises(QueueDown, match="bring_up"):
            ask()
    broker.bring_up(queue_of(result))

    work.all()
    assert result.get(timeout=60) == 3


def test_the_failure_of_a_chord_in_a_chord_waits_for_the_outer_one_s_node(
    app: App, add: Any, total: Any, broker: MemoryBroker
) -> None:
    """It is a join that publishes that part, not the outcome of a run."""

    @app.task(throws=(ValueError,))
    def fails(x: int) -> None:
        raise ValueError(x)

    inner = chord([fails.s(1), add.s(2)], total.s())
    result = chord([inner, add.s(3)], total.s()).apply_async()
    broker.take_down(queue_of(result))
    with running_worker(app):
        with pytest.raises(TimeoutError):
            result.get(timeout=0.3)
        broker.bring_up(queue_of(result))
        with pytest.raises(ChordError, match="ValueError"):
            result.get(timeout=60)


def test_a_double_of_a_part_is_dropped_when_its_chord_is_done(
    app: App, add: Any, total: Any, work: Work, broker: MemoryBroker
) -> None:
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    work(2)
    part = next(each for outcome in work.outcomes for each in outcome.publish if each.fate == "part")
    work.all()
    assert result.get(timeout=60) == 3

    call = late_parts.call(part, Address(parts.INTERNAL, parts.internal_key(app.conf)))
    app.connection.publish([call])

    assert work(1, queue="amqptasks.internal") == 1
    assert work.outcomes[-1].state == "SUCCESS"
    assert app.connection.inspect("amqptasks.internal").messages == 0


def test_a_part_is_held_as_it_is(app: App, add: Any, total: Any, work: Work) -> None:
    chord([add.s(1), add.s(2)], total.s()).apply_async()
    work(1)
    [part] = [each for each in work.outcomes[0].publish if each.fate == "part"]
    call = late_parts.call(part, Address("x", "k"))
    [_, kwargs, _] = json.loads(call.body)

    assert late_parts.part(kwargs["group_id"], kwargs["header"], kwargs["body"]) == part
    assert codec.decode_header(part.header).message_id == part.message_id


@pytest.mark.parametrize("down", [True, False])
def test_the_failure_of_a_chord_waits_for_the_node_of_its_caller_s_queue(
    app: App, add: Any, total: Any, broker: MemoryBroker, work: Work, down: bool
) -> None:
    """It is a join that tells it, not the outcome of a run; a caller who is gone is not waited for."""

    @app.task(throws=(ValueError,))
    def fails(x: int) -> None:
        raise ValueError(x)

    result = chord([fails.s(1)], total.s()).apply_async()
    replies = app.backend.reply_to()
    assert replies is not None
    work(1)
    if down:
        broker.take_down(replies)
    else:
        app.connection.delete_queue(replies)
    work(1, queue=parts.INTERNAL)

    assert app.connection.inspect(parts.INTERNAL).messages == int(down)
    if down:
        broker.bring_up(replies)
        work.all(parts.INTERNAL)
        with pytest.raises(ChordError, match="ValueError"):
            result.get(timeout=60)
