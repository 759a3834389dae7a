"""The app: names, registry, several apps, shared tasks, settings, worker_main."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from amqptasks import App, Task, current_app, shared_task
from amqptasks.app import WorkerMainReached, app_loading
from amqptasks.errors import ImproperlyConfigured, NotRegistered
from amqptasks.naming import DuplicateTaskNameWarning, TaskNameWarning
from amqptasks.registry import shared
from amqptasks.waiting import home


@pytest.fixture(autouse=True)
def _apps_of_the_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "app", None)
    monkeypatch.setattr(shared, "_tasks", [])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Write modules below a folder that is on the path; forget them afterwards."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, source: str = "") -> Path:
        path = tmp_path / Path(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        return path

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


# --- names ---------------------------------------------------------------------------------------------------


def test_an_app_needs_no_argument() -> None:
    app = App()

    assert app.main is None
    assert re.fullmatch(r"<App __main__ at 0x[0-9a-f]+>", repr(app))


def test_reprs_name_app_task_and_address() -> None:
    app = App("tasks")

    @app.task(name="tasks.add")
    def add(x: int, y: int) -> int:
        return x + y

    assert re.fullmatch(r"<App tasks at 0x[0-9a-f]+>", repr(app))
    assert re.fullmatch(r"<@task: tasks\.add of tasks at 0x[0-9a-f]+>", repr(add))


def test_a_subclass_is_shown_by_its_own_name() -> None:
    class MyApp(App):
        pass

    assert repr(MyApp("tasks")).startswith("<MyApp tasks at 0x")


def test_a_task_is_named_by_module_and_function() -> None:
    app = App("proj")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert add.name == f"{__name__}.add"
    assert app.tasks[add.name] is add


@pytest.mark.parametrize(("main", "name"), [(None, "__main__.add"), ("tasks", "tasks.add")])
def test_in_main_the_app_s_main_name_is_the_prefix(main: str | None, name: str) -> None:
    app = App(main)

    def add(x: int, y: int) -> int:
        return x + y

    add.__module__ = "__main__"

    assert app.task(add).name == name


def test_gen_task_name_can_be_overridden() -> None:
    class MyCelery(App):
        def gen_task_name(self, name: str, module: str | None) -> str:
            if module is not None and module.endswith(".tasks"):
                module = module[:-6]
            return super().gen_task_name(name, module)

    app = MyCelery("main")

    def add(x: int, y: int) -> int:
        return x + y

    add.__module__ = "moduleA.tasks"

    assert app.task(add).name == "moduleA.add"


def test_two_functions_of_one_name_warn_with_both_places_and_the_cure() -> None:
    app = App()

    @app.task(name="proj.add")
    def first() -> int:
        return 1

    with pytest.warns(DuplicateTaskNameWarning) as caught:

        @app.task(name="proj.add")
        def second() -> int:
            return 2

    text = str(caught[0].message)
    assert text.count(__file__) == 2
    assert "@app.task(name=...)" in text
    assert app.tasks["proj.add"]() == 1


def test_a_reloaded_module_replaces_its_tasks_without_a_word(module: Callable[..., Path]) -> None:
    path = module("reloaded", "def make(app):\n    @app.task(name='r.f')\n    def f(): return 1\n")
    app = App()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.import_module("reloaded").make(app)
        path.write_text("def make(app):\n    @app.task(name='r.f')\n    def f(): return 1 + 1\n\n")
        os.utime(path, (1, 1))
        importlib.reload(sys.modules["reloaded"]).make(app)

    assert app.tasks["r.f"]() == 2


def test_two_functions_of_one_factory_and_name_warn() -> None:
    app = App()

    def make(number: int) -> None:
        @app.task
        def same() -> int:
            return number

    make(1)

    with pytest.warns(DuplicateTaskNameWarning):
        make(2)


def test_a_function_may_be_given_two_names_on_purpose() -> None:
    app = App()

    def add() -> int:
        return 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.task(name="new.add")(add)
        app.task(name="old.add")(add)

    assert {"new.add", "old.add"} <= set(app.tasks)


def test_one_function_under_two_names_warns(module: Callable[..., Path]) -> None:
    app = App("proj")
    home.app = app
    source = "from amqptasks import current_app\n@current_app().task\ndef add(): ...\n"
    module("pkg.__init__")
    path = module("pkg.jobs", source)
    importlib.import_module("pkg.jobs")
    spec = importlib.util.spec_from_file_location("jobs", path)
    assert spec is not None and spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    sys.modules["jobs"] = again

    with pytest.warns(TaskNameWarning, match=r"two names, 'pkg\.jobs\.add' and 'jobs\.add'"):
        spec.loader.exec_module(again)


def test_a_decorator_that_hides_the_name_warns() -> None:
    app = App()

    def hiding(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    with pytest.warns(TaskNameWarning, match=r"functools\.wraps"):

        @app.task
        @hiding
        def add() -> None: ...


def test_a_local_task_that_calls_another_function_is_no_hidden_name() -> None:
    app = App()

    def double(x: int) -> int:
        return 2 * x

    with warnings.catch_warnings():
        warnings.simplefilter("error")

        @app.task
        def twice(x: int) -> int:
            return double(x)

    assert twice(2) == 4


# --- the registry --------------------------------------------------------------------------------------------


def test_an_unknown_task_names_the_nearest() -> None:
    app = App()

    @app.task(name="proj.add")
    def add() -> None: ...

    with pytest.raises(NotRegistered, match=r"did you mean 'proj\.add'"):
        app.tasks["proj.ad"]


def test_several_apps_have_tasks_and_settings_of_their_own() -> None:
    one, other = App("one", timezone="Europe/London"), App("other")

    @one.task(name="add")
    def add() -> int:
        return 1

    @other.task(name="add")
    def add_too() -> int:
        return 2

    assert (one.tasks["add"](), other.tasks["add"]()) == (1, 2)
    assert (one.conf.timezone, other.conf.timezone) == ("Europe/London", None)


def test_tasks_may_be_defined_and_read_from_many_threads() -> None:
    app = App("proj")
    errors: list[BaseException] = []
    barrier = threading.Barrier(8)

    def define(number: int) -> None:
        try:
            barrier.wait()
            for each in range(50):
                app.task(name=f"t{number}.{each}")(lambda: None)
                assert app.tasks[f"t{number}.{each}"].app is app
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=define, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert len(app.tasks.regular()) == 400


def test_a_class_of_one_s_own_is_registered_with_its_run() -> None:
    app = App("proj")

    class Add(Task[..., int]):
        name = "proj.add"

        def run(self, x: int, y: int) -> int:
            return x + y

    add = app.register_task(Add())

    assert add(2, 2) == 4
    assert app.tasks["proj.add"] is add


# --- shared tasks --------------------------------------------------------------------------------------------


def test_a_shared_task_made_before_any_app_is_in_every_app() -> None:
    @shared_task(name="lib.add")
    def add(x: int, y: int) -> int:
        return x + y

    one, other = App("one"), App("other")

    assert one.tasks["lib.add"].app is one
    assert other.tasks["lib.add"].app is other
    assert add(2, 2) == 4


def test_a_shared_task_made_after_finalize_is_registered_too() -> None:
    app = App()
    assert "lib.late" not in app.tasks

    @shared_task(name="lib.late")
    def late() -> None: ...

    assert "lib.late" in app.tasks


def test_a_shared_task_counts_settings_made_after_its_decorator() -> None:
    @shared_task(name="lib.add")
    def add(x: int, y: int) -> int:
        return x + y

    app = App("proj", broker="memory://shared-settings")
    app.conf.task_default_queue = "chosen-later"
    add.delay(2, 2)

    assert app.connection.inspect("chosen-later").messages == 1
    app.close()


def test_bound_shared_tasks_get_the_task_of_the_app_that_runs_them() -> None:
    @shared_task(bind=True, name="lib.me")
    def me(self: Any) -> Any:
        return self.app

    app = App()

    assert app.tasks["lib.me"]() is app


def test_current_app_is_the_one_made_last() -> None:
    App("one")
    two = App("two")
    App("aside", set_as_current=False)

    assert current_app() is two


def test_without_an_app_a_default_one_is_made_once() -> None:
    made = current_app()

    assert current_app() is made
    assert made.conf.task_default_queue == "amqptasks"


# --- settings and modules ------------------------------------------------------------------------------------


def test_an_unknown_setting_is_an_error_with_the_near_one() -> None:
    with pytest.raises(ImproperlyConfigured, match="task_acks_late"):
        App("proj", task_ack_late=True)


def test_backend_none_means_none_and_leaving_it_out_means_rpc() -> None:
    assert App().conf.result_backend == "rpc://"
    assert App(backend=None).conf.result_backend is None


def test_config_from_object_and_update() -> None:
    class Configuration:
        enable_utc = True
        timezone = "Europe/London"

    app = App()
    app.config_from_object(Configuration)
    app.conf.update(enable_utc=False)

    assert app.conf.timezone == "Europe/London"
    assert app.conf.enable_utc is False


def test_include_and_autodiscovery_import_modules_when_asked(module: Callable[..., Path]) -> None:
    module("inc", "seen = True\n")
    module("pkg1.__init__")
    module("pkg1.tasks", "seen = True\n")
    module("pkg2.__init__")
    app = App(include=["inc"])
    app.autodiscover_tasks(lambda: ["pkg1", "pkg2"])
    before = {"inc", "pkg1.tasks"} & set(sys.modules)

    app.import_modules()

    assert before == set()
    assert {"inc", "pkg1.tasks"} <= set(sys.modules)


def test_an_error_in_a_discovered_module_is_seen(module: Callable[..., Path]) -> None:
    module("broken.__init__")
    module("broken.tasks", "import no_such_module_anywhere\n")
    app = App()
    app.autodiscover_tasks(["broken"])

    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        app.import_modules()


def test_task_annotations_change_options() -> None:
    app = App(task_annotations={"proj.add": {"rate_limit": "10/s"}, "*": {"max_retries": 7}})

    @app.task(name="proj.add")
    def add() -> None: ...

    assert (app.tasks["proj.add"].rate_limit, add.max_retries) == ("10/s", 7)


# --- life ----------------------------------------------------------------------------------------------------


def test_a_task_is_pickled_by_name() -> None:
    app = App("proj")

    @app.task(name="proj.add")
    def add() -> None: ...

    assert pickle.loads(pickle.dumps(add)) is add


def test_an_app_itself_cannot_be_pickled_and_says_what_to_do() -> None:
    with pytest.raises(TypeError, match="by name"):
        pickle.dumps(App("proj"))


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have replaced this process."""
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: seen.append([path, *argv]))
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    return seen


