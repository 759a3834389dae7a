"""Which app a spec names, from the layouts that users have."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from amqptasks.app import App
from amqptasks.errors import AppImportFailed, AppNotFound, ImproperlyConfigured
from amqptasks.worker.loading import find_app, import_tasks

ONE = "from amqptasks import App\n{name} = App('{main}')\n"


@pytest.fixture(autouse=True)
def _fresh_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(tmp_path) in str(getattr(module, "__file__", None) or getattr(module, "__path__", "")):
            del sys.modules[name]


def write(root: Path, **files: str) -> None:
    """`proj__tasks="..."` writes proj/tasks.py, and `proj/__init__.py` unless there is one."""
    for name, text in files.items():
        path = (
            root / f"{name.replace('__', '/', 1)}.py"
            if not name.endswith("_init")
            else root / name[:-5] / "__init__.py"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for folder in {path.parent for path in root.rglob("*.py")} - {root}:
        (folder / "__init__.py").touch()


def app(name: str = "app", main: str = "found") -> str:
    return ONE.format(name=name, main=main)


@pytest.mark.parametrize("name", ["app", "amqptasks", "celery"])
def test_a_module_that_holds_one_of_the_usual_names(tmp_path, name) -> None:
    write(tmp_path, tasks=app(name) + app("other", "other"))

    assert find_app("tasks").main == "found"


@pytest.mark.parametrize("module", ["app", "amqptasks", "celery", "tasks"])
def test_a_package_with_the_app_in_a_usual_submodule(tmp_path, module) -> None:
    """Celery's layout: src/__init__.py, src/celery.py, src/tasks.py, started by `-A src`."""
    write(tmp_path, **{f"src__{module}": app()})

    assert find_app("src").main == "found"


def test_celerys_next_steps_layout_where_tasks_import_the_app(tmp_path) -> None:
    write(
        tmp_path,
        proj__celery="from amqptasks import App\napp = App('found', include=['proj.tasks'])\n",
        proj__tasks="from .celery import app\n\n@app.task\ndef add(x, y): return x + y\n",
    )

    assert find_app("proj").main == "found"


def test_the_only_app_of_a_module_under_any_name(tmp_path) -> None:
    write(tmp_path, tasks=app("shop") + "alias = shop\n")

    assert find_app("tasks").main == "found"


def test_a_usual_name_in_the_package_wins_over_its_submodules(tmp_path) -> None:
    write(tmp_path, proj_init=app("celery"), proj__tasks=app("app", "wrong"))

    assert find_app("proj").main == "found"


@pytest.mark.parametrize(
    "spec",
    ["proj.other:mine", "proj.other.mine", "proj.other:holder.mine", "proj.other:make", "proj.other:make()"],
)
def test_an_attribute_or_a_factory(tmp_path, spec) -> None:
    write(
        tmp_path,
        proj__other=app("mine")
        + "class holder:\n    mine = mine\ndef make():\n    return mine\nsecond = App('x')\n",
    )

    assert find_app(spec).main == "found"


def test_the_working_folder_is_given(tmp_path, monkeypatch) -> None:
    write(tmp_path / "elsewhere", tasks=app())

    assert find_app("tasks", tmp_path / "elsewhere").main == "found"


def test_a_script_that_ends_in_worker_main_is_run_up_to_there(tmp_path) -> None:
    (tmp_path / "run.py").write_text(
        "from amqptasks import App\n"
        "app = App('found')\n"
        "@app.task\n"
        "def add(x, y): return x + y\n"
        "if __name__ == '__main__':\n"
        "    app.worker_main()\n"
        "    raise RuntimeError('went on')\n"
    )

    found = find_app("script:run.py")

    assert isinstance(found, App)
    assert found.main == "found"
    assert "found.add" in found.tasks


def test_a_script_that_never_starts_a_worker_is_told_so(tmp_path) -> None:
    (tmp_path / "run.py").write_text(app())

    with pytest.raises(AppNotFound, match=r"run\.py ended without calling app\.worker_main\(\)"):
        find_app("script:run.py")


def test_a_script_that_is_missing(tmp_path) -> None:
    with pytest.raises(AppNotFound, match=r"there is no file .*absent\.py"):
        find_app("script:absent.py")


def test_a_celery_app_is_recognised(tmp_path) -> None:
    write(tmp_path, tasks="from celery import Celery\napp = Celery('x')\n")

    with pytest.raises(AppNotFound, match=r"tasks:app is a Celery app, not one of amqptasks"):
        find_app("tasks")


def test_a_bad_name_is_no_import(tmp_path) -> None:
    with pytest.raises(AppNotFound, match="'my-app' is no module name"):
        find_app("my-app")


def test_sys_exit_in_the_users_module_is_an_error_like_others(tmp_path) -> None:
    write(tmp_path, tasks="import sys\nsys.exit('no settings')\n")

    with pytest.raises(AppImportFailed, match=r"raised SystemExit: no settings \(tasks\.py, line 2\)"):
        find_app("tasks")


def test_a_factory_that_raises_carries_its_traceback(tmp_path) -> None:
    write(tmp_path, tasks="def make():\n    raise LookupError('no key')\n")

    with pytest.raises(
        AppImportFailed, match=r"calling tasks:make raised LookupError: no key \(tasks\.py, line 2\)"
    ) as caught:
        find_app("tasks:make")

    assert 'tasks.py", line 2, in make' in caught.value.remote_traceback
    assert "loading.py" not in caught.value.remote_traceback


def test_a_library_that_the_app_calls_is_in_the_traceback_but_not_in_the_line(tmp_path) -> None:
    write(tmp_path, tasks="import json\n\njson.loads('{')\n")

    with pytest.raises(AppImportFailed, match=r"\(tasks\.py, line 3\)") as caught:
        find_app("tasks")

    assert "decoder.py" in caught.value.remote_traceback


def test_included_modules_register_their_tasks(tmp_path) -> None:
    write(
        tmp_path,
        shop="from amqptasks import App\napp = App('shop', include=['more'])\n",
        more="from shop import app\n\n@app.task\ndef add(x, y): return x + y\n",
        extra="from shop import app\n\n@app.task\ndef sub(x, y): return x - y\n",
    )
    found = find_app("shop")

    import_tasks(found, ["extra"])

    assert {"more.add", "extra.sub"} <= set(found.tasks)


@pytest.mark.parametrize(
    ("include", "modules", "line"),
    [
        (
            ["absent"],
            [],
            "importing what `include` and `imports` name raised ModuleNotFoundError: No module named 'absent'",
        ),
        ([], ["absent"], "importing absent (-I) raised ModuleNotFoundError: No module named 'absent'"),
        (
            ["broken"],
            [],
            "importing what `include` and `imports` name raised ZeroDivisionError: division by zero (broken.py, line 1)",
        ),
    ],
)
def test_a_module_that_cannot_be_included_is_named(tmp_path, include, modules, line) -> None:
    write(
        tmp_path,
        shop=f"from amqptasks import App\napp = App('shop', include={include!r})\n",
        broken="1 / 0\n",
    )
    found = find_app("shop")

    with pytest.raises(AppImportFailed) as caught:
        import_tasks(found, modules)

    assert str(caught.value).startswith(line + ";")


def test_what_is_read_long_after_its_line_has_no_place(tmp_path) -> None:
    """Neither a line of ours nor an innocent one of the user's."""
    write(tmp_path, tasks="from amqptasks import App\napp = App('shop')\napp.config_from_object('absent')\n")

    with pytest.raises(ImproperlyConfigured, match=r"configuration module 'absent'.*PYTHONPATH\?$"):
        import_tasks(find_app("tasks"))
