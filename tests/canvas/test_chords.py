"""A chord on the broker: what lies in its queue, who fires it, what a double or a loss does to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from amqptasks import App, GroupResult, chain, chord, group, protocol, states
from amqptasks.amqp import Delivery, Queue
from amqptasks.canvas import joining, parts, sending
from amqptasks.canvas.shaping import shaped
from amqptasks.config import Config
from amqptasks.errors import ChordError, Ignore, ImproperlyConfigured, TaskRevoked, TooLarge
from amqptasks.signatures import signature
from amqptasks.testing import running_worker
from amqptasks.transport import codec
from amqptasks.transport.memory import MemoryLink
from amqptasks.worker.outcome import Cause
from tests.working import Work, called, gone


@pytest.fixture
def fails(app: App) -> Any:
    @app.task(name="proj.fails", throws=(ValueError,))
    def fails(*args: Any) -> None:
        raise ValueError("no")

    return fails


def queue_of(result: Any) -> str:
    node = result
    while node.parent is not None:
        node = node.parent
    return parts.queue_of(node.id)


def lying(app: App, queue: str) -> int:
    return app.connection.inspect(queue).messages


# --- the broker's view ----------------------------------------------------------------------------------------


def test_the_body_lies_in_the_chord_s_queue_and_in_no_member(app: App, add: Any, total: Any) -> None:
    result = chord([add.s(1), add.s(2)], total.s().set(shadow="MARK")).apply_async()

    members = [app.connection.get("amqptasks") for _ in range(2)]
    plan = app.connection.get(queue_of(result))

    assert not any(b"MARK" in member.body for member in members if member)
    assert plan is not None
    assert json.loads(plan.body)["plan"]["size"] == 2
    assert b"MARK" in plan.body


def test_the_plan_is_there_before_any_member(app: App, add: Any, total: Any) -> None:
    """A plan that came after the last part would be counted by nobody."""
    with app.batch():
        result = chord([add.s(1), add.s(2)], total.s()).apply_async()

        assert lying(app, queue_of(result)) == 1
        assert app.connection.get("amqptasks") is None


def test_each_member_leaves_its_part_and_the_last_count_fires(
    app: App, add: Any, total: Any, work: Work
) -> None:
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    queue = queue_of(result)

    work(1)
    assert lying(app, queue) == 2, "the plan and one part"
    work(queue="amqptasks.internal")
    assert not result.ready()
    work(1)
    work(queue="amqptasks.internal")

    assert gone(app, queue)
    work()
    assert result.get(timeout=60) == 3
    assert isinstance(result.parent, GroupResult)
    assert result.parent.get(timeout=60) == [1, 2]


def test_a_chord_is_done_when_its_queue_is_gone(app: App, add: Any, total: Any, work: Work) -> None:
    result = chord([add.s(1)], total.s()).apply_async()
    work.all()

    assert not joining.unlock(app, result.parent.id, 1), "a late count finds no queue"
    assert result.get(timeout=60) == 1


def run_again(work: Work, deliveries: Sequence[Delivery]) -> None:
    for delivery in deliveries:
        work.run(delivery)


def test_doubles_do_not_fire_a_chord_and_do_not_count_twice(
    app: App, add: Any, total: Any, work: Work
) -> None:
    result = chord([add.s(1), add.s(2), add.s(4)], total.s()).apply_async()
    work(2)
    run_again(work, work.deliveries[:2])
    work(queue="amqptasks.internal")

    assert lying(app, queue_of(result)) == 5, "what was claimed too early lies there again"
    work.all()

    assert result.get(timeout=60) == 7


def test_a_double_after_the_end_brings_nothing_back(app: App, add: Any, total: Any, work: Work) -> None:
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    work(2)
    members = list(work.deliveries)
    work.all()
    ran = len(work.deliveries)

    parcels = [parcel for member in members for parcel in work.run(member).publish]
    work.all()

    assert {parcel.fate for parcel in parcels if parcel.routing_key == queue_of(result)} == {"part"}
    bodies = [one for one in work.deliveries[ran:] if b"proj.total" in one.header]
    assert not bodies
    assert result.get(timeout=60) == 3


def test_a_join_that_is_repeated_publishes_the_same_body(app: App, add: Any, total: Any, work: Work) -> None:
    """As after a kill between the body's publish and the queue's end: the broker still has all parts."""
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    queue = queue_of(result)
    work(2)
    count = lying(app, queue)
    drained = joining._drain(app, queue, count)
    assert drained is not None
    joining._fire(app, result.parent.id, drained)
    joining._release(app, drained)

    work(queue="amqptasks.internal")

    ids = [work.take("amqptasks", 1) for _ in range(2)]
    assert {codec.decode_header(one.header).headers["id"] for one in ids if one} == {result.id}  # type: ignore[index]
    assert gone(app, queue)


def test_one_join_at_a_time(app: App, add: Any, total: Any, work: Work) -> None:
    result = chord([add.s(1)], total.s()).apply_async()
    queue = queue_of(result)
    work(1)
    held = joining._drain(app, queue, 2)
    assert held is not None
    app.connection.publish([parts.unlock_message(parts.Place(result.parent.id, (0,), 1), app.conf)])

    with pytest.raises(joining.Busy):
        joining._drain(app, queue, 2)
    # Nothing is ready now; that is no reason to think that parts are missing.
    with pytest.raises(joining.Busy):
        joining.unlock(app, result.parent.id, 1)

    joining._release(app, held)
    work.all()
    assert result.get(timeout=60) == 1


def test_a_join_that_gets_less_than_was_counted_is_tried_again(
    app: App, add: Any, total: Any, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow broker must not be taken for missing parts: nobody would count them again."""
    app.conf.result_chord_join_timeout = 0.01
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    work(2)
    with monkeypatch.context() as slow:
        slow.setattr(joining, "_ready", lambda app, queue: 4)
        with pytest.raises(joining.Busy, match="3 of 4"):
            joining.unlock(app, result.parent.id, 2)
        with pytest.raises(joining.Busy, match="3 of 4"):
            joining.expired(app, result.parent.id, 1.0)

    work.all()
    assert result.get(timeout=60) == 3


