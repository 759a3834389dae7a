"""What carries a workflow on and will never be done: its process dies again and again, it fails, or is revoked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from amqptasks import App, chain, chord, protocol
from amqptasks.amqp import Address, Delivery
from amqptasks.canvas import joining, parts
from amqptasks.canvas.giving_up import GAVE_UP
from amqptasks.errors import ChordError, TaskRevoked, WorkerLost
from amqptasks.transport import codec
from amqptasks.worker.outcome import Cause
from tests.working import Work, called, gone

INTERNAL = "amqptasks.internal"


def dies(work: Work, delivery: Delivery) -> int:
    """Let a call's process die until it is not run again; return how often it did. What follows is not run."""
    deaths, name = 0, called(delivery)
    while called(delivery) == name:
        deaths += 1
        published = work.run(delivery, Cause.LOST).publish
        if [(each.exchange, each.routing_key) for each in published] != [("", delivery.queue)]:
            return deaths
        found = work.take(delivery.queue, 60)
        assert found is not None
        delivery = found
    raise AssertionError(f"{name} is followed by {called(delivery)}")


def taken(work: Work, task: str) -> Delivery:
    """The next of the workers' own calls, which is one of `task`."""
    delivery = work.take(INTERNAL, 60)
    assert delivery is not None
    assert called(delivery) == task
    return delivery


def passed_on(app: App, work: Work) -> None:
    """Do with the first step of a chain as a worker of Celery's: the next one is sent as a call."""
    first = work.take("amqptasks", 60)
    assert first is not None
    message = protocol.decode(codec.unpack(first), accept=frozenset({"application/json"}), limit=1 << 20)
    *rest, step = message.chain or ()
    app.signature(step).apply_async((10,), chain=rest or None)


@pytest.fixture
def told(app: App) -> list[tuple[str, str]]:
    """Errbacks of both styles, registered; what they were told."""
    heard: list[tuple[str, str]] = []

    @app.task(name="proj.new_style")
    def new_style(request: Any, exc: Any, traceback: Any) -> None:
        heard.append(("new", repr(exc)))

    @app.task(name="proj.old_style")
    def old_style(task_id: str) -> None:
        heard.append(("old", task_id))

    return heard


def errbacks(app: App) -> list[Any]:
    return [app.tasks["proj.new_style"].s(), app.tasks["proj.old_style"].s()]


def test_a_chord_whose_join_dies_again_and_again_fails(
    app: App, add: Any, total: Any, work: Work, told: list[tuple[str, str]]
) -> None:
    body = total.s().set(link_error=errbacks(app))
    result = chain(chord([add.s(1), add.s(2)], body), add.s(3)).apply_async()
    queue = parts.queue_of(result.parent.parent.id)
    work(1)
    work(1, queue=INTERNAL)  # the first part's count
    work(1)

    assert dies(work, taken(work, parts.UNLOCK)) == app.conf.worker_lost_limit
    work.all()

    with pytest.raises(ChordError, match=r"join of the chord .* was given up: .*died 5 times"):
        result.parent.get(timeout=60)
    with pytest.raises(ChordError):
        result.get(timeout=60)
    assert gone(app, queue)
    assert [style for style, _ in told] == ["new", "old"]
    assert app.connection.inspect(f"{INTERNAL}.dead").messages == 1
    assert app.connection.inspect(INTERNAL).messages == 0


