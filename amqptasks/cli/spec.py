"""Which app is meant: `-A`, the environment, or pyproject.toml. Imports no app."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amqptasks.cli.options import Common
from amqptasks.errors import AppNotFound, ImproperlyConfigured
from amqptasks.transport.url import parse


def app_spec(common: Common) -> str | None:
    """Return `-A` or AMQPTASKS_APP, else `[tool.amqptasks] app` of pyproject.toml, else None.

    Raises ImproperlyConfigured when that file cannot be read.
    """
    return common.app or _pyproject(common.folder).get("app")


def required_spec(common: Common) -> str:
    """Return the app's name. Raises AppNotFound with the cure when nothing names one."""
    spec = app_spec(common)
    if not spec:
        raise AppNotFound(
            "no app is named; add -A yourmodule, or set AMQPTASKS_APP, "
            "or write app = 'yourmodule' under [tool.amqptasks] in pyproject.toml"
        )
    return spec


def settings_of(common: Common) -> dict[str, Any]:
    """Return the settings that `-b` and `--result-backend` are. Raises ImproperlyConfigured for a bad URL."""
    if common.broker is not None:
        parse(common.broker)
    said = {"broker_url": common.broker, "result_backend": common.result_backend}
    return {name: value for name, value in said.items() if value is not None}


def enter_workdir(common: Common) -> None:
    """Change to `--workdir`, as Celery does, so that the app's relative paths mean what they say."""
    if common.workdir:
        os.chdir(common.workdir)


def _pyproject(folder: Path) -> Mapping[str, Any]:
    """Return the table `[tool.amqptasks]` of the nearest pyproject.toml, upwards from the folder."""
    candidates = (parent / "pyproject.toml" for parent in (folder, *folder.parents))
    path = next((one for one in candidates if one.is_file()), None)
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text()).get("tool", {}).get("amqptasks", {})
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise ImproperlyConfigured(
            f"{path} cannot be read: {error}; correct it, or name the app by -A"
        ) from None
    if not isinstance(table.get("app", ""), str):
        raise ImproperlyConfigured(
            f'[tool.amqptasks] app in {path} is no text; write app = "package.module:app"'
        )
    return dict(table)