def test_a_join_whose_connection_breaks_takes_the_parts_over_the_next_one(
    app: App, add: Any, total: Any, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    queue, consume, broken = queue_of(result), MemoryLink.consume, list[str]()
    work(2)

    async def breaking(self: MemoryLink, name: str, take: Any, on_cancel: Any, **options: Any) -> Any:
        consumer = await consume(self, name, take, on_cancel, **options)
        if name == queue and not broken:
            broken.append(name)
            self.broker.drop_connections()
        return consumer

    monkeypatch.setattr(MemoryLink, "consume", breaking)
    assert joining.unlock(app, result.parent.id, 2)
    work.all()

    assert broken
    assert result.get(timeout=60) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "too many positional arguments"),
        ({"serializer": "none"}, "no serializer is named"),
        ({"priority": "x"}, ""),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_body_that_cannot_be_called_fails_instead_of_waiting_for_ever(
    app: App, add: Any, work: Work, nested: bool, options: dict[str, Any], said: str
) -> None:
    """Its mistake shows when the join calls it, where nobody but the chord's waiter can be told."""

    @app.task(name="proj.takes_nothing")
    def takes_nothing() -> None: ...

    body = (add.s(1) if options else takes_nothing.s()).set(**options)
    whole = chord([add.s(1)], body)
    result = (add.si(0) | (whole | add.s(1))).apply_async() if nested else whole.apply_async()
    work.all()

    with pytest.raises(ChordError, match=f"chord .* cannot be given to its body: .*{said}"):
        result.get(timeout=60)


