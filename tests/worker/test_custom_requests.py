"""`Task.Request`: a class of one's own whose hooks see each call, and change nothing about it."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from amqptasks import App, Task, states
from amqptasks.errors import ImproperlyConfigured, Reject, SoftTimeLimitExceeded, TimeLimitExceeded
from amqptasks.request import Request as Context
from amqptasks.testing import running_worker
from amqptasks.worker import custom, manifest
from amqptasks.worker.executor import Executor
from amqptasks.worker.outcome import Cause, Run
from amqptasks.worker.request import Request
from tests.working import Work

seen: list[Any] = []


class Watched(Request):
    """Writes down what it is told, and that one object is told it all."""

    def on_received(self) -> None:
        super().on_received()
        seen.append(("received", self.task_name, self.task_id))

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        super().on_accepted(pid, time_accepted)
        self.mine = object()
        seen.append(("accepted", pid == self.worker_pid == os.getpid(), self.task_id))

    def on_success(self, failed__retval__runtime: tuple[bool, Any, float], **kwargs: Any) -> None:
        super().on_success(failed__retval__runtime, **kwargs)
        failed, value, runtime = failed__retval__runtime
        assert self.mine
        seen.append(("success", failed, value, 0 <= runtime < 60))

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        seen.append(("failure", repr(exc_info.exception), "Traceback" in str(exc_info)))

    def on_retry(self, exc_info: Any) -> None:
        super().on_retry(exc_info)
        seen.append(("retry", repr(exc_info.exception.exc), self.retries))

    def on_timeout(self, soft: bool, timeout: float) -> None:
        super().on_timeout(soft, timeout)
        seen.append(("timeout", soft, timeout))

    def reject(self, requeue: bool = False) -> None:
        super().reject(requeue)
        seen.append(("reject", requeue))


class Late(Task[..., Any]):
    Request = Watched
    acks_late = True


class Broken(Request):
    def on_accepted(self, pid: int, time_accepted: float) -> None:
        raise RuntimeError("hook")

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> None:
        raise RuntimeError("hook")


class NoInit(Request):
    def __init__(self, wrong: Any) -> None: ...


class Doubling(Request):
    def execute(self) -> Any:
        return 2 * super().execute()


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


def test_a_success_is_accepted_then_told(app: App, work: Work) -> None:
    add = app.task(name="proj.add", base=Late)(lambda x: x + 1)

    id = add.delay(1).id
    work(1)

    assert seen == [("accepted", True, id), ("success", False, 2, True)]


def test_failure_retry_and_rejection_are_told(app: App, work: Work) -> None:
    @app.task(name="proj.end", base=Late, bind=True)
    def end(self: Any, how: str) -> None:
        match how:
            case "fail":
                raise ValueError(how)
            case "retry":
                self.retry(exc=KeyError(how), countdown=0)
            case _:
                raise Reject(how, requeue=how == "again")

    for how in ("fail", "retry", "never", "again"):
        seen.clear()
        end.delay(how)
        delivery = work.take("amqptasks", 60)
        assert delivery is not None
        work.run(delivery)
        assert seen[0][0] == "accepted"
        expected = {
            "fail": ("failure", "ValueError('fail')", True),
            "retry": ("retry", "KeyError('retry')", 0),
            "never": ("reject", False),
            "again": ("reject", True),
        }
        assert seen[1:] == [expected[how]]
        app.connection.purge("amqptasks")


def test_a_soft_limit_is_told_before_the_failure(app: App, work: Work) -> None:
    @app.task(name="proj.slow", base=Late)
    def slow() -> None:
        raise SoftTimeLimitExceeded(1.5)  # as the child's signal does

    slow.delay()
    work(1)

    assert [each[0] for each in seen] == ["accepted", "timeout", "failure"]
    assert seen[1] == ("timeout", True, 1.5)


def test_a_hard_limit_is_told_where_the_obituary_is_written(app: App, work: Work) -> None:
    slow = app.task(name="proj.slow", base=Late)(lambda: None)
    slow.delay()
    delivery = work.take("amqptasks", 60)
    assert delivery is not None

    Executor(app, "w1@test").run(Run(1, delivery, Cause.TIMEOUT, "2.5"), lambda parcels: None)

    assert seen == [("timeout", False, 2.5), ("failure", "TimeLimitExceeded(2.5)", False)]


def test_the_limit_of_a_subtask_is_a_failure_like_others(app: App, work: Work) -> None:
    @app.task(name="proj.waits", base=Late)
    def waits() -> None:
        raise TimeLimitExceeded(3.0)

    waits.delay()
    work(1)

    assert [each[0] for each in seen] == ["accepted", "failure"]


def test_what_the_worker_receives_is_told_to_the_class(app: App) -> None:
    add = app.task(name="proj.add", base=Late)(lambda x: x)
    other = app.task(name="proj.other")(lambda: None)

    with running_worker(app) as worker:
        id = add.delay(1).id
        other.delay()
        worker.wait_until_idle()

    assert seen.count(("received", "proj.add", id)) == 1
    assert [each[0] for each in seen if each[0] == "received"] == ["received"]


@pytest.mark.parametrize(
    "given", [Watched, f"{__name__}:Watched", f"{__name__}.Watched"], ids=["class", "colon", "dot"]
)
def test_the_class_may_be_named(app: App, work: Work, given: Any) -> None:
    app.task(name="proj.add", Request=given)(lambda: None)
    app.finalize()

    assert "task_received" in manifest.build(app, queues=(), exclude=()).hooks
    app.tasks["proj.add"].delay()
    work(1)
    assert [each[0] for each in seen] == ["accepted", "success"]


def test_tasks_without_one_cost_no_hook_and_make_no_object(app: App, work: Work) -> None:
    made: list[Any] = []

    class Quiet(Request):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    plain = app.task(name="proj.plain", bind=True)(lambda self: made.append(self.request.custom))
    app.task(name="proj.ours", Request=Request)(lambda: None)
    app.task(name="proj.quiet", Request=Quiet)(lambda: None)
    app.finalize()

    assert manifest.build(app, queues=(), exclude=()).hooks == frozenset()
    assert app.tasks["proj.ours"].Request is plain.Request
    plain.delay()
    work(1)
    assert made == [None]


@pytest.mark.parametrize("given", ["amqptasks.worker.request:Missing", dict, "amqptasks.request:Request", 7])
def test_what_is_no_such_class_keeps_the_worker_from_starting(app: App, given: Any) -> None:
    app.task(name="proj.add", Request=given)(lambda: None)

    with pytest.raises(ImproperlyConfigured, match=r"Request of task proj\.add"):
        manifest.build(app, queues=(), exclude=())


def test_a_hook_that_raises_is_logged_and_changes_nothing(
    app: App, work: Work, caplog: pytest.LogCaptureFixture
) -> None:
    for name, kind in (("proj.broken", Broken), ("proj.unmade", NoInit)):
        result = app.task(name=name, Request=kind)(lambda: "fine").delay()
        with caplog.at_level(logging.ERROR):
            work(1)
        assert result.get(timeout=60) == "fine"
        assert work.outcomes[-1].state == states.SUCCESS

    assert "on_accepted" in caplog.text
    assert "on_success" in caplog.text
    assert "the Request of task proj.unmade could not be made" in caplog.text


def test_it_may_run_the_task_its_own_way(app: App, work: Work) -> None:
    plain = app.task(name="proj.add", Request=Doubling)(lambda x: x)
    result = plain.delay(4)
    work(1)

    assert result.get(timeout=60) == 8


def test_it_knows_the_call(app: App) -> None:
    task = app.task(name="proj.add")(lambda: None)
    request = Request(task, Context(id="i", task="proj.add", args=(1,), retries=2, shadow="sum"))

    assert (request.name, request.task_name, request.task_id, request.args) == ("sum", "proj.add", "i", (1,))
    assert (request.retries, request.app, request.task) == (2, app, task)
    assert repr(request) == "<Request: sum[i]>"
    assert custom.request_of(task, request.context) is None
    with pytest.raises(AttributeError, match="must call super"):
        _ = NoInit(1).args
