"""Classes of tasks: their attributes, their one instance, `register_task`, and the app's own class."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from amqptasks import App, Task, shared_task
from amqptasks.errors import ImproperlyConfigured
from amqptasks.registry import SharedTasks
from amqptasks.result import AsyncResult
from tests.working import Work


class Counted(Task[..., Any]):
    """Counts its instances, and makes something expensive once."""

    made = 0
    connections = 0
    bound: list[Any] = []
    _db: object = None

    def __init__(self) -> None:
        type(self).made += 1

    @property
    def db(self) -> object:
        if self._db is None:
            type(self).connections += 1
            self._db = object()
        return self._db

    @classmethod
    def on_bound(cls, app: Any) -> None:
        cls.bound.append(app)


@pytest.fixture(autouse=True)
def _from_zero() -> None:
    Counted.made = Counted.connections = 0
    Counted.bound = []


def test_one_instance_runs_every_call_and_keeps_what_it_made(app: App, work: Work) -> None:
    seen: list[Any] = []

    @app.task(base=Counted, bind=True, name="proj.rows")
    def rows(self: Counted) -> None:
        seen.append((id(self), id(self.db)))

    for _ in range(5):
        rows.delay()
    work(5)

    assert len(seen) == 5
    assert len(set(seen)) == 1
    assert (Counted.made, Counted.connections) == (1, 1)
    assert Counted.bound == [app]


@pytest.mark.parametrize(
    "given", [Counted, "tests.test_custom_tasks:Counted", "tests.test_custom_tasks.Counted"]
)
def test_the_app_s_own_class_is_that_of_all_its_tasks(given: Any) -> None:
    """As a class, with a colon, with a dot alone."""
    app = App(task_cls=given, set_as_current=False)

    @app.task
    def plain() -> None: ...

    @app.task(base=Task)
    def other() -> None: ...

    assert isinstance(plain, Counted)
    assert not isinstance(other, Counted)
    assert app.Task is Counted


def test_shared_tasks_have_the_app_s_class_too(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless they name one: a library's task is one of the app's tasks."""
    store = SharedTasks()
    monkeypatch.setattr("amqptasks.sharing.shared", store)
    monkeypatch.setattr("amqptasks.app.shared", store)

    class Slow(Counted):
        queue = "slow"

    @shared_task(name="lib.add", bind=True, max_retries=9)
    def add(self: Any) -> Any:
        return self

    @shared_task(name="lib.own", base=Add)
    def own() -> None: ...

    app.task_cls = Slow
    adopted = app.tasks["lib.add"]
    add.delay()

    assert isinstance(adopted, Slow)
    assert (adopted.app, adopted.max_retries, adopted()) == (app, 9, adopted)
    assert app.connection.get("slow") is not None
    assert type(app.tasks["lib.own"]) is Add


def test_a_subclass_of_the_app_may_name_the_class() -> None:
    class Own(App):
        task_cls = "tests.test_custom_tasks:Counted"

    assert isinstance(Own(set_as_current=False).task(name="proj.add")(lambda: None), Counted)


def test_without_a_word_it_is_the_library_s_own() -> None:
    app = App(set_as_current=False)

    assert app.Task is Task
    assert type(app.task(name="proj.add")(lambda: None)) is Task


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("tests.test_custom_tasks:Missing", "has no 'Missing'"),
        ("no_such_package.tasks:Base", "no module 'no_such_package'"),
        ("tests.test_custom_tasks:Work", "inherits from amqptasks.task.Task"),
        (dict, "inherits from amqptasks.task.Task"),
    ],
)
def test_a_wrong_class_is_named_when_the_first_task_is_made(given: Any, words: str) -> None:
    app = App(task_cls=given, set_as_current=False)

    with pytest.raises(ImproperlyConfigured, match=words):
        app.task(name="proj.add")(lambda: None)


class Add(Task[..., int]):
    name = "proj.add"

    def run(self, x: int, y: int = 1) -> int:
        return x + y


class AddMore(Add):
    name = "proj.add_more"

    def run(self, x: int, y: int = 10) -> int:
        return super().run(x, y)


@pytest.mark.parametrize("given", [Add, Add()])
def test_a_class_or_an_object_of_it_is_registered(app: App, work: Work, given: Any) -> None:
    add = app.register_task(given)

    result = add.delay(2, y=3)
    work(1)

    assert result.get(timeout=60) == 5
    assert app.tasks["proj.add"] is add
    with pytest.raises(TypeError, match=r"proj.add\(x: .int., y: .int. = 1\)"):
        add.delay()


def test_a_task_class_may_inherit_from_another(app: App) -> None:
    app.register_task(Add)

    assert app.register_task(AddMore)(1) == 11
    assert app.tasks["proj.add"](1) == 2


