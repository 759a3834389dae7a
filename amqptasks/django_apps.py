"""Django's apps: set up before tasks are imported, asked which packages there are, and their connections kept fresh.

Only where DJANGO_SETTINGS_MODULE says that there are any, as in Celery. Imports Django when it is needed, never before.
Knows signals; knows nothing of tasks or workers.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import warnings
from typing import Any

from amqptasks import signals

VARIABLE = "DJANGO_SETTINGS_MODULE"


def set_up() -> bool:
    """Have Django load its apps, if this process is of a project of its; False if not. Raises what they raise."""
    if not os.environ.get(VARIABLE):
        return False
    try:
        django: Any = importlib.import_module("django")
    except ModuleNotFoundError:
        warnings.warn(
            f"{VARIABLE} is set, and Django is not installed: its apps are not loaded", stacklevel=3
        )
        return False
    if not importlib.import_module("django.apps").apps.ready:
        django.setup()
    for signal in (signals.task_prerun, signals.task_postrun):
        signal.connect(_close_old_connections, weak=False)
    return True


def packages() -> list[str]:
    """Return the packages of the installed apps; none, with a warning, where there is no Django."""
    if set_up():
        return [config.name for config in importlib.import_module("django.apps").apps.get_app_configs()]
    warnings.warn(
        "autodiscover_tasks() without packages takes those of Django's INSTALLED_APPS, and there are none here; "
        f"name them, autodiscover_tasks(['proj.shop']), or set {VARIABLE}",
        stacklevel=3,
    )
    return []


def close_connections() -> None:
    """Close what loading the apps has opened: the processes that are forked now must not share it."""
    _database("connections.close_all")


def _close_old_connections(task: Any = None, **_: Any) -> None:
    """Before and after each task: what the server has closed meanwhile, or CONN_MAX_AGE makes too old."""
    if task.request.is_eager:  # the caller's transaction is open
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        _database("close_old_connections")  # a loop's thread has none: Django forbids it


def _database(name: str) -> None:
    found: Any = importlib.import_module("django.db")
    for part in name.split("."):
        found = getattr(found, part)
    found()
