"""What is told of a message that the broker would not deliver again, and of one that kills its obituaries too."""

from __future__ import annotations

from typing import Any

import pytest

from amqptasks import App, Queue, chain, chord
from amqptasks.amqp import Delivery
from amqptasks.canvas.parts import UNLOCK
from amqptasks.errors import ChordError, WorkerLost
from amqptasks.transport import codec
from amqptasks.worker.dispatch import OBITUARIES
from amqptasks.worker.lane import Lane
from amqptasks.worker.outcome import Cause, WorkerQueue
from amqptasks.worker.prefetch import Prefetch
from amqptasks.worker.queues import consumed
from tests.worker.test_dispatch import FakeConsumer, Stage, scenario
from tests.working import Work, called


def limited(stage: Stage, limit: int | None) -> None:
    """Consume a queue of this delivery limit from now on."""
    arguments = {} if limit is None else {"x-delivery-limit": limit}
    declared = WorkerQueue("q", declare=(Queue("q", arguments=arguments).entity(),))
    stage.lane = Lane(declared, Prefetch(10, 1), stage.dispatch.receive)
    stage.lane.attach(FakeConsumer(), stage.loop)


def cause(stage: Stage, task: str, *, redelivered: bool, count: Any) -> Cause:
    key = stage.deliver(task, str(count), redelivered=redelivered, headers={"x-delivery-count": count})
    assert key is not None
    return stage.pool.submitted[-1].cause


@scenario
async def test_a_message_on_its_last_delivery_is_not_run_once_more(stage: Stage) -> None:
    """The broker would make it a dead letter if this worker died too, and nobody would be told."""
    limited(stage, 3)

    for count, expected in (
        (2, Cause.RUN),
        (3, Cause.SPENT),
        (4, Cause.SPENT),
        ("x", Cause.RUN),
        (-1, Cause.RUN),
    ):
        assert cause(stage, "late", redelivered=True, count=count) is expected
    assert "x-delivery-limit 3" in stage.pool.submitted[1].detail
    assert cause(stage, "early", redelivered=True, count=3) is Cause.SPENT
    assert cause(stage, "late", redelivered=False, count=7) is Cause.RUN, "a header of its sender's"


@scenario
async def test_without_a_known_limit_every_message_is_run(stage: Stage) -> None:
    limited(stage, None)

    assert cause(stage, "late", redelivered=True, count=1000) is Cause.RUN


def test_the_limit_is_that_of_the_queue_as_it_is_declared(app: App) -> None:
    app.conf.task_queue_delivery_limit = 7
    taken: list[Delivery] = []

    lane = Lane(
        consumed(app.router.queue("amqptasks"), app.conf), Prefetch(1, 1), lambda _, d: taken.append(d)
    )

    assert lane.limit == 7


@scenario
async def test_a_message_that_kills_its_obituaries_gets_one_without_the_user_s_code(stage: Stage) -> None:
    key = stage.deliver("again")
    stage.start(key)
    causes = []
    for _ in range(OBITUARIES + 1):
        stage.lose(key)
        causes.append(stage.pool.submitted[-1].cause)

    assert causes == [*[Cause.LOST] * OBITUARIES, Cause.BURIED]
    assert stage.publisher.posted == []

    stage.lose(key)
    assert stage.publisher.answer().exchange == "amqptasks.dead", "from the parent, as it is"


@scenario
async def test_what_is_owed_is_told_before_the_worker_ends(stage: Stage) -> None:
    """Given back, the first would be a dead letter of the broker's, and the second would kill elsewhere."""
    limited(stage, 3)
    assert cause(stage, "late", redelivered=True, count=3) is Cause.SPENT
    key = stage.deliver("again", "other")
    assert key is not None
    stage.start(key)
    for _ in range(OBITUARIES + 1):
        stage.lose(key)

    assert stage.dispatch.give_back() == 0

    assert [run.cause for run in stage.pool.waiting] == [Cause.SPENT, Cause.BURIED]


# --- what follows ---------------------------------------------------------------------------------------------


@pytest.fixture
def add(app: App) -> Any:
    return app.task(name="proj.add")(lambda x, y=0: x + y)


@pytest.fixture
def total(app: App) -> Any:
    return app.task(name="proj.total")(sum)


@pytest.fixture
def heard(app: App) -> list[str]:
    """What errbacks of both styles and a handler were told, in order."""
    told: list[str] = []

    @app.task(name="proj.new_style")
    def new_style(request: Any, exc: Any, traceback: Any) -> None:
        told.append("new errback")

    @app.task(name="proj.old_style")
    def old_style(task_id: str) -> None:
        told.append("old errback")

    class Handling(app.Task):  # type: ignore[name-defined,misc]
        def on_failure(self, *args: Any) -> None:
            told.append("on_failure")

    @app.task(name="proj.kills", base=Handling, acks_late=True, reject_on_worker_lost=True)
    def kills() -> None: ...

    return told


@pytest.mark.parametrize(
    ("cause", "told", "reason"),
    [
        (Cause.SPENT, ["new errback", "on_failure", "old errback"], "delivery_limit"),
        (Cause.BURIED, ["old errback"], "crashed"),
    ],
)
def test_everybody_is_told_once_and_it_is_a_dead_letter(
    app: App, add: Any, total: Any, work: Work, heard: list[str], cause: Cause, told: list[str], reason: str
) -> None:
    errbacks = [app.tasks["proj.new_style"].s(), app.tasks["proj.old_style"].s()]
    member = chain(app.tasks["proj.kills"].s().set(link_error=errbacks), add.s(1))
    whole = chord([member], total.s()).apply_async()
    delivery = work.take("amqptasks", 60)
    assert delivery is not None

    work.run(delivery, cause)
    work.all()

    assert heard == told
    with pytest.raises(ChordError, match="WorkerLost"):
        whole.get(timeout=60)
    for each in (whole.parent[0], whole.parent[0].parent):
        with pytest.raises(WorkerLost):
            each.get(timeout=60)
    dead = app.connection.get("amqptasks.dead")
    assert dead is not None
    headers = codec.decode_header(dead.header).headers or {}
    assert (headers["x-amqptasks-reason"], dead.body) == (reason, delivery.body)


@pytest.mark.parametrize("cause", [Cause.SPENT, Cause.BURIED])
def test_a_join_that_ends_so_fails_its_chord(
    app: App, add: Any, total: Any, work: Work, cause: Cause
) -> None:
    whole = chord([add.s(1)], total.s()).apply_async()
    work(1)
    delivery = work.take("amqptasks.internal", 60)
    assert delivery is not None
    assert called(delivery) == UNLOCK

    work.run(delivery, cause)
    work.all()

    with pytest.raises(ChordError, match="given up"):
        whole.get(timeout=60)
