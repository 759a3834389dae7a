"""The setting `task_annotations`: what it may hold, and that it wins over what the task says itself."""

from __future__ import annotations

import pickle
import sys
import threading
from types import ModuleType
from typing import Any

import pytest

from amqptasks import App, Task, protocol, shared_task
from amqptasks.errors import ImproperlyConfigured
from amqptasks.registry import SharedTasks
from amqptasks.transport import codec
from amqptasks.worker import manifest
from amqptasks.worker.manifest import options_of
from tests.working import Work


def annotated(setting: Any, **options: Any) -> Task[..., Any]:
    app = App(task_annotations=setting, set_as_current=False)
    app.task(name="proj.add", **options)(lambda x=0: x)
    return app.tasks["proj.add"]


def test_an_annotation_wins_over_the_decorator_the_decorator_over_the_class_and_the_setting() -> None:
    class Late(Task[..., Any]):
        acks_late = True
        priority = 1
        rate_limit = "1/s"
        track_started: bool | None = None

    app = App(
        task_annotations={"proj.add": {"rate_limit": "3/s"}},
        task_track_started=True,
        task_acks_late=False,
        set_as_current=False,
    )
    app.task(name="proj.add", base=Late, priority=2, rate_limit="2/s")(lambda: None)
    task = app.tasks["proj.add"]

    assert (task.rate_limit, task.priority, task.acks_late) == ("3/s", 2, True)
    assert options_of(task, app.conf).track_started is True
    assert options_of(task, app.conf).acks_late is True


def test_what_is_said_of_one_task_wins_over_what_is_said_of_all() -> None:
    task = annotated({"*": {"max_retries": 7, "priority": 5}, "proj.add": {"priority": 6}})

    assert (task.max_retries, task.priority) == (7, 6)


class Fast:
    """An annotation object, as Celery's guide has them."""

    def annotate(self, task: Any) -> dict[str, Any] | None:
        return {"rate_limit": "9/s"} if task.name.startswith("proj.") else None

    def annotate_any(self) -> dict[str, Any]:
        return {"priority": 4}


@pytest.mark.parametrize(
    "setting",
    [
        Fast(),
        [Fast()],
        (None, {"other": {"rate_limit": "1/s"}}, Fast()),
        ["tests.test_annotating:Fast"],
        "tests.test_annotating.Fast",
        [{"proj.add": {"rate_limit": "9/s"}, "*": {"priority": 4}}, Fast()],
    ],
)
def test_it_may_be_an_object_or_a_list_or_the_name_of_a_class(setting: Any) -> None:
    task = annotated(setting)

    assert (task.rate_limit, task.priority) == ("9/s", 4)


