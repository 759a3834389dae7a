"""What the project set out to be, statement by statement: how tasks are defined, retried and steered.

Each test is named after its rows, its docstring is what they say; code stands as a user types it. What was shown before
is in `test_seeds.py`; what needs processes is in `integration/test_seeds_tasks.py`.
"""

from __future__ import annotations

import logging
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App, Task, signals, states
from amqptasks.errors import Ignore, Reject, Retry
from amqptasks.protocol import TaskMessage
from amqptasks.request import Request
from tests.test_seeds import _no_app_of_another_test, broker, folder, typed, working

__all__ = ["_no_app_of_another_test", "broker", "folder", "working"]

Working = Callable[[App], None]


def attempt(task: Any, retries: int, *args: Any) -> Retry:
    """The Retry that the task's `retries + 1`th attempt raises."""
    message = TaskMessage(id="call", task=task.name, args=args, retries=retries)
    token = task.push_request(Request.made_from(message, delivery_info={"queue": "q"}))
    try:
        with pytest.raises(Retry) as raised:
            task(*args)
        return raised.value
    finally:
        task.pop_request(token)


# --- D. definition -------------------------------------------------------------------------------------------


class _Picks:
    def __call__(self, x: int, y: int) -> int:
        return y


@pytest.mark.parametrize(
    "make", [lambda: max, lambda: lambda x, y: y, _Picks], ids=["builtin", "lambda", "object"]
)
def test_row_56_a_task_is_made_of_any_callable_and_both_sends_and_runs(
    broker: str, working: Working, make: Callable[[], Any]
) -> None:
    """A task is made from any callable; it sends, and it runs."""
    app = App("proj", broker=broker)
    task = app.task(name="proj.pick", typing=False)(make())
    working(app)

    assert isinstance(task, Task)
    assert task(1, 2) == 2
    assert task.delay(1, 2).get(timeout=60) == 2


def test_row_57_the_unique_name_is_in_the_message(broker: str) -> None:
    """The message has the task's unique name, by which the worker finds the function."""
    app = App("proj", broker=broker)
    seen: list[str] = []

    @app.task(name="proj.sums.add")
    def add(x: int, y: int) -> int:
        return x + y

    @signals.before_task_publish.connect(weak=False)
    def look(sender: str, headers: dict[str, Any], **_: Any) -> None:
        seen.append(headers["task"])

    add.delay(2, 2)
    signals.before_task_publish.disconnect(look)
    app.close()

    assert seen == ["proj.sums.add"]