def test_a_canvas_that_a_celery_worker_passes_on_and_that_cannot_be_sent_fails_too(
    app: App, add: Any, work: Work
) -> None:
    step = sending.wrapped(chord([add.s(1)], add.s(1).set(task_id="the-body")), app)
    step["kwargs"]["canvas"]["kwargs"]["header"][0].set(serializer="none")
    result = app.AsyncResult("the-body")
    app.backend.expect("the-body")
    step["kwargs"]["canvas"]["kwargs"]["body"].set(reply_to=app.backend.reply_to())
    app.prepare_entities(parts.internal_entities(app.conf))
    signature(step, app=app).apply_async((0,))
    work.all()

    with pytest.raises(ImproperlyConfigured, match="no serializer is named"):
        result.get(timeout=60)


# --- shapes ---------------------------------------------------------------------------------------------------


def test_a_chord_of_nothing_calls_its_body_with_nothing(app: App, total: Any, work: Work) -> None:
    result = chord([], total.s()).apply_async()
    work.all()

    assert result.get(timeout=60) == 0


def test_a_generator_is_a_header(app: App, add: Any, total: Any, work: Work) -> None:
    result = chord((add.s(n, n) for n in range(10)), total.s())()
    work.all()

    assert result.get(timeout=60) == 90


def test_a_chord_may_be_given_its_body_by_the_call(app: App, add: Any, total: Any, work: Work) -> None:
    result = chord(add.s(n) for n in range(4))(total.s())
    work.all()

    assert result.get(timeout=60) == 6


def test_a_chain_that_ends_in_a_group_gives_a_header_one_list(app: App, add: Any, work: Work) -> None:
    collect = app.tasks["celery.accumulate"]
    header = group(chain(add.s(40, 2), group(add.s(), add.s())))

    result = chord(header, collect.s(index=0)).apply_async()
    work.all()

    assert result.get(timeout=60) == [[42, 42]]


def test_partial_arguments_go_to_the_header(app: App, add: Any, total: Any, work: Work) -> None:
    result = chord([add.s(1), add.s(2)], total.s()).apply_async((10,))
    work.all()

    assert result.get(timeout=60) == 23


def test_times_delay_the_header_and_other_options_go_to_all(app: App, add: Any, total: Any) -> None:
    run = chord([add.s(1)], total.s()).clone(countdown=30, queue="q")

    assert parts_of(run) == ({"countdown": 30, "queue": "q"}, {"queue": "q"})


