"""What the project set out to be, statement by statement: apps, names, configuration, tasks, calls, results.

Each test's docstring is the statement; code stands as a user types it. What needs a broker or a process is in
`integration/test_seeds.py`.
"""

from __future__ import annotations

import importlib
import itertools
import re
import sys
import textwrap
import threading
import tomllib
import uuid
import warnings
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App, Queue, Request, states
from amqptasks.errors import ImproperlyConfigured, NoBackend, Retry
from amqptasks.naming import DuplicateTaskNameWarning, TaskNameWarning
from amqptasks.protocol import TaskMessage
from amqptasks.registry import shared
from amqptasks.testing import running_worker
from amqptasks.transport import memory
from amqptasks.transport.url import parse
from amqptasks.waiting import home

ROOT = Path(__file__).resolve().parents[1]
_numbers = itertools.count(1)

TASKS = """
from amqptasks import App
app = App({name})

@app.task
def add(x, y): return x + y

if __name__ == '__main__':
    app.worker_main()
"""


@pytest.fixture(autouse=True)
def _no_app_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "app", None)
    monkeypatch.setattr(shared, "_tasks", [])


def typed(source: str, module: str = "__main__", **names: Any) -> dict[str, Any]:
    """Run what a user types, in a module of that name; return the module's names."""
    code = compile(textwrap.dedent(source), f"<typed {next(_numbers)}>", "exec")
    namespace = {"__name__": module, **names}
    exec(code, namespace)
    return namespace


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path; what is imported from it is forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def broker() -> str:
    return f"memory://{uuid.uuid4()}"


@pytest.fixture
def working() -> Iterator[Callable[[App], None]]:
    """`working(app)`: a worker of the app, in a thread, until the test ends."""
    running = []

    def start(app: App) -> None:
        running.append((app, running_worker(app)))
        running[-1][1].__enter__()

    yield start
    for app, worker in running:
        worker.__exit__(None, None, None)
        app.close()


# --- task queue and broker -----------------------------------------------------------------------------------


def test_a_url_without_password_and_with_two_slashes() -> None:
    """`App('hello', broker='amqp://guest@localhost//')` means the password guest and the vhost /."""
    names = typed("from amqptasks import App\napp = App('hello', broker='amqp://guest@localhost//')")

    (url,) = parse(names["app"].conf.broker_url)

    assert (url.host, url.port) == ("localhost", 5672)
    assert (url.user, url.password, url.vhost) == ("guest", "guest", "/")


def test_hello_called_here_returns_its_string() -> None:
    """A task without arguments, called as a function, returns what the function returns."""
    names = typed(
        """
        from amqptasks import App
        app = App('hello', broker='amqp://guest@localhost//')

        @app.task
        def hello():
            return 'hello world'
        """
    )

    assert names["hello"]() == "hello world"


def test_a_client_sends_a_message_and_a_worker_runs_it(broker: str, working: Callable[[App], None]) -> None:
    """A client puts a message into a queue, the broker delivers it to a worker: the unit of work is a task."""
    app = App("hello", broker=broker)
    ran_in: list[int] = []

    @app.task
    def hello() -> str:
        ran_in.append(threading.get_ident())
        return "hello world"

    result = hello.delay()
    assert ran_in == []
    assert result.state == states.PENDING
    working(app)

    assert result.get(timeout=60) == "hello world"
    assert ran_in != [threading.get_ident()]


def test_several_brokers_may_be_named() -> None:
    """High availability: a list of URLs, or one with semicolons, names the hosts that are tried in turn."""
    listed = App("hello", broker=["amqp://guest@one//", "amqp://guest@two//"])
    joined = App("hello", broker="amqp://guest@one//;amqp://guest@two//")

    assert [url.host for url in parse(listed.conf.broker_url)] == ["one", "two"]
    assert [url.host for url in parse(joined.conf.broker_url)] == ["one", "two"]