def test_row_58_a_task_beside_a_model_of_django(
    broker: str, working: Working, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`from .models import User` beside `@app.task`: a task makes a user by its model."""
    created: list[dict[str, str]] = []
    objects = types.SimpleNamespace(create=lambda **fields: created.append(fields))
    package, models = types.ModuleType("blog"), types.ModuleType("blog.models")
    models.User = types.SimpleNamespace(objects=objects)  # type: ignore[attr-defined]
    package.__path__ = []
    monkeypatch.setitem(__import__("sys").modules, "blog", package)
    monkeypatch.setitem(__import__("sys").modules, "blog.models", models)
    names = typed(
        f"""
        from amqptasks import App
        from .models import User
        app = App('blog', broker={broker!r})

        @app.task
        def create_user(username, password):
            User.objects.create(username=username, password=password)
        """,
        "blog.tasks",
        __package__="blog",
    )
    working(names["app"])

    names["create_user"].delay("ada", "secret").get(timeout=60)

    assert created == [{"username": "ada", "password": "secret"}]


def test_rows_59_60_options_stand_in_the_decorator_s_parentheses_which_may_be_empty() -> None:
    """`@app.task(serializer='json')`; `@app.task()`."""
    names = typed(
        """
        from amqptasks import App
        app = App()

        @app.task(serializer='json')
        def create_user(username, password):
            return username

        @app.task()
        def hello():
            return 'hello world'
        """
    )

    assert (names["create_user"].serializer, names["hello"].serializer) == ("json", None)
    assert names["hello"]() == "hello world"


def test_row_61_the_task_decorator_is_applied_last() -> None:
    """With several decorators the task decorator is written first."""
    names = typed(
        """
        from amqptasks import App
        app = App()

        def decorator1(function): return lambda x, y: function(x, y) + 1
        def decorator2(function): return lambda x, y: function(x, y) * 10

        @app.task(name='proj.add')
        @decorator2
        @decorator1
        def add(x, y):
            return x + y
        """
    )

    assert isinstance(names["add"], Task)
    assert names["add"](2, 2) == 50


def test_rows_62_to_65_a_bound_task_has_itself_its_request_a_logger_and_retry(
    broker: str, working: Working, caplog: pytest.LogCaptureFixture
) -> None:
    """`bind=True`: the first argument is the task, for retry, for the request, and for what a base class adds."""
    names = typed(
        f"""
        from amqptasks import App, Task, get_task_logger
        app = App('proj', broker={broker!r})
        logger = get_task_logger(__name__)

        class WithPrefix(Task):
            prefix = 'sum of'

        @app.task(bind=True, base=WithPrefix)
        def add(self, x, y):
            logger.info(self.request.id)
            if self.request.retries == 0:
                raise self.retry(countdown=0)
            return f'{{self.prefix}} {{x}} and {{y}}: {{x + y}}'
        """
    )
    working(names["app"])
    caplog.set_level(logging.INFO)

    result = names["add"].delay(2, 2)

    assert result.get(timeout=60) == "sum of 2 and 2: 4"
    assert [record.getMessage() for record in caplog.records].count(result.id) == 2


@pytest.mark.parametrize("options", ["bind=True", "base=MyTask, bind=True"])
def test_row_66_the_decorator_without_app_before_it(options: str) -> None:
    """`@task(bind=True)`, `@task(base=MyTask)`: with `task = app.task`, or `shared_task` where there is no app."""
    names = typed(
        f"""
        from amqptasks import App, Task, shared_task as task
        app = App('proj')

        class MyTask(Task):
            pass

        @task({options})
        def name_of(self):
            return self.name
        """
    )

    assert names["app"].tasks["proj.name_of"]() == "proj.name_of"


def test_rows_67_68_a_base_class_handles_the_failure(
    broker: str, working: Working, capsys: pytest.CaptureFixture[str]
) -> None:
    """`class MyTask(Task)` with `on_failure(self, exc, task_id, args, kwargs, einfo)`; the task raises KeyError."""
    names = typed(
        f"""
        from amqptasks import App, Task
        app = App('proj', broker={broker!r})

        class MyTask(Task):

            def on_failure(self, exc, task_id, args, kwargs, einfo):
                print('{{0!r}} failed: {{1!r}}'.format(task_id, exc))

        @app.task(base=MyTask)
        def add(x, y):
            raise KeyError()
        """
    )
    working(names["app"])

    result = names["add"].delay(1, 2)
    with pytest.raises(KeyError):
        result.get(timeout=60)

    assert capsys.readouterr().out == f"{result.id!r} failed: KeyError()\n"


def test_row_69_one_logger_a_module_serves_all_its_tasks(
    broker: str, working: Working, caplog: pytest.LogCaptureFixture
) -> None:
    """One logger at the top of the module; each line knows the task that wrote it."""
    names = typed(
        f"""
        from amqptasks import App, get_task_logger
        logger = get_task_logger(__name__)
        app = App('proj', broker={broker!r})

        @app.task
        def add(x, y): logger.info('adding')

        @app.task
        def mul(x, y): logger.info('multiplying')
        """,
        "proj.tasks",
    )
    working(names["app"])
    caplog.set_level(logging.INFO)

    names["add"].delay(2, 2).get(timeout=60)
    names["mul"].delay(2, 2).get(timeout=60)

    said = {r.getMessage(): r.task_name for r in caplog.records if r.name == "proj.tasks"}
    assert said == {"adding": "proj.tasks.add", "multiplying": "proj.tasks.mul"}


def test_row_70_every_general_option_of_a_task_is_one_here() -> None:
    """The list of "general options": each is an attribute of `Task`, settable by decorator and by class."""
    general = {
        *("name", "request", "max_retries", "throws", "default_retry_delay", "rate_limit", "time_limit"),
        *("soft_time_limit", "ignore_result", "store_errors_even_if_ignored", "serializer", "compression"),
        *("backend", "acks_late", "track_started", "acks_on_failure_or_timeout", "reject_on_worker_lost"),
        *("autoretry_for", "dont_autoretry_for", "retry_kwargs", "retry_backoff", "retry_backoff_max"),
        *(
            "retry_jitter",
            "retry_on_worker_lost",
            "bind",
            "typing",
            "trail",
            "send_events",
            "expires",
            "priority",
        ),
    }

    assert not [name for name in general if not hasattr(Task, name)]


# --- F. retrying ---------------------------------------------------------------------------------------------


def test_rows_95_to_98_retry_sends_the_call_again_to_its_own_queue_after_its_own_delay(
    broker: str, working: Working
) -> None:
    """After a recoverable error: a new message, the same task id, the queue of the original, a delay of its own."""
    names = typed(
        f"""
        from amqptasks import App, Queue
        app = App('proj', broker={broker!r}, task_queues=[Queue('hipri')])
        seen = []

        class FailWhaleError(Exception): pass

        @app.task(bind=True, default_retry_delay=30 * 60)  # retry in 30 minutes.
        def tweet(self, status):
            seen.append((self.request.id, self.request.delivery_info['queue'], self.request.retries))
            try:
                if self.request.retries == 0:
                    raise FailWhaleError()
            except FailWhaleError as exc:
                # overrides the default delay
                raise self.retry(exc=exc, countdown=0.2)
            return status
        """
    )
    working(names["app"])

    result = names["tweet"].apply_async(("hello",), queue="hipri")

    assert result.get(timeout=60) == "hello"
    assert names["seen"] == [(result.id, "hipri", 0), (result.id, "hipri", 1)]


@pytest.mark.parametrize(("given", "seconds"), [({}, 180), ({"default_retry_delay": 60}, 60)])
def test_row_99_the_default_delay_is_three_minutes(given: dict[str, Any], seconds: int) -> None:
    """`default_retry_delay`: 3 minutes unless the task says otherwise."""

    @App("proj").task(bind=True, **given)
    def add(self: Any) -> None:
        raise self.retry()

    assert attempt(add, 0).when == seconds


@pytest.mark.parametrize("seconds", [5, 0.25])
def test_row_100_a_delay_is_an_int_or_a_float_of_seconds(seconds: float) -> None:
    """Delays are seconds, whole or not, in `default_retry_delay` and in `countdown`."""
    app = App("proj")

    @app.task(bind=True, default_retry_delay=seconds, name="proj.by_default")
    def by_default(self: Any) -> None:
        raise self.retry()

    @app.task(bind=True, name="proj.by_countdown")
    def by_countdown(self: Any) -> None:
        raise self.retry(countdown=seconds)

    assert attempt(by_default, 0).when == attempt(by_countdown, 0).when == seconds


@pytest.mark.parametrize("classes", ["(OSError, KeyError)", "[OSError, KeyError]"])
def test_rows_101_102_autoretry_for_is_a_list_or_a_tuple_and_empty_by_default(classes: str) -> None:
    """`autoretry_for` takes a list or a tuple of exception classes; by default none is retried."""
    names = typed(
        f"""
        from amqptasks import App
        app = App()

        @app.task(autoretry_for={classes})
        def fetch(error): raise error

        @app.task
        def plain(error): raise error
        """
    )

    assert isinstance(attempt(names["fetch"], 0, OSError("no route")).exc, OSError)
    assert isinstance(attempt(names["fetch"], 0, KeyError("k")).exc, KeyError)
    assert names["plain"].autoretry_for == ()
    for task in ("fetch", "plain"):
        with pytest.raises(ValueError, match="not listed"):
            names[task](ValueError("not listed"))


def test_rows_103_104_106_the_example_of_the_fail_whale(broker: str, working: Working) -> None:
    """`autoretry_for=(FailWhaleError,), retry_kwargs={'max_retries': 5}`: retry_kwargs go to retry()."""
    names = typed(
        f"""
        from amqptasks import App
        app = App('proj', broker={broker!r})
        runs = []

        class FailWhaleError(Exception): pass

        @app.task(autoretry_for=(FailWhaleError,), retry_kwargs={{'max_retries': 5, 'countdown': 0}})
        def refresh_timeline(user):
            runs.append(user)
            raise FailWhaleError(user)
        """
    )
    working(names["app"])

    failure = names["refresh_timeline"].delay("ada").get(timeout=60, propagate=False)

    assert type(failure).__name__ == "FailWhaleError"
    assert names["runs"] == ["ada"] * 6


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        pytest.param({"retry_backoff": True}, [1, 2, 4, 8], id="row 107"),
        pytest.param({"retry_backoff": 3}, [3, 6, 12, 24], id="row 108"),
        pytest.param({"retry_backoff": True, "retry_kwargs": {"countdown": 99}}, [1, 2, 4, 8], id="row 105"),
        pytest.param({"retry_kwargs": {"countdown": 99}}, [99] * 4, id="row 104"),
        pytest.param({}, [180] * 4, id="row 109"),
        pytest.param({"retry_backoff": 300}, [300, 600, 600, 600], id="row 110"),
        pytest.param({"retry_backoff": True, "retry_backoff_max": 3}, [1, 2, 3, 3], id="row 110, changed"),
    ],
)
def test_rows_104_to_110_how_long_an_automatic_retry_waits(
    options: dict[str, Any], seconds: list[int]
) -> None:
    """Backoff doubles, up to 600 s; a countdown beside it is ignored; without it the ordinary delay counts."""

    @App("proj").task(autoretry_for=(OSError,), retry_jitter=False, max_retries=9, **options)
    def fetch() -> None:
        raise OSError("no route")

    assert [attempt(fetch, retries).when for retries in range(4)] == seconds


def test_row_109_backoff_is_off_by_default() -> None:
    """`retry_backoff` is False unless given."""
    assert Task.retry_backoff is False


def test_row_111_jitter_is_on_by_default_and_draws_from_nothing_to_the_delay() -> None:
    """`retry_jitter` is True: the delay is random, between 0 and what the backoff says."""

    @App("proj").task(autoretry_for=(OSError,), retry_backoff=True, max_retries=9)
    def fetch() -> None:
        raise OSError("no route")

    drawn = {attempt(fetch, 3).when for _ in range(300)}

    assert drawn == set(range(9))


# --- H. semipredicates, custom classes, requests ---------------------------------------------------------------


def test_row_146_the_final_state_is_recorded_by_who_traces_the_task(broker: str, working: Working) -> None:
    """Not the task but the function around it records how it ended."""
    app = App("proj", broker=broker)
    ended: list[tuple[str, str]] = []

    @app.task(name="proj.divide")
    def divide(x: int, y: int) -> float:
        return x / y

    @signals.task_postrun.connect(weak=False)
    def look(task_id: str, state: str, **_: Any) -> None:
        ended.append((task_id, state))

    working(app)
    good, bad = divide.delay(4, 2), divide.delay(4, 0)
    good.get(timeout=60), bad.get(timeout=60, propagate=False)
    signals.task_postrun.disconnect(look)

    assert ended == [(good.id, states.SUCCESS), (bad.id, states.FAILURE)]


def test_rows_147_148_ignore_acknowledges_and_records_nothing_but_what_the_task_stored(
    broker: str, working: Working
) -> None:
    """For revokes of one's own, or to store the result oneself: `raise Ignore()`."""
    names = typed(
        f"""
        from amqptasks import App, states
        from amqptasks.errors import Ignore
        app = App('proj', broker={broker!r})
        revoked = []

        @app.task(bind=True)
        def some_task(self):
            if self.request.id in revoked:
                raise Ignore()
            return 'ran'

        @app.task(bind=True)
        def get_tweets(self, user):
            timeline = [user]
            self.update_state(state=states.SUCCESS, meta=timeline)
            raise Ignore()
        """
    )
    names["revoked"].append("own revoke")
    ignored = names["some_task"].apply_async(task_id="own revoke")
    working(names["app"])

    assert names["get_tweets"].delay("ada").get(timeout=60) == ["ada"]
    assert names["some_task"].delay().get(timeout=60) == "ran"
    assert ignored.state == states.PENDING
    assert names["app"].connection.inspect("amqptasks").messages == 0


@pytest.mark.parametrize(("late", "dead"), [(True, 1), (False, 0)], ids=["acks_late", "not"])
def test_rows_149_150_reject_is_the_broker_s_and_has_no_effect_without_acks_late(
    broker: str, working: Working, late: bool, dead: int
) -> None:
    """`raise Reject(exc, requeue=False)` dead-letters the message, if the task is acknowledged late."""
    app = App("proj", broker=broker)

    @app.task(name="proj.render", acks_late=late)
    def render() -> None:
        raise Reject(MemoryError("too large"), requeue=False)

    working(app)
    result = render.delay()
    after = app.task(name="proj.after")(lambda: "after").delay()
    after.get(timeout=60)

    assert app.connection.inspect("amqptasks.dead").messages == dead
    assert (result.state == states.FAILURE) is late


def test_row_151_retry_tells_the_worker_that_the_task_is_retried(broker: str, working: Working) -> None:
    """`Retry` is raised by `retry()`, and is no failure."""
    app = App("proj", broker=broker)
    told: list[Any] = []

    @app.task(bind=True, name="proj.fetch")
    def fetch(self: Any) -> str:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return "fetched"

    @signals.task_retry.connect(weak=False)
    def look(reason: Any, **_: Any) -> None:
        told.append(reason)

    working(app)
    value = fetch.delay().get(timeout=60)
    signals.task_retry.disconnect(look)

    assert value == "fetched"
    assert [type(reason) for reason in told] == [Retry]
    assert not issubclass(Retry, Ignore)


DATABASE = """
from amqptasks import App, Task
opened = []

class DatabaseTask(Task):
    _db = None

    def __init__(self):
        self.made = len(opened)

    @property
    def db(self):
        if self._db is None:
            self._db = object()
            opened.append(self._db)
        return self._db
"""


def test_rows_152_153_a_task_is_one_object_a_process_and_keeps_what_it_opened(
    broker: str, working: Working
) -> None:
    """Not instantiated per request: `process_rows.db` stays the same as long as the process does."""
    names = typed(
        f"""
        {DATABASE.replace(chr(10), chr(10) + " " * 8)}
        app = App('proj', broker={broker!r})
        used = []

        @app.task(base=DatabaseTask, bind=True)
        def process_rows(self):
            used.append((self, process_rows.db))
        """
    )
    working(names["app"])

    for result in [names["process_rows"].delay() for _ in range(5)]:
        result.get(timeout=60)

    assert len(names["used"]) == 5
    assert set(names["used"]) == {(names["process_rows"], names["opened"][0])}
    assert len(names["opened"]) == 1


@pytest.mark.parametrize("dotted", ["proj_base:DatabaseTask", "proj_base.DatabaseTask"])
def test_rows_154_155_task_cls_is_the_class_of_every_task(folder: Path, dotted: str) -> None:
    """`App('tasks', task_cls='your.module.path:DatabaseTask')`: all tasks of the app have that class."""
    (folder / "proj_base.py").write_text(DATABASE)
    names = typed(
        f"""
        from amqptasks import App
        app = App('tasks', task_cls={dotted!r})

        @app.task
        def add(x, y): return x + y

        @app.task(bind=True)
        def rows(self): return self.db
        """
    )

    assert {type(names[name]).__name__ for name in ("add", "rows")} == {"DatabaseTask"}
    assert names["rows"]() is names["rows"].db


def test_row_156_the_class_is_the_library_s_own_by_default() -> None:
    """Without `task_cls` the class is `amqptasks.Task`."""
    app = App("tasks")

    assert app.Task is Task
    assert type(app.task(name="tasks.add")(lambda x, y: x + y)) is Task


def test_rows_157_to_160_the_handlers(broker: str, working: Working) -> None:
    """`after_return`, `on_failure`, `on_retry`, `on_success`: run by the worker, with Celery's arguments."""
    names = typed(
        f"""
        from amqptasks import App, Task
        app = App('proj', broker={broker!r})
        told = []

        class Handled(Task):
            def after_return(self, status, retval, task_id, args, kwargs, einfo):
                told.append(('after_return', status, repr(retval), args))
            def on_failure(self, exc, task_id, args, kwargs, einfo):
                told.append(('on_failure', repr(exc), args))
            def on_retry(self, exc, task_id, args, kwargs, einfo):
                told.append(('on_retry', repr(exc), args))
            def on_success(self, retval, task_id, args, kwargs):
                told.append(('on_success', retval, args))

        @app.task(base=Handled, bind=True, max_retries=1)
        def divide(self, x, y):
            try:
                return x / y
            except ZeroDivisionError as error:
                raise self.retry(exc=error, countdown=0)
        """
    )
    working(names["app"])

    names["divide"].delay(4, 2).get(timeout=60)
    names["divide"].delay(4, 0).get(timeout=60, propagate=False)
    names["divide"].delay(4, 2).get(timeout=60)  # handlers run before the result arrives

    error = "ZeroDivisionError('division by zero')"
    assert [(word, *rest[:-1], list(rest[-1])) for word, *rest in names["told"][:5]] == [
        ("on_success", 2.0, [4, 2]),
        ("after_return", "SUCCESS", "2.0", [4, 2]),
        ("on_retry", error, [4, 0]),
        ("on_failure", error, [4, 0]),
        ("after_return", "FAILURE", error, [4, 0]),
    ]


@pytest.mark.parametrize("given", ["class", "proj_request:MyRequest", "proj_request.MyRequest"])
def test_rows_161_to_163_a_request_class_of_one_s_own(
    broker: str, working: Working, folder: Path, given: str
) -> None:
    """The worker makes a request of a message; `Task.Request` is a class or its name, and inherits from ours."""
    (folder / "proj_request.py").write_text(
        textwrap.dedent(
            """
            from amqptasks.worker.request import Request
            told = []

            class MyRequest(Request):
                'A minimal custom request to log failures and hard time limits.'

                def on_timeout(self, soft, timeout):
                    super().on_timeout(soft, timeout)
                    told.append(('timeout', self.task.name))

                def on_failure(self, exc_info, send_failed_event=True, return_ok=False):
                    super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
                    told.append(('failure', self.task.name, self.id, repr(exc_info.exception)))
            """
        )
    )
    names = typed(
        f"""
        import proj_request
        from amqptasks import App, Task
        app = App('proj', broker={broker!r})

        class MyTask(Task):
            Request = proj_request.MyRequest if {given!r} == 'class' else {given!r}

        @app.task(base=MyTask)
        def some_longrunning_task(x):
            raise KeyError(x)
        """
    )
    working(names["app"])

    result = names["some_longrunning_task"].delay("k")
    result.get(timeout=60, propagate=False)
    names["some_longrunning_task"].delay("k").get(timeout=60, propagate=False)

    told = names["proj_request"].told
    assert told[0] == ("failure", "proj.some_longrunning_task", result.id, "KeyError('k')")


def test_row_164_signals_of_the_worker_and_of_rejected_tasks(broker: str, working: Working) -> None:
    """`task_received`, `worker_init`, `worker_ready`, `task_rejected`: custom code of the same kind."""
    app = App("proj", broker=broker)
    wanted = (signals.worker_init, signals.worker_ready, signals.task_received, signals.task_rejected)
    seen: list[str] = []

    @app.task(name="proj.refuse", acks_late=True)
    def refuse() -> None:
        raise Reject("no", requeue=False)

    def listen(signal: Any = None, **_: Any) -> None:
        seen.append(signal.name)

    for signal in wanted:
        signal.connect(listen)
    try:
        working(app)
        refuse.delay().get(timeout=60, propagate=False)
    finally:
        for signal in wanted:
            signal.disconnect(listen)

    assert {signal.name for signal in wanted} == set(seen)
