"""An app in a Django project: apps are loaded before tasks, tasks are found in all of them, connections are kept fresh.

Django is not a dependency, so a module stands for it here that has its names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amqptasks import App, django_apps, signals
from amqptasks.testing import running_worker

DJANGO = """
from django.apps import apps
from django.told import told

def setup():
    assert not apps.ready, "a second time it would configure the log again"
    apps.ready = True
    told.append("setup")
"""
APPS = """
from types import SimpleNamespace

apps = SimpleNamespace(ready=False, get_app_configs=lambda: [SimpleNamespace(name=name) for name in ("blog", "store")])
"""
DB = """
from types import SimpleNamespace
from django.told import told

connections = SimpleNamespace(close_all=lambda: told.append("close_all"))

def close_old_connections():
    told.append("close_old_connections")
"""
TASKS = """
from amqptasks import shared_task
from django.apps import apps

assert apps.ready, "models cannot be imported before the apps are loaded"

@shared_task
def publish():
    from django.told import told
    told.append("publish")
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    files = {
        "django/__init__.py": DJANGO,
        "django/apps.py": APPS,
        "django/db.py": DB,
        "django/told.py": "told = []\n",
        "blog/__init__.py": "",
        "blog/tasks.py": TASKS,
        "store/__init__.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "proj.settings")
    before = set(sys.modules)
    yield lambda: sys.modules["django.told"].told
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"django", "blog", "store"}:
            del sys.modules[name]
    for signal in (signals.task_prerun, signals.task_postrun):
        signal.disconnect(django_apps._close_old_connections)


def test_tasks_of_all_installed_apps_are_found_and_no_connection_is_inherited(
    app: App, told: Callable[[], list[str]]
) -> None:
    app.autodiscover_tasks()
    assert "django" not in sys.modules, "the apps may not be loadable yet"

    app.import_modules()

    assert "blog.tasks.publish" in app.tasks
    assert told() == ["setup", "close_all"]


def test_connections_are_looked_at_around_each_task(app: App, told: Callable[[], list[str]]) -> None:
    app.autodiscover_tasks(["blog"])

    with running_worker(app):
        app.tasks["blog.tasks.publish"].delay().get(timeout=60)

    assert told() == ["setup", "close_all", "close_old_connections", "publish", "close_old_connections"]


def test_in_place_the_caller_s_connection_stays(app: App, told: Callable[[], list[str]]) -> None:
    app.autodiscover_tasks(force=True)
    app.conf.task_always_eager = True

    app.tasks["blog.tasks.publish"].delay()

    assert told() == ["setup", "publish"]


def test_without_django_nothing_is_found_and_that_is_told(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    app.autodiscover_tasks()

    with pytest.warns(UserWarning, match=r"autodiscover_tasks\(\['proj.shop'\]\)"):
        app.import_modules()


def test_a_project_whose_django_is_missing_is_told(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "proj.settings")
    monkeypatch.setitem(sys.modules, "django", None)

    with pytest.warns(UserWarning, match="Django is not installed"):
        app.import_modules()