def test_redis_is_no_broker_here() -> None:
    """AMQP first: the broker is RabbitMQ, and a Redis URL is answered with one sentence."""
    app = App("hello", broker="redis://localhost")

    with pytest.raises(ImproperlyConfigured) as refused:
        app.connection

    assert "redis" in str(refused.value).lower()
    assert "\n" not in str(refused.value)


def test_the_packages_and_folders_of_the_design() -> None:
    """It stands on pika, aio-pika, click and orjson; the top level has the package, tests, docs and examples."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    setup = ConfigParser()

    required = {re.split(r"[<>=]", line)[0] for line in project["dependencies"]}

    assert required == {"pika", "aio-pika", "click", "orjson"}
    assert setup.read(ROOT / "setup.cfg")
    for folder in ("amqptasks", "tests", "integration", "docs", "examples"):
        assert (ROOT / folder).is_dir(), folder


def test_tasks_go_to_a_direct_exchange_with_a_routing_key(broker: str) -> None:
    """A task is published to a direct exchange; the routing key leads it to its queue."""
    app = App("proj", broker=broker)
    conf_queue = app.router.route("proj.add")

    assert conf_queue.address.exchange == "amqptasks"
    assert conf_queue.address.routing_key == "amqptasks"
    assert conf_queue.queue is not None
    assert conf_queue.queue.exchange is not None
    assert conf_queue.queue.exchange.type == "direct"


def test_long_and_short_tasks_go_to_queues_of_their_own(broker: str) -> None:
    """Long and short tasks are routed to worker groups of their own, by their names."""
    app = App("proj", broker=broker)
    app.conf.task_routes = {"proj.report": "long", "proj.*": "short"}

    assert app.router.route("proj.report").address.routing_key == "long"
    assert app.router.route("proj.add").address.routing_key == "short"
    assert [queue.name for queue in app.router.select(["long"])] == ["long"]


# --- app and names -------------------------------------------------------------------------------------------


def test_an_app_without_any_argument() -> None:
    """`App()` needs no argument; its repr is class name, main name and memory address."""
    names = typed("from amqptasks import App\napp = App()")

    assert re.fullmatch(r"<App __main__ at 0x[0-9a-f]+>", repr(names["app"]))


def test_the_broker_is_a_keyword() -> None:
    """`broker=` is the URL of the broker."""
    app = App("tasks", broker="amqp://guest@localhost//")

    assert app.conf.broker_url == "amqp://guest@localhost//"


def test_several_apps_in_one_process(broker: str) -> None:
    """Several apps with other configuration and tasks live in one process."""
    first, second = App("first", broker=broker, timezone="Europe/London"), App("second", broker=broker)

    @first.task
    def add(x: int, y: int) -> int:
        return x + y

    assert first.conf.timezone == "Europe/London"
    assert second.conf.timezone is None
    assert add.name in first.tasks
    assert add.name not in second.tasks


def test_an_app_is_thread_safe(broker: str, working: Callable[[App], None]) -> None:
    """One app may be used by many threads at once: each call gets its own result."""
    app = App("proj", broker=broker)
    add = app.task(name="proj.add")(lambda x, y: x + y)
    working(app)
    sums: dict[int, list[int]] = {}

    def client(number: int) -> None:
        sums[number] = [add.delay(number, i).get(timeout=60) for i in range(20)]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sums == {number: [number + i for i in range(20)] for number in range(8)}


def test_a_task_typed_into_the_interpreter() -> None:
    """In the interpreter a task is `__main__.add`, in its repr, its `name` and `app.tasks`."""
    names = typed(
        """
        from amqptasks import App
        app = App()

        @app.task
        def add(x, y): return x + y
        """
    )
    add, app = names["add"], names["app"]

    assert re.fullmatch(r"<@task: __main__\.add of __main__ at 0x[0-9a-f]+>", repr(add))
    assert add.name == "__main__.add"
    assert app.tasks["__main__.add"] is add


def test_the_main_name_stands_for_the_module_that_is_not_known() -> None:
    """`App('tasks')`: where the module cannot be told, the app's main name is the prefix, `tasks.add`."""
    names = typed(TASKS.format(name="'tasks'").replace("app.worker_main()", "pass"))

    assert names["app"].main == "tasks"
    assert names["add"].name == "tasks.add"