def test_options_of_a_class_count_as_those_of_the_decorator(app: App, work: Work) -> None:
    class Fragile(Task[..., Any]):
        name = "proj.fragile"
        autoretry_for = (KeyError,)
        retry_kwargs = {"countdown": 0}
        throws = KeyError

        def run(self) -> None:
            raise KeyError("again")

    app.register_task(Fragile).delay()
    work(1)

    assert work.outcomes[0].state == "RETRY"
    assert app.tasks["proj.fragile"].throws == (KeyError,)


def test_a_soft_limit_above_the_hard_one_is_refused_in_a_class(app: App) -> None:
    class Wrong(Add):
        time_limit = 1
        soft_time_limit = 2

    with pytest.raises(ValueError, match=r"soft_time_limit \(2 s\) must not exceed time_limit \(1 s\)"):
        app.register_task(Wrong)
    with pytest.raises(ValueError, match="must not exceed"):
        app.task(base=Wrong, name="proj.other")(lambda: None)


def test_trail_keeps_the_results_of_calls_or_not(app: App, work: Work) -> None:
    kept: dict[bool, int] = {}

    @app.task(name="proj.child")
    def child() -> None: ...

    @app.task(name="proj.with", bind=True)
    def with_trail(self: Task[..., Any]) -> None:
        self.add_trail(AsyncResult("elsewhere"))
        child.delay()
        kept[True] = len(self.request.children)

    @app.task(name="proj.without", bind=True, trail=False)
    def without(self: Task[..., Any]) -> None:
        self.add_trail(AsyncResult("elsewhere"))
        child.delay()
        kept[False] = len(self.request.children)

    with_trail.delay()
    without.delay()
    work(2)

    assert kept == {True: 2, False: 0}


def test_update_state_reports_a_state_of_one_s_own(app: App, work: Work) -> None:
    seen: list[Any] = []
    came = threading.Event()

    def on_message(state: dict[str, Any]) -> None:
        seen.append((state["status"], state["result"]))
        came.set()

    @app.task(bind=True, name="proj.upload")
    def upload(self: Task[..., Any]) -> str:
        self.update_state(state="PROGRESS", meta={"done": 1, "of": 3})
        came.wait(60)  # only the newest is kept for who is not waiting yet
        self.update_state(state="PROGRESS", meta={"done": 2, "of": 3})
        return "all"

    result = upload.delay()
    thread = threading.Thread(target=work, args=(1,))
    thread.start()
    value = result.get(timeout=60, on_message=on_message)
    thread.join()

    assert value == "all"
    assert seen == [
        ("PROGRESS", {"done": 1, "of": 3}), ("PROGRESS", {"done": 2, "of": 3}), ("SUCCESS", "all"),
    ]  # fmt: skip


def test_what_is_ignored_by_the_task_s_own_option_reports_nothing(app: App, work: Work) -> None:
    """A call by name does not say what the task's option is: the message leaves it open."""
    reported: list[Any] = []

    @app.task(bind=True, name="proj.quiet", ignore_result=True)
    def quiet(self: Task[..., Any]) -> None:
        self.backend.store = lambda meta, publish: reported.append(meta)  # type: ignore[method-assign]
        self.update_state(state="PROGRESS")

    App(broker=app.conf.broker_url, set_as_current=False).send_task("proj.quiet")
    work(1)

    assert reported == []


class Careless(Task[..., Any]):
    """Every handler raises; each says that it was called, and how."""

    called: list[Any] = []

    def before_start(self, *arguments: Any) -> None:
        self.called.append("before_start")
        raise RuntimeError("before_start")

    def on_success(self, *arguments: Any) -> None:
        self.called.append("on_success")
        raise RuntimeError("on_success")

    def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
        self.called.append(("on_failure", repr(einfo.exception), "Traceback" in str(einfo)))
        raise RuntimeError("on_failure")

    def after_return(
        self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        self.called.append(("after_return", status, einfo is None))
        raise RuntimeError("after_return")


@pytest.mark.parametrize("in_place", [True, False])
def test_what_a_handler_raises_is_logged_and_changes_nothing(
    app: App, work: Work, caplog: pytest.LogCaptureFixture, in_place: bool
) -> None:
    @app.task(base=Careless, name="proj.divide")
    def divide(x: int, y: int) -> float:
        return x / y

    Careless.called = []
    calls = [(4, 2), (4, 0)]
    results = [divide.apply(args) if in_place else divide.delay(*args) for args in calls]
    work()

    assert results[0].get(timeout=60) == 2
    assert [each.state for each in results] == ["SUCCESS", "FAILURE"]
    assert Careless.called == [
        "before_start",
        "on_success",
        ("after_return", "SUCCESS", True),
        "before_start",
        ("on_failure", "ZeroDivisionError('division by zero')", True),
        ("after_return", "FAILURE", False),
    ]
    assert caplog.text.count("the task's outcome is not changed by it") == 6
