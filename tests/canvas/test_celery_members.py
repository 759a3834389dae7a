"""Members of a chord that failed on a worker of Celery's: who says why."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqptasks import App, chord, protocol, states
from amqptasks.backends.base import Meta
from amqptasks.errors import ChordError, StoreUnavailable
from amqptasks.signatures import signature
from amqptasks.transport import codec
from tests.working import Work


def fail_on_celery(app: App, work: Work, error: BaseException | None) -> None:
    """What comes of a member there: its FAILURE in the store, if `error`, then its errback, with nothing but its id."""
    delivery = app.connection.get("amqptasks")
    assert delivery is not None
    message = protocol.decode(codec.unpack(delivery), accept=frozenset({"application/json"}), limit=1 << 20)
    if error is not None:
        app.backend.store(Meta(task_id=message.id, status=states.FAILURE, result=error), lambda _: None)
    [errback] = message.errbacks or ()
    signature(errback, app=app).apply_async((message.id,))
    work.all()


@pytest.fixture
def storing(tmp_path: Path) -> Iterator[App]:
    with App("proj", broker=f"memory://{uuid.uuid4()}", backend=f"db+sqlite:///{tmp_path}/results.db") as app:
        yield app


def test_a_member_that_failed_on_celery_s_worker_says_why_where_the_store_does(storing: App) -> None:
    """Celery's errbacks carry an id; the exception was stored before they are sent."""
    app = storing

    @app.task(name="proj.fails")
    def fails() -> None: ...

    result = chord([fails.s()], app.tasks["celery.accumulate"].s()).apply_async()
    work = Work(app)
    fail_on_celery(app, work, ValueError("no such user"))
    work.close()

    with pytest.raises(ChordError, match=r"Dependency .* raised ValueError\('no such user'\)") as raised:
        result.get(timeout=60)
    assert result.parent[0].id in str(raised.value)


@pytest.mark.parametrize("down", [False, True])
def test_a_member_that_failed_on_celery_s_worker_is_named_where_nothing_says_why(
    storing: App, monkeypatch: pytest.MonkeyPatch, down: bool
) -> None:
    app = storing

    @app.task(name="proj.fails", ignore_result=True)
    def fails() -> None: ...

    def fetch(task_id: str) -> Meta | None:
        raise StoreUnavailable("the store is down")

    result = chord([fails.s()], app.tasks["celery.accumulate"].s()).apply_async()
    if down:
        monkeypatch.setattr(app.backend, "fetch", fetch)
    work = Work(app)
    fail_on_celery(app, work, None)
    work.close()
    monkeypatch.undo()

    with pytest.raises(
        ChordError, match=r"Dependency .* raised ChordError.*does not say why: see its own result"
    ):
        result.get(timeout=60)