def test_a_module_that_is_run_names_its_tasks_otherwise_than_one_that_is_imported(folder: Path) -> None:
    """Run as a program the task is `__main__.add`, imported it is `tasks.add`: the trap that the main name closes."""
    (folder / "tasks.py").write_text(TASKS.format(name=""))
    run = typed(TASKS.format(name="").replace("app.worker_main()", "pass"))

    imported = importlib.import_module("tasks")

    assert run["add"].name == "__main__.add"
    assert imported.add.name == "tasks.add"


def test_the_automatic_name_is_module_and_function(folder: Path) -> None:
    """The automatic name is the module's and the function's: the module is the name space."""
    (folder / "proj").mkdir()
    (folder / "proj" / "__init__.py").touch()
    (folder / "proj" / "sums.py").write_text(
        "from amqptasks import App\napp = App()\n@app.task\ndef add(x, y): return x + y\n"
    )

    module = importlib.import_module("proj.sums")

    assert module.add.name == "proj.sums.add"


def test_every_task_has_a_unique_name() -> None:
    """Two functions under one name: a warning with both places and the cure, and the first is kept."""
    app = App("proj")

    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    with pytest.warns(DuplicateTaskNameWarning, match=r"kept.*name=") as caught:

        @app.task(name="proj.add")
        def plus(x: int, y: int) -> int:
            return x + y + 1

    assert str(caught[0].message).count(Path(__file__).name) == 2
    assert app.tasks["proj.add"] is add


def test_one_module_imported_under_two_names_is_warned_of(folder: Path) -> None:
    """Relative imports and automatic names clash: the same function under two names is a warning with the cure."""
    (folder / "proj").mkdir()
    (folder / "proj" / "__init__.py").write_text("from amqptasks import App\napp = App('proj')\n")
    (folder / "proj" / "sums.py").write_text("from proj import app\n@app.task\ndef add(x, y): return x + y\n")
    importlib.import_module("proj.sums")
    sys.path.insert(0, str(folder / "proj"))

    try:
        with pytest.warns(TaskNameWarning, match=r"'proj\.sums\.add' and 'sums\.add'.*name="):
            importlib.import_module("sums")
    finally:
        sys.path.remove(str(folder / "proj"))


def test_a_name_of_one_s_own_ends_the_clash(folder: Path) -> None:
    """`@app.task(name='proj.sums.add')`: with a name that is set, it does not matter how the module is imported."""
    (folder / "proj").mkdir()
    (folder / "proj" / "__init__.py").write_text("from amqptasks import App\napp = App('proj')\n")
    (folder / "proj" / "sums.py").write_text(
        "from proj import app\n@app.task(name='proj.sums.add')\ndef add(x, y): return x + y\n"
    )
    one = importlib.import_module("proj.sums")
    sys.path.insert(0, str(folder / "proj"))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DuplicateTaskNameWarning)
            other = importlib.import_module("sums")
    finally:
        sys.path.remove(str(folder / "proj"))

    assert one.add.name == other.add.name == "proj.sums.add"


def test_automatic_naming_can_be_overridden() -> None:
    """`gen_task_name(self, name, module)` is overridden in a subclass, with `super()`, to leave out `.tasks`."""
    names = typed(
        """
        from amqptasks import App

        class MyApp(App):

            def gen_task_name(self, name, module):
                if module.endswith('.tasks'):
                    module = module[:-6]
                return super().gen_task_name(name, module)

        app = MyApp('main')
        """
    )
    typed("@app.task\ndef add(x, y): return x + y", "proj.tasks", app=names["app"])

    assert "proj.add" in names["app"].tasks
    assert repr(names["app"]).startswith("<MyApp main at 0x")