def test_an_errback_that_kills_whoever_tells_is_left_out_in_the_end(
    app: App, add: Any, total: Any, work: Work, told: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    result = chord([add.s(1)], total.s().set(link_error=errbacks(app))).apply_async()
    work(1)
    for name in (parts.UNLOCK, GAVE_UP):
        dies(work, taken(work, name))

    work.all()

    with pytest.raises(ChordError, match="given up"):
        result.get(timeout=60)
    assert [style for style, _ in told] == ["old"]
    assert "errback proj.new_style of" in caplog.text


def test_what_cannot_even_be_told_is_said_where_it_is_seen(
    app: App, add: Any, total: Any, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    chord([add.s(1)], total.s()).apply_async()
    work(1)
    for name in (parts.UNLOCK, GAVE_UP, GAVE_UP):
        dies(work, taken(work, name))

    assert app.connection.inspect(INTERNAL).messages == 0
    assert app.connection.inspect(f"{INTERNAL}.dead").messages == 3
    assert "cannot be told" in caplog.text


def test_a_count_that_is_not_the_last_may_be_lost(app: App, add: Any, total: Any, work: Work) -> None:
    """The chord's other members run yet: theirs will do."""
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    work(1)

    dies(work, taken(work, parts.UNLOCK))
    work.run(taken(work, GAVE_UP))
    work.all()

    assert result.get(timeout=60) == 3


def test_a_join_that_fails_for_good_fails_its_chord(
    app: App, add: Any, total: Any, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError("a bug")

    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    monkeypatch.setattr(joining, "_fire", broken)
    work.all()

    with pytest.raises(ChordError, match=r"the join of .* was given up: ZeroDivisionError\('a bug'\)"):
        result.get(timeout=60)
    assert gone(app, parts.queue_of(result.parent.id))


def test_the_end_of_a_timeout_that_dies_fails_its_chord(app: App, add: Any, total: Any, work: Work) -> None:
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    work(1)
    work(1, queue=INTERNAL)
    held, _ = parts.expiry_message(result.parent.id, 1.0, app.conf)
    app.connection.publish([replace(held, address=Address("", INTERNAL))])

    dies(work, taken(work, parts.EXPIRED))
    work.all(INTERNAL)

    with pytest.raises(ChordError, match=r"the end of the timeout of the chord .* was given up"):
        result.get(timeout=60)


def test_a_part_that_dies_fails_its_chord(app: App, add: Any, total: Any, work: Work) -> None:
    """Told by a worker of Celery's, or held because its queue's node is down: nobody else has it."""
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    work(1)
    work(1, queue=INTERNAL)
    place = parts.Place(result.parent.id, (1,), 2)
    callback, _ = parts.callbacks(place, app.conf)
    app.signature(callback).apply_async((3,))

    dies(work, taken(work, parts.PART))
    work.all(INTERNAL)

    with pytest.raises(ChordError, match=r"a part of the chord .* was given up"):
        result.get(timeout=60)
    assert gone(app, parts.queue_of(result.parent.id))


def test_a_chord_that_its_step_of_a_chain_cannot_send_fails(
    app: App, add: Any, total: Any, work: Work, told: list[tuple[str, str]]
) -> None:
    body = total.s().set(link_error=errbacks(app))
    result = chain(add.s(1), chord([add.s(2), add.s(3)], body), add.s(4)).apply_async()
    passed_on(app, work)

    dies(work, taken(work, "amqptasks.chord"))
    work.all()

    for each in (result, result.parent):
        with pytest.raises(WorkerLost, match="died 5 times"):
            each.get(timeout=60)
    assert [style for style, _ in told] == ["new", "old"]


def test_an_errback_that_kills_is_left_out_for_a_chord_that_was_never_sent_too(
    app: App, add: Any, total: Any, work: Work, told: list[tuple[str, str]]
) -> None:
    body = total.s().set(link_error=errbacks(app))
    result = chain(add.s(1), chord([add.s(2)], body)).apply_async()
    passed_on(app, work)

    for name in ("amqptasks.chord", GAVE_UP):
        dies(work, taken(work, name))
    work.all()

    with pytest.raises(WorkerLost):
        result.get(timeout=60)
    assert [style for style, _ in told] == ["old"]


def test_a_chord_that_is_revoked_before_its_step_of_a_chain_sends_it_is_told_so(
    app: App, add: Any, total: Any, work: Work
) -> None:
    """The step has the id that the caller knows: that of the chord's body."""
    result = chain(add.s(1), chord([add.s(2), add.s(3)], total.s())).apply_async()
    passed_on(app, work)
    step = taken(work, "amqptasks.chord")
    assert (codec.decode_header(step.header).headers or {})["id"] == result.id

    work.run(step, Cause.REVOKED)
    work.all()

    with pytest.raises(TaskRevoked):
        result.get(timeout=60)


@pytest.mark.parametrize(
    "name", ["amqptasks.accumulate", "celery.accumulate", "celery.map", "celery.starmap"]
)
def test_other_built_in_tasks_that_lose_their_process_are_told_like_any_task(
    app: App, add: Any, total: Any, work: Work, told: list[tuple[str, str]], name: str
) -> None:
    member = app.tasks[name].s(add.s(), [[1, 2]]).set(link_error=errbacks(app))
    result = chord([member, add.s(2)], total.s()).apply_async()
    delivery = work.take("amqptasks", 60)
    assert delivery is not None

    work.run(delivery, Cause.LOST)
    work.all()

    assert [style for style, _ in told] == ["new", "old"]
    with pytest.raises(ChordError, match="WorkerLost"):
        result.get(timeout=60)
    with pytest.raises(WorkerLost):
        result.parent[0].get(timeout=60)
