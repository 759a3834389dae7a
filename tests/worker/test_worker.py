"""A whole worker on `memory://`: from the call to the result, and every way a run can end."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from amqptasks import App, Task, signals, states
from amqptasks.amqp import Address, Envelope, Properties
from amqptasks.errors import Ignore, NotRegistered, Reject, Retry, TaskRevoked
from amqptasks.testing import RunningWorker, running_worker
from amqptasks.transport import codec

_numbers = itertools.count()


class Tracked(Task[..., Any]):
    """Notes every handler call."""

    calls: list[tuple[str, Any]]

    def before_start(self, task_id, args, kwargs):
        self.calls.append(("before_start", args))

    def on_success(self, retval, task_id, args, kwargs):
        self.calls.append(("on_success", retval))

    def on_failure(self, exc, task_id, args, kwargs, einfo):
        self.calls.append(("on_failure", repr(exc), "Traceback" in str(einfo)))

    def on_retry(self, exc, task_id, args, kwargs, einfo):
        self.calls.append(("on_retry", repr(exc)))

    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        self.calls.append(("after_return", status))


@pytest.fixture
def app() -> Iterator[App]:
    app = App("proj", broker=f"memory://worker-{next(_numbers)}")
    define(app)
    yield app
    app.close()


def define(app: App) -> None:
    @app.task
    def add(a, b):
        return a + b

    @app.task(base=Tracked, bind=True, max_retries=2)
    def shaky(self, failures):
        if self.request.retries < failures:
            raise self.retry(exc=ConnectionError("down"), countdown=0)
        return self.request.retries

    @app.task(base=Tracked)
    def boom(word):
        raise KeyError(word)

    @app.task(acks_late=True)
    def reject(requeue):
        raise Reject("not mine", requeue=requeue)

    @app.task
    def early_reject():
        raise Reject("too late")

    @app.task(bind=True)
    def ignore(self):
        self.update_state(state="HALFWAY", meta={"done": 1})
        raise Ignore

    @app.task
    def odd():
        return object()

    @app.task
    async def later(value):
        return value * 2

    @app.task
    def errback(request, exc, trace):
        seen.append((request.id, repr(exc)))

    @app.task(ignore_result=True)
    def note(*args):
        seen.append(args)

    shaky.calls, boom.calls = [], []
    seen: list[Any] = []
    app.seen = seen  # type: ignore[attr-defined]


@pytest.fixture
def worker(app: App) -> Iterator[RunningWorker]:
    with running_worker(app) as running:
        yield running


def task(app: App, word: str) -> Task[..., Any]:
    return next(task for name, task in app.tasks.items() if name.rpartition(".")[2] == word)


def test_a_result_comes_back(app, worker):
    result = task(app, "add").delay(2, 2)

    assert result.get(timeout=60) == 4
    assert result.state == states.SUCCESS


def test_a_coroutine_task_returns_its_value(app, worker):
    assert task(app, "later").delay(21).get(timeout=60) == 42


def test_an_exception_arrives_with_class_arguments_and_traceback(app, worker):
    result = task(app, "boom").delay("key")

    with pytest.raises(KeyError) as caught:
        result.get(timeout=60)

    assert caught.value.args == ("key",)
    assert "raise KeyError(word)" in str(caught.value.__cause__)
    assert task(app, "boom").calls[-2:] == [
        ("on_failure", "KeyError('key')", True),
        ("after_return", "FAILURE"),
    ]


def test_a_retry_runs_again_under_the_same_id_and_tells_its_handlers(app, worker):
    shaky = task(app, "shaky")

    result = shaky.delay(2)

    assert result.get(timeout=60) == 2
    words = [entry[0] for entry in shaky.calls]
    assert words == ["before_start", "on_retry"] * 2 + ["before_start", "on_success", "after_return"]


def test_retries_end_with_the_original_exception(app, worker):
    with pytest.raises(ConnectionError, match="down"):
        task(app, "shaky").delay(5).get(timeout=60)


def test_reject_gives_the_message_to_the_dead_letter_queue_and_tells_the_caller(app, worker):
    result = task(app, "reject").delay(False)

    with pytest.raises(Reject):
        result.get(timeout=60)

    worker.wait_until_idle()
    assert app.connection.inspect("amqptasks.dead").messages == 1


def test_reject_without_late_ack_warns_once_and_settles_nothing(app, worker, caplog):
    with caplog.at_level(logging.WARNING):
        task(app, "early_reject").delay()
        worker.wait_until_idle()

    assert [record.message for record in caplog.records if "acks_late=True" in record.message]
    assert app.connection.inspect("amqptasks.dead").messages == 0


def test_ignore_stores_nothing_but_what_the_task_stored_itself(app, worker):
    result = task(app, "ignore").delay()

    worker.wait_until_idle()
    deadline = time.monotonic() + 60  # the worker is done with it, the client's own thread perhaps not
    while result.state == "PENDING" and time.monotonic() < deadline:
        time.sleep(0.01)

    assert result.state == "HALFWAY"


def test_a_result_that_cannot_be_sent_is_a_failure(app, worker):
    with pytest.raises(Exception, match="cannot write"):
        task(app, "odd").delay().get(timeout=60)


def test_an_unknown_task_is_a_dead_letter_with_its_reason_and_its_caller_is_told(app):
    app.conf.task_unknown_retries = 0
    result = app.send_task("proj.nowhere", (1,))

    with running_worker(app) as worker:
        with pytest.raises(NotRegistered):
            result.get(timeout=60)
        worker.wait_until_idle()

    dead = app.connection.get("amqptasks.dead")
    headers = codec.decode_header(dead.header).headers
    assert headers["x-amqptasks-reason"] == "unknown"
    assert headers["x-amqptasks-queue"] == "amqptasks"
    assert "proj.nowhere" in headers["x-amqptasks-error"]


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"\x80\x04junk", "application/json", "undecodable"),
        (b"[1]", "application/json", "undecodable"),
        (b"cos\nsystem\n", "application/x-python-serialize", "forbidden"),
    ],
)
def test_what_cannot_be_read_is_a_dead_letter_and_never_stops_the_worker(
    app, worker, body, content_type, reason
):
    headers = {"task": task(app, "add").name, "id": "an-id"}
    properties = Properties(content_type=content_type, headers=headers, correlation_id="an-id")

    app.connection.publish([Envelope(Address("", "amqptasks"), body, properties)])

    assert task(app, "add").delay(1, 1).get(timeout=60) == 2
    worker.wait_until_idle()
    dead = app.connection.get("amqptasks.dead")
    assert dead.body == body
    assert codec.decode_header(dead.header).headers["x-amqptasks-reason"] == reason


def test_an_expired_task_is_revoked_and_never_runs(app):
    result = task(app, "note").apply_async((1,), expires=0.001, ignore_result=False)

    with running_worker(app), pytest.raises(TaskRevoked, match="expired"):
        result.get(timeout=60)

    assert app.seen == []


def test_an_eta_is_never_early(app, worker):
    due = datetime.now(UTC) + timedelta(seconds=0.3)

    task(app, "add").apply_async((1, 1), eta=due).get(timeout=60)

    assert datetime.now(UTC) >= due


def test_callbacks_and_errbacks_run(app, worker):
    note, errback = task(app, "note"), task(app, "errback")

    task(app, "add").apply_async((1, 2), link=note.s("linked"))
    failed = task(app, "boom").apply_async(("k",), link_error=errback.s())

    with pytest.raises(KeyError):
        failed.get(timeout=60)
    worker.wait_until_idle()
    assert sorted(app.seen, key=repr) == sorted([(3, "linked"), (failed.id, "KeyError('k')")], key=repr)


def test_a_chain_passes_its_values_on(app, worker):
    add = task(app, "add")

    assert (add.s(1, 2) | add.s(3) | add.s(4)).apply_async().get(timeout=60) == 10


def test_a_chain_fails_as_a_whole(app, worker):
    with pytest.raises(KeyError):
        (task(app, "boom").s("x") | task(app, "add").s(1)).apply_async().get(timeout=60)


def test_signals_of_a_run_come_in_order(app, worker):
    seen: list[str] = []

    def listen(signal, **_):
        seen.append(signal.name)

    for signal in (signals.task_prerun, signals.task_success, signals.task_postrun):
        signal.connect(listen, weak=False)
    try:
        task(app, "add").delay(1, 1).get(timeout=60)
        worker.wait_until_idle()
    finally:
        for signal in (signals.task_prerun, signals.task_success, signals.task_postrun):
            signal.disconnect(listen)

    assert seen == ["task_prerun", "task_success", "task_postrun"]


def test_raising_retry_by_hand_runs_again(app, worker):
    attempts: list[int] = []

    @app.task(bind=True, name="proj.by_hand")
    def by_hand(self):
        attempts.append(self.request.retries)
        if not self.request.retries:
            raise Retry("once more", when=0)
        return "done"

    with running_worker(app, hostname="other@localhost"):
        assert by_hand.delay().get(timeout=60) == "done"

    assert attempts == [0, 1]


def test_an_outcome_that_cannot_be_written_is_a_dead_letter_and_not_a_loop(app, worker, monkeypatch):
    from amqptasks.worker.conclusions import Conclusions

    def broken(*_args, **_kwargs):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Conclusions, "failed", broken)

    task(app, "boom").delay("x")

    worker.wait_until_idle()
    headers = codec.decode_header(app.connection.get("amqptasks.dead").header).headers
    assert headers["x-amqptasks-reason"] == "outcome"
    assert "a bug of ours" in headers["x-amqptasks-error"]


def test_a_retry_that_does_not_raise_still_runs_again(app, worker):
    attempts: list[int] = []

    @app.task(bind=True, name="proj.quiet")
    def quiet(self):
        attempts.append(self.request.retries)
        if not self.request.retries:
            self.retry(throw=False, countdown=0)

    with running_worker(app, hostname="other@localhost") as other:
        quiet.delay().get(timeout=60)
        worker.wait_until_idle()
        other.wait_until_idle()

    assert attempts == [0, 1]