def test_a_task_is_registered_by_its_decorator_when_its_module_is_imported(folder: Path) -> None:
    """Tasks are registered only once their module is imported: the decorator does it."""
    (folder / "proj").mkdir()
    (folder / "proj" / "__init__.py").write_text(
        "from amqptasks import App\napp = App('proj', include=['proj.sums'])\n"
    )
    (folder / "proj" / "sums.py").write_text("from proj import app\n@app.task\ndef add(x, y): return x + y\n")
    app = importlib.import_module("proj").app
    before = "proj.sums.add" in app.tasks

    app.import_modules()

    assert not before
    assert "proj.sums.add" in app.tasks


def test_the_registry_shows_the_built_in_tasks_too() -> None:
    """`app.tasks` shows the user's tasks and the built-in ones, which have Celery's names."""
    app = App("proj")
    add = app.task(name="proj.add")(lambda x, y: x + y)

    assert {"celery.backend_cleanup", "celery.map", "proj.add"} <= set(app.tasks)
    assert app.tasks.regular() == {"proj.add": add}


def test_a_message_carries_the_name_and_no_code(broker: str) -> None:
    """A message carries no code, only the task's unique name; the worker looks it up in its registry."""
    app = App("proj", broker=broker)

    @app.task(name="proj.add")
    def add(x: int, y: int) -> int:
        return x + y

    add.delay(2, 2)
    delivery = app.connection.get("amqptasks")

    assert delivery is not None
    assert b"proj.add" in delivery.header
    assert delivery.body.startswith(b"[[2,2],{}")
    app.close()


def test_an_app_is_finished_when_it_is_first_used() -> None:
    """The app is lazy: settings made after the tasks were defined count, and nothing connects before a call."""
    app = App("proj", broker="amqp://nowhere.invalid//")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    app.conf.task_annotations = {"*": {"acks_late": True}}

    assert app.tasks[add.name].acks_late is True


# --- configuration -------------------------------------------------------------------------------------------


def test_settings_are_read_and_set_as_attributes() -> None:
    """`app.conf.timezone` reads 'Europe/London'; `app.conf.enable_utc = True` sets."""
    app = App(timezone="Europe/London")

    app.conf.enable_utc = True

    assert app.conf.timezone == "Europe/London"
    assert app.conf.enable_utc is True


def test_several_settings_at_once() -> None:
    """`app.conf.update(enable_utc=True, timezone='Europe/London')` sets several at once."""
    app = App()

    app.conf.update(
        enable_utc=True,
        timezone="Europe/London",
    )

    assert (app.conf.enable_utc, app.conf.timezone) == (True, "Europe/London")


def test_settings_from_a_module(folder: Path) -> None:
    """`app.config_from_object('settings')` reads a module."""
    (folder / "shop_settings.py").write_text("timezone = 'Europe/London'\ntask_acks_late = True\n")
    app = App()

    app.config_from_object("shop_settings")

    assert (app.conf.timezone, app.conf.task_acks_late) == ("Europe/London", True)