def test_a_function_replaces_the_handler_and_gets_the_task(app: App, work: Work) -> None:
    seen: list[Any] = []

    def on_failure(self: Any, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        seen.append((self.name, repr(exc), task_id, args))

    def called(self: Any, *args: Any) -> Any:
        return super(type(self), self).__call__(*args) if args[0] else 1 / 0

    app.conf.task_annotations = {"*": {"on_failure": on_failure, "__call__": called}}

    @app.task(name="proj.divide")
    def divide(x: int) -> int:
        return x

    @app.task(name="proj.other")
    def other(x: int) -> int:
        return x

    id = divide.delay(0).id
    other.delay(1)
    work(2)

    assert [(name, error, task_id, list(args)) for name, error, task_id, args in seen] == [
        ("proj.divide", "ZeroDivisionError('division by zero')", id, [0])
    ]
    assert work.outcomes[1].state == "SUCCESS"
    assert Task.on_failure is not type(app.tasks["proj.divide"]).on_failure


def test_the_body_itself_may_be_replaced() -> None:
    task = annotated({"proj.add": {"run": lambda self, x, y: [self.name, x, y]}})

    assert task(1, 2) == ["proj.add", 1, 2]
    with pytest.raises(TypeError, match="y"):
        task.delay(1)


def test_options_that_change_the_body_count(app: App, work: Work) -> None:
    app.conf.task_annotations = {"proj.fail": {"autoretry_for": [KeyError], "retry_kwargs": {"countdown": 0}}}

    @app.task(name="proj.fail")
    def fail() -> None:
        raise KeyError("again")

    fail.delay()
    work(1)

    assert work.outcomes[0].state == "RETRY"


def test_the_caller_s_side_knows_it_too(app: App) -> None:
    """Nothing else has read the registry when the first call is made."""
    app.conf.task_annotations = {"proj.add": {"queue": "slow", "time_limit": 30}}

    @app.task(name="proj.add")
    def add() -> None: ...

    add.delay()
    delivery = app.connection.get("slow")

    assert delivery is not None
    message = protocol.decode(codec.unpack(delivery), accept=frozenset({"application/json"}), limit=1 << 20)
    assert tuple(message.timelimit) == (30, None)


def test_a_shared_task_is_annotated_app_by_app(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amqptasks.sharing.shared", SharedTasks())
    app.conf.task_annotations = {"lib.add": {"queue": "slow"}}

    @shared_task(name="lib.add")
    def add() -> None: ...

    monkeypatch.setattr("amqptasks.app.shared", sys.modules["amqptasks.sharing"].shared)
    add.delay()

    assert app.connection.get("slow") is not None
    assert add.queue is None


def test_an_object_is_asked_once_for_each_task() -> None:
    asked: list[str] = []

    class Counting:
        def annotate(self, task: Any) -> None:
            asked.append(task.name)

    app = App(task_annotations=Counting(), set_as_current=False)
    app.task(name="proj.add")(lambda: None)
    _ = app.tasks
    app.task(name="proj.late")(lambda: None)

    assert len(asked) == len(set(asked))
    assert {"proj.add", "proj.late"} <= set(asked)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"*": {"rate_limits": "1/s"}}, "did you mean 'rate_limit'"),
        ({"proj.add": "1/s"}, "write a dict of options"),
        (7, "annotate"),
        ("no_such_module.at_all", "no module 'no_such_module'"),
        ("tests.test_annotating:Slow", "has no 'Slow'"),
        ("Slow", "names no attribute of a module"),
    ],
)
def test_a_mistake_says_what_to_write(setting: Any, words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        annotated(setting)


def test_a_mistake_is_told_each_time(app: App) -> None:
    app.conf.task_annotations = {"proj.add": {"prioritee": 1}}
    add = app.task(name="proj.add")(lambda: None)

    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match="did you mean 'priority'"):
            add.delay()
    app.conf.task_annotations = {"proj.add": {"queue": "slow"}}
    add.delay()
    assert app.connection.get("slow") is not None


def test_a_thread_that_comes_meanwhile_waits_for_the_annotations(app: App) -> None:
    asked, go_on = threading.Event(), threading.Event()
    queues: list[Any] = []

    class Slow:
        def annotate(self, task: Any) -> dict[str, Any] | None:
            if task.name != "proj.add":
                return None
            asked.set()
            assert go_on.wait(60)
            return {"queue": "slow"}

    app.conf.task_annotations = Slow()
    add = app.task(name="proj.add")(lambda: None)
    threads = [threading.Thread(target=lambda: queues.append(add.preset.get("queue"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert asked.wait(60)
    threads[1].join(0.2)  # without the wait it would be through by now
    go_on.set()
    for thread in threads:
        thread.join(60)

    assert queues == ["slow", "slow"]


def test_limits_that_contradict_each_other_are_refused_here_as_well() -> None:
    with pytest.raises(ValueError, match="must not exceed time_limit"):
        annotated({"*": {"time_limit": 1}}, soft_time_limit=2)


def test_the_worker_s_parent_gets_no_code_of_the_user(app: App) -> None:
    """It must not import what it unpickles, and what cannot be pickled must not keep it from starting."""
    module = ModuleType("only_in_the_zygote")
    exec(
        "class Objects:\n    def annotate(self, task): return None\ndef route(*args): return None",
        vars(module),
    )
    app.conf.task_annotations = [module.Objects(), {"*": {"on_failure": lambda *args: None}}]
    app.conf.task_routes = [module.route]
    app.finalize()

    settings = pickle.loads(pickle.dumps(manifest.build(app, queues=(), exclude=()))).settings

    assert "on_failure" in settings["task_annotations"][1]["*"]
    assert "only_in_the_zygote" in settings["task_annotations"][0]