def parts_of(sig: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    run = shaped(sig)
    return dict(run["kwargs"]["header"]["kwargs"]["tasks"][0].options), dict(run["kwargs"]["body"].options)


def test_a_chord_s_queue_outlives_the_delay_of_its_header(app: App) -> None:
    short, long = parts.entity_of("x"), parts.entity_of("x", 86400.0 * 10)

    assert long.arguments["x-expires"] - short.arguments["x-expires"] == 86400 * 10 * 1000
    assert short == Queue(
        "amqptasks.chord.x", arguments={"x-queue-type": "classic", "x-expires": 7 * 86400 * 1000}
    )


# --- failures -------------------------------------------------------------------------------------------------


def test_a_failed_member_fails_the_body_and_names_itself(
    app: App, add: Any, fails: Any, total: Any, work: Work
) -> None:
    result = chord([add.s(1), fails.s().set(task_id="me"), add.s(2)], total.s()).apply_async()
    work.all()

    with pytest.raises(ChordError, match=r"Dependency me raised ValueError\('no'\)"):
        result.get(timeout=60)
    assert result.parent[2].get(timeout=60) == 2, "the others run on"


def test_the_body_s_errbacks_run_once_in_both_styles(
    app: App, fails: Any, add: Any, total: Any, work: Work
) -> None:
    seen: list[Any] = []

    @app.task(name="proj.new")
    def new(request: Any, exc: Any, traceback: Any) -> None:
        seen.append((request.id, type(exc)))

    @app.task(name="proj.old")
    def old(task_id: str) -> None:
        seen.append(task_id)

    body = total.s().on_error(new.s()).on_error(old.s())
    result = chord([fails.s(), fails.s(), add.s(1)], body).apply_async()
    work.all()

    assert seen == [(result.id, ChordError), result.id]


def test_what_follows_in_the_chain_is_told(app: App, fails: Any, add: Any, total: Any, work: Work) -> None:
    result = (chord([fails.s()], total.s()) | add.s(1) | group(add.s(2), add.s(3))).apply_async()
    work.all()

    assert [type(each) for each in result.get(timeout=1, propagate=False)] == [ChordError] * 2
    assert result.parent.state == result.parent.parent.state == states.FAILURE


def test_a_revoked_member_fails_the_body(app: App, add: Any, total: Any, work: Work) -> None:
    result = chord([add.s(1)], total.s()).apply_async()
    delivery = work.take("amqptasks", 1)
    assert delivery is not None
    work(0)
    work.run(delivery, Cause.REVOKED)
    work.all()

    with pytest.raises(ChordError, match="revoked"):
        result.get(timeout=60)
    with pytest.raises(TaskRevoked):
        result.parent.get(timeout=60)


@pytest.mark.parametrize("cause", [Cause.EXPIRED, Cause.REVOKED, Cause.TERMINATED])
@pytest.mark.parametrize("kind", ["task", "first step", "last step", "chord's member", "chord's body"])
def test_whatever_ends_a_member_from_outside_ends_its_chord(
    app: App, add: Any, total: Any, work: Work, cause: Cause, kind: str
) -> None:
    """Also where the member is a chain or another chord. In Celery such a chord waits for ever."""
    ended = app.task(name="proj.ended")(lambda *args: 0)
    member = {
        "task": ended.s(),
        "first step": chain(ended.s(), add.s(1)),
        "last step": chain(add.s(1), ended.s()),
        "chord's member": chord([ended.s(), add.s(2)], total.s()),
        "chord's body": chord([add.s(1), add.s(2)], ended.s()),
    }[kind]
    result = chord([add.s(1), member], total.s()).apply_async()

    while True:
        delivery = work.take("amqptasks", 0) or work.take("amqptasks.internal", 0)
        if delivery is None:
            break
        work.run(delivery, cause if called(delivery) == "proj.ended" else Cause.RUN)

    with pytest.raises(ChordError, match=r"Dependency .* raised"):
        result.get(timeout=60)
    assert gone(app, queue_of(result))


def test_a_member_that_ignores_itself_does_not_stall_the_chord(app: App, total: Any, work: Work) -> None:
    @app.task(name="proj.ignores")
    def ignores() -> None:
        raise Ignore("mine")

    result = chord([ignores.s()], total.s()).apply_async()
    work.all()

    with pytest.raises(ChordError, match="mine"):
        result.get(timeout=60)


def test_a_member_that_nobody_knows_fails_the_body(app: App, total: Any, work: Work) -> None:
    app.conf.task_unknown_retries = 0
    result = chord([app.signature("elsewhere.unknown")], total.s()).apply_async()
    work.all()

    with pytest.raises(ChordError, match=r"elsewhere\.unknown"):
        result.get(timeout=60)


def test_values_that_are_too_large_together_are_a_chord_error(
    app: App, add: Any, total: Any, work: Work
) -> None:
    app.conf.broker_max_message_size = 4000
    result = chord([add.s("x" * 1500, "") for _ in range(4)], total.s()).apply_async()
    work.all()

    with pytest.raises(ChordError, match="cannot be given to its body"):
        result.get(timeout=60)


def test_a_body_that_is_too_large_is_refused_where_it_is_called(app: App, add: Any) -> None:
    app.conf.broker_max_message_size = 4000

    with pytest.raises(TooLarge, match="the body of a chord"):
        chord([add.s(1)], add.s("x" * 5000)).apply_async()


def test_a_chord_without_a_body_says_so(app: App, add: Any) -> None:
    with pytest.raises(TypeError, match="has no body"):
        chord([add.s(1)]).apply_async()


def test_a_timeout_fails_what_is_not_done(app: App, add: Any, total: Any, work: Work) -> None:
    result = chord([add.s(1), add.s(2)], total.s(), join_timeout=0.01).apply_async()
    work(1)
    work.all("amqptasks.internal")

    with pytest.raises(ChordError, match=r"1 of the 2 members .* within 0.01 s"):
        result.get(timeout=60)
    assert gone(app, queue_of(result))
    work.all()
    assert result.parent.get(timeout=60) == [1, 2], "the members run on"


# --- growing --------------------------------------------------------------------------------------------------


def test_a_member_may_add_members(app: App, add: Any, work: Work) -> None:
    @app.task(name="proj.grows", bind=True)
    def grows(self: Any, value: int) -> int:
        self.add_to_chord(add.s(value, 100))
        self.add_to_chord(add.s(value, 200) | add.s(0))
        return value

    collect = app.tasks["celery.accumulate"]
    result = chord([grows.s(1), add.s(2)], collect.s(index=0)).apply_async()
    work.all()

    assert result.get(timeout=60) == [1, 2, 101, 201]


def test_outside_of_a_chord_nothing_can_be_added(app: App, add: Any, work: Work) -> None:
    @app.task(name="proj.grows", bind=True, throws=(ValueError,))
    def grows(self: Any) -> None:
        self.add_to_chord(add.s(1))

    result = grows.delay()
    work()

    with pytest.raises(ValueError, match="is in no chord"):
        result.get(timeout=60)


# --- size -----------------------------------------------------------------------------------------------------


def published(app: App, queues: Sequence[str], work: Work) -> int:
    """Run everything; return the bytes of all that was published on the way."""
    work.all(*queues)
    return sum(len(parcel.body) for outcome in work.outcomes for parcel in outcome.publish)


def nested(add: Any, total: Any, depth: int) -> Any:
    """A chain of `depth` chords of chords."""
    step = lambda: chord([chord([add.s(1), add.s(2)], total.s()) for _ in range(3)], total.s())  # noqa: E731
    return chain(*(part for _ in range(depth) for part in (step(), add.si(1))))


def test_a_chain_of_nine_chords_of_chords_stays_small(app: App, add: Any, total: Any) -> None:
    sizes = {}
    for depth in (3, 9):
        work = Work(app)
        result = nested(add, total, depth).apply_async()
        sent = published(app, (), work)
        largest = max(len(parcel.body) for outcome in work.outcomes for parcel in outcome.publish)
        sizes[depth] = (largest, sent)
        assert result.get(timeout=60) == 1

    print(f"largest message and all bytes of 3 and 9 chords of chords: {sizes}")
    # The client's own plan holds all steps; the largest message after it one less.
    assert sizes[9][0] / 8 < 1.1 * sizes[3][0] / 2, "a message holds each remaining step once"
    assert sizes[9][1] < 1_000_000


# --- doubles of the body --------------------------------------------------------------------------------------


def test_a_worker_drops_a_body_that_it_has_seen(app: App, add: Any, work: Work) -> None:
    """A join that was killed after its publish is run again, and publishes the same call."""
    ran: list[Any] = []

    @app.task(name="proj.body")
    def body(values: list[int]) -> None:
        ran.append(values)

    result = chord([add.s(1), add.s(2)], body.s()).apply_async()
    queue = queue_of(result)
    work(2)
    for _ in range(3):
        drained = joining._drain(app, queue, 3)
        assert drained is not None
        joining._fire(app, result.parent.id, drained)
        joining._release(app, drained)

    with running_worker(app) as worker:
        worker.wait_until_idle()

    assert ran == [[1, 2]]
    assert worker.counters.doubles >= 2


def test_what_replaces_a_task_is_no_double_of_it(app: App, add: Any) -> None:
    """It has the same id, and comes by the same way."""

    @app.task(name="proj.falls", bind=True)
    def falls(self: Any, number: int) -> Any:
        return self.replace(self.s(number - 1)) if number else "down"

    with running_worker(app):
        result = chord([falls.s(2)], falls.s(0).set(immutable=True)).apply_async()
        assert result.get(timeout=60) == "down"
        assert (falls.s(3) | add.s("!")).apply_async().get(timeout=60) == "down!"


# --- beside Celery --------------------------------------------------------------------------------------------


def taken(app: App) -> protocol.TaskMessage:
    delivery = app.connection.get("amqptasks")
    assert delivery is not None
    return protocol.decode(codec.unpack(delivery), accept=frozenset({"application/json"}), limit=1 << 20)


def test_a_chord_in_a_chain_travels_as_a_call_that_any_worker_can_send(
    app: App, add: Any, total: Any, work: Work
) -> None:
    result = (add.s(1) | chord([add.s(1), add.s(2)], total.s())).apply_async()
    *_, step = taken(app).chain or ()

    app.signature(step).apply_async((10,))
    work.all()

    assert (step["task"], step["subtask_type"]) == ("amqptasks.chord", None)
    assert step["options"]["routing_key"] == "amqptasks.internal"
    assert (step["options"]["task_id"], step["options"]["reply_to"]) == (result.id, app.backend.reply_to())
    assert result.get(timeout=60) == 23


def test_a_worker_that_knows_no_chords_leaves_its_parts_by_its_callbacks(
    app: App, add: Any, total: Any, work: Work
) -> None:
    """What Celery's workers do: callbacks with the value, errbacks with the id."""
    result = chord([add.s(1), add.s(2)], total.s()).apply_async()
    for value in (10, 20):
        member = taken(app)
        (callback,) = member.callbacks or ()
        app.signature(callback).apply_async((value,), parent_id=member.id)
    work.all()

    assert result.get(timeout=60) == 30


def test_a_failure_told_by_an_errback_names_the_member(app: App, add: Any, total: Any, work: Work) -> None:
    result = chord([add.s(1)], total.s()).apply_async()
    member = taken(app)
    (errback,) = member.errbacks or ()
    app.signature(errback).apply_async((member.id,))
    work.all()

    with pytest.raises(ChordError, match=f"Dependency {member.id} raised"):
        result.get(timeout=60)


@pytest.mark.parametrize("as_group", [False, True])
def test_a_header_is_a_list_or_a_group(app: App, add: Any, total: Any, work: Work, as_group: bool) -> None:
    header: Any = [dict(add.s(1)), dict(add.s(2))]
    if as_group:
        header = json.loads(json.dumps(group(header)))
    stored = {
        "task": "celery.chord",
        "args": [],
        "kwargs": {"kwargs": {}, "header": header, "body": dict(total.s())},
        "options": {},
        "subtask_type": "chord",
        "immutable": False,
    }

    result = app.signature(stored).apply_async()
    work.all()

    assert result.get(timeout=60) == 3


def test_apps_of_one_virtual_host_have_workers_of_their_own() -> None:
    one, other = Config({}), Config({"task_default_queue": "billing"})

    assert parts.internal_key(one) == "amqptasks.internal"
    assert parts.internal_key(other) == "amqptasks.internal.billing"


@pytest.mark.parametrize("name", ["amqptasks.chunks", "celery.chunks"])
def test_chunks_run_in_one_call(app: App, add: Any, work: Work, name: str) -> None:
    """A signature of Celery's kind, sent by its name, and as the step of a chain."""
    called = {"task": dict(add.s()), "it": [(1, 1), (2, 2), (3, 3)], "n": 2}
    step = {"task": name, "kwargs": called, "options": {}, "subtask_type": "chunks", "immutable": True}
    results = [
        app.send_task(name, (), called),
        chain(add.s(1), app.signature(step)).apply_async(),
    ]
    work.all()

    for result in results:
        assert result.get(timeout=60) == [[2, 4], [6]]