def test_settings_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`config_from_envvar` reads the module that a variable names; `AMQPTASKS_<SETTING>` sets one setting."""
    (folder / "shop_settings.py").write_text("timezone = 'Europe/London'\n")
    monkeypatch.setenv("SHOP_CONFIG", "shop_settings")
    monkeypatch.setenv("AMQPTASKS_TASK_ACKS_LATE", "true")
    app = App()

    app.config_from_envvar("SHOP_CONFIG")

    assert (app.conf.timezone, app.conf.task_acks_late) == ("Europe/London", True)


def test_settings_from_a_class() -> None:
    """`app.config_from_object(Config)` reads a configuration class."""
    names = typed(
        """
        from amqptasks import App
        app = App()

        class Config:
            enable_utc = True
            timezone = 'Europe/London'

        app.config_from_object(Config)
        """
    )

    assert (names["app"].conf.enable_utc, names["app"].conf.timezone) == (True, "Europe/London")


# --- definition of tasks -------------------------------------------------------------------------------------


def test_a_task_both_sends_and_runs(broker: str, working: Callable[[App], None]) -> None:
    """A task is made from any callable and plays two parts: it sends a message, and it is what a worker runs."""
    app = App("proj", broker=broker)

    class Adding:
        __name__ = "add"

        def __call__(self, x: int, y: int) -> int:
            return x + y

    add = app.task(name="proj.add")(Adding())
    working(app)

    assert add(2, 2) == 4
    assert add.delay(2, 2).get(timeout=60) == 4


def test_options_are_arguments_of_the_decorator(broker: str) -> None:
    """`@app.task(serializer='json')`, and `@app.task()` with empty parentheses."""
    names = typed(
        """
        from amqptasks import App
        app = App()

        @app.task(serializer='json')
        def create_user(username, password):
            return f'{username}:{password}'

        @app.task()
        def hello():
            return 'hello world'
        """
    )

    assert names["create_user"].serializer == "json"
    assert names["create_user"]("ada", "secret") == "ada:secret"
    assert names["hello"]() == "hello world"


def test_the_task_decorator_is_applied_last() -> None:
    """With several decorators the task decorator is written first, so that it is applied last."""
    names = typed(
        """
        import functools
        from amqptasks import App
        app = App()

        def decorator1(function):
            @functools.wraps(function)
            def run(*args):
                return 1 + function(*args)
            return run

        def decorator2(function):
            @functools.wraps(function)
            def run(*args):
                return 10 * function(*args)
            return run

        @app.task
        @decorator2
        @decorator1
        def add(x, y):
            return x + y
        """
    )

    assert names["add"].name == "__main__.add"
    assert names["add"](2, 2) == 50


def test_a_bound_task_is_its_own_first_argument(
    broker: str, working: Callable[[App], None], caplog: pytest.LogCaptureFixture
) -> None:
    """`bind=True`: the first argument is the task; `self.request.id` is the call's; `get_task_logger` logs."""
    names = typed(
        f"""
        from amqptasks import App, get_task_logger
        app = App('proj', broker={broker!r})

        logger = get_task_logger(__name__)

        @app.task(bind=True)
        def add(self, x, y):
            logger.info(self.request.id)
            return [self.name, self.request.id, x + y]
        """
    )
    working(names["app"])
    caplog.set_level("INFO")

    result = names["add"].delay(2, 2)

    assert result.get(timeout=60) == ["proj.add", result.id, 4]
    (record,) = [record for record in caplog.records if record.getMessage() == result.id]
    assert (record.task_id, record.task_name) == (result.id, "proj.add")


def test_the_decorator_without_app(broker: str) -> None:
    """`task = app.task`, then `@task(bind=True)`: the decorator works without `app.` before it."""
    names = typed(
        """
        from amqptasks import App
        app = App()
        task = app.task

        @task(bind=True)
        def name_of(self):
            return self.name
        """
    )

    assert names["name_of"]() == "__main__.name_of"


def test_the_general_options_of_a_task() -> None:
    """Every option of a task is an argument of its decorator."""
    app = App()
    options = {
        "name": "proj.add", "bind": False, "max_retries": 5, "throws": (KeyError,), "default_retry_delay": 60,
        "rate_limit": "10/m", "time_limit": 20, "soft_time_limit": 10, "ignore_result": True,
        "store_errors_even_if_ignored": True, "serializer": "json", "compression": "gzip",
        "acks_late": True, "track_started": True, "reject_on_worker_lost": True, "acks_on_failure_or_timeout": False,
        "priority": 3, "expires": 30, "queue": "long", "typing": False,
    }  # fmt: skip

    task = app.task(**options)(lambda x, y: x + y)

    assert {key: getattr(task, key) for key in options} == options


# --- calls and results ---------------------------------------------------------------------------------------


@pytest.fixture
def add(broker: str, working: Callable[[App], None]) -> Any:
    """The task of the examples, with a worker that consumes its queues."""
    app = App(
        "tasks", broker=broker, task_queues=[Queue("amqptasks"), Queue("lopri")], task_track_started=True
    )
    task = app.task(name="tasks.add")(lambda x, y: x + y)
    working(app)
    return task


def test_delay_is_a_shortcut_of_apply_async(add: Any) -> None:
    """`add.delay(4, 4)` is `add.apply_async((4, 4))`."""
    assert add.delay(4, 4).get(timeout=60) == 8
    assert add.apply_async((4, 4)).get(timeout=60) == 8