def test_worker_main_replaces_the_process_by_a_worker(
    executed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [__file__, "ignored"])

    App().worker_main(["worker", "-c", "2"])

    python = sys.executable
    assert executed == [[python, python, "-m", "amqptasks", "-A", f"script:{__file__}", "worker", "-c", "2"]]


def test_worker_main_after_python_m_names_the_module(
    executed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("proj.tasks", None))
    monkeypatch.setattr(sys, "argv", [__file__, "-l", "INFO"])

    App().worker_main()

    assert executed[0][3:] == ["amqptasks", "-A", "proj.tasks", "worker", "-l", "INFO"]


def test_worker_main_without_a_script_says_what_to_type(
    executed: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [""])

    with pytest.raises(RuntimeError, match="amqptasks -A yourmodule worker"):
        App().worker_main()
    assert executed == []


def test_worker_main_gives_the_app_to_who_loads_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_loading, "active", True)
    app = App()

    with pytest.raises(WorkerMainReached) as reached:
        app.worker_main()

    assert reached.value.app is app


def test_a_closed_app_opens_anew() -> None:
    with App("proj", broker="memory://closed", backend=None) as app:
        first = app.send_task("a.task")
    second = app.send_task("a.task")

    assert first.id != second.id
    assert app.connection.inspect("amqptasks").messages == 2
    app.close()


def test_importing_the_package_imports_neither_drivers_nor_asyncio() -> None:
    code = "import sys, amqptasks; print(sorted({'pika', 'asyncio', 'orjson', 'click'} & set(sys.modules)))"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        (
            {"proj.*": {"queu": "long"}},
            r"task_routes\['proj.\*'\]: unknown option 'queu'; did you mean 'queue'",
        ),
        ([("proj.a", {"queue": "long", "priorty": 3})], r"task_routes\['proj.a'\]: unknown option 'priorty'"),
        ([{re.compile("proj"): {"routingkey": "x"}}], r"task_routes\['proj'\]: .*did you mean 'routing_key'"),
        (
            [lambda *_, **__: {"queu": "long"}],
            r"a function in task_routes returned for proj.other: .*'queue'",
        ),
    ],
)
def test_a_misspelt_option_of_a_route_is_an_error_and_not_the_default_queue(routes: Any, said: str) -> None:
    app = App(broker="memory://", task_routes=routes)

    with pytest.raises(ImproperlyConfigured, match=said):
        app.send_task("proj.other")