def test_apply_async_takes_a_queue_and_a_countdown(
    broker: str, still: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`add.apply_async((2, 2), queue='lopri', countdown=10)` goes to the queue lopri, not before 10 seconds."""
    app = App("tasks", broker=broker)
    add = app.task(name="tasks.add")(lambda x, y: x + y)

    node = memory.broker(broker.removeprefix("memory://"))
    monkeypatch.setattr(node, "now", lambda: node._advanced)  # no other time passes
    add.apply_async((2, 2), queue="lopri", countdown=10)
    at_once = {name: len(queue) for name, queue in node.queues.items() if len(queue)}
    node.advance(8.5)
    before = len(node.queues["lopri"])
    node.advance(1.5)

    assert len(at_once) == 1
    assert next(iter(at_once)).startswith("amqptasks.delay.")
    assert before == 0
    assert len(node.queues["lopri"]) == 1
    assert "lopri.dead" in node.queues
    app.close()


def test_a_call_in_this_process(add: Any) -> None:
    """`add(2, 2)` runs here, without a message: 4."""
    assert add(2, 2) == 4


def test_a_result_has_state_value_exception_and_traceback(add: Any) -> None:
    """`delay` and `apply_async` return an AsyncResult: its state, `wait`, its value, or exception and traceback."""
    good, bad = add.delay(2, 2), add.apply_async((2, "2"))

    assert good.wait(timeout=5) == 4
    assert (good.state, good.status, good.result, good.traceback) == ("SUCCESS", "SUCCESS", 4, None)
    assert isinstance(bad.get(timeout=60, propagate=False), TypeError)
    assert (bad.state, type(bad.result)) == ("FAILURE", TypeError)
    assert bad.traceback.startswith("Traceback (most recent call last)")


def test_a_result_backend_is_a_choice(broker: str) -> None:
    """Results need a backend: `rpc://` unless configured; with `backend=None` asking for one says so."""
    without = App("tasks", broker=broker, backend=None)
    add = without.task(name="tasks.add")(lambda x, y: x + y)

    result = add.delay(2, 2)

    assert App("tasks", broker=broker).conf.result_backend == "rpc://"
    with pytest.raises(NoBackend, match="backend"):
        result.get(timeout=60)
    without.close()


def test_the_id_of_a_result_is_a_uuid(add: Any) -> None:
    """`res.id` is a uuid, chosen by the caller before the message is sent."""
    result = add.delay(2, 2)

    assert str(uuid.UUID(result.id)) == result.id
    assert result.get(timeout=60) == 4


def test_get_raises_what_the_task_raised(add: Any) -> None:
    """`res.get(timeout=1)` of `add.delay(2, '2')` raises the task's own TypeError with its own words."""
    result = add.delay(2, "2")

    with pytest.raises(TypeError) as raised:
        result.get(timeout=60)

    assert str(raised.value) == "unsupported operand type(s) for +: 'int' and 'str'"


def test_get_without_propagating_returns_the_exception(add: Any) -> None:
    """`res.get(propagate=False)` returns the exception: `TypeError(...)`."""
    answer = add.delay(2, "2").get(timeout=60, propagate=False)

    assert repr(answer) == """TypeError("unsupported operand type(s) for +: 'int' and 'str'")"""


def test_failed_and_successful(add: Any) -> None:
    """`res.failed()` is True and `res.successful()` False for a task that raised; the other way round else."""
    bad, good = add.delay(2, "2"), add.delay(2, 2)
    bad.get(timeout=60, propagate=False)
    good.get(timeout=60)

    assert (bad.failed(), bad.successful()) == (True, False)
    assert (good.failed(), good.successful()) == (False, True)


def test_a_task_has_one_state_at_a_time(broker: str, working: Callable[[App], None]) -> None:
    """A task is in one state at a time, and they come in order: PENDING -> STARTED -> SUCCESS."""
    app = App("tasks", broker=broker, task_track_started=True)
    seen_started = threading.Event()
    wait = app.task(name="tasks.wait")(lambda: seen_started.wait(60))
    seen: list[str] = []

    def on_message(state: dict[str, Any]) -> None:
        seen.append(state["status"])
        seen_started.set()

    result = wait.delay()
    seen.append(result.state)
    working(app)
    result.get(timeout=60, on_message=on_message)

    assert seen == ["PENDING", "STARTED", "SUCCESS"]


def test_a_call_that_has_not_run_is_pending(broker: str) -> None:
    """Before a worker takes it, the state is PENDING; `get(timeout=)` then raises a TimeoutError."""
    app = App("tasks", broker=broker)
    result = app.task(name="tasks.add")(lambda x, y: x + y).delay(2, 2)

    assert result.state == "PENDING"
    assert not result.ready()
    with pytest.raises(TimeoutError, match="PENDING"):
        result.get(timeout=0.05)
    app.close()


# --- retrying ------------------------------------------------------------------------------------------------


def test_retry_runs_the_same_call_again(broker: str, working: Callable[[App], None]) -> None:
    """`self.retry(countdown=...)` sends a new message with the same id to the same queue."""
    app = App("tasks", broker=broker, task_queues=[Queue("lopri")])
    seen: list[tuple[str, str, int]] = []

    @app.task(bind=True, name="tasks.fetch")
    def fetch(self: Any) -> str:
        seen.append((self.request.id, self.request.delivery_info["routing_key"], self.request.retries))
        if self.request.retries < 2:
            raise self.retry(exc=OSError("no route"), countdown=0)
        return "fetched"

    working(app)
    result = fetch.apply_async(queue="lopri")

    assert result.get(timeout=60) == "fetched"
    assert seen == [(result.id, "lopri", 0), (result.id, "lopri", 1), (result.id, "lopri", 2)]


def test_automatic_retries_take_a_list_of_exceptions(broker: str, working: Callable[[App], None]) -> None:
    """`autoretry_for=(FailWhaleError,), retry_kwargs={'max_retries': 5}` retries without a word in the body."""
    names = typed(
        f"""
        from amqptasks import App
        app = App('proj', broker={broker!r})
        runs = []

        class FailWhaleError(Exception):
            pass

        @app.task(autoretry_for=(FailWhaleError,), retry_kwargs={{'max_retries': 5}}, default_retry_delay=0)
        def refresh_timeline(user):
            runs.append(user)
            raise FailWhaleError()
        """
    )
    working(names["app"])

    with pytest.raises(Exception) as raised:
        names["refresh_timeline"].delay("ada").get(timeout=60)

    assert type(raised.value).__name__ == "FailWhaleError"
    assert names["runs"] == ["ada"] * 6


@pytest.mark.parametrize(("backoff", "delays"), [(True, [1, 2, 4, 8]), (3, [3, 6, 12, 24])])
def test_backoff_grows_exponentially(backoff: bool | int, delays: list[int]) -> None:
    """`retry_backoff=True`: 1, 2, 4, 8 s; `retry_backoff=3`: 3, 6, 12, 24 s; without jitter."""
    app = App("proj", broker="memory://")
    options = {"autoretry_for": [OSError], "retry_backoff": backoff, "retry_jitter": False, "max_retries": 9}
    given: list[float] = []

    @app.task(name="proj.fetch", **options)
    def fetch() -> None:
        raise OSError("no route")

    for retries in range(4):
        message = TaskMessage(id="call", task="proj.fetch", retries=retries)
        token = fetch.push_request(Request.made_from(message, delivery_info={"queue": "q"}))
        with pytest.raises(Retry) as retry:
            fetch.run()
        fetch.pop_request(token)
        given.append(retry.value.when)

    assert given == delays


def test_the_defaults_of_retrying() -> None:
    """By default: 3 minutes' delay, no automatic retries, backoff at most 600 s, jitter on."""
    task = App("proj").task(name="proj.add")(lambda: None)

    assert (task.default_retry_delay, task.autoretry_for, task.retry_backoff) == (180, (), False)
    assert (task.retry_backoff_max, task.retry_jitter) == (600, True)
