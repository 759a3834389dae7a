"""`amqptasks shell`: Python with the app and its tasks at hand."""

from __future__ import annotations

import code
import importlib.util
import traceback
from typing import Any

import click

from amqptasks.app import App
from amqptasks.cli.apps import load_app
from amqptasks.cli.options import Common, common_options
from amqptasks.cli.output import FAILED, Failure
from amqptasks.worker.loading import import_tasks


@click.command("shell")
@click.option("-c", "--code", "text", metavar="CODE", help="Run this instead of asking for input.")
@click.option("--python", "plain", is_flag=True, help="Plain Python, also where IPython is installed.")
@common_options
def command(text: str | None, plain: bool) -> None:
    """Open a Python shell with `app` and every task by the name of its function.

    \b
    amqptasks -A proj shell -c 'print(add.delay(2, 3).get(timeout=10))'
    """
    common = Common.current()
    with load_app(common) as app:
        names = namespace(app)
        if text is not None:
            _run(text, names)
        elif plain or importlib.util.find_spec("IPython") is None:
            code.interact(_greeting(names, common), local=names, exitmsg="")
        else:
            _ipython(names, _greeting(names, common))


def _run(text: str, names: dict[str, Any]) -> None:
    """Run the user's code; what it raises is shown as Python does, since it is the user's."""
    try:
        exec(compile(text, "<-c>", "exec"), names)  # noqa: S102 (it is what was asked for)
    except Exception:
        traceback.print_exc()
        click.get_current_context().exit(FAILED)


def namespace(app: App) -> dict[str, Any]:
    """Return what the shell knows: `app`, and the tasks by the last part of their names."""
    import_tasks(app)
    tasks = {name.rpartition(".")[2]: task for name, task in app.tasks.items()}
    return {"__name__": "__main__", **tasks, "app": app}


def _greeting(names: dict[str, Any], common: Common) -> str:
    tasks = sorted(name for name in names if name not in ("app", "__name__"))
    return "" if common.quiet else f"app = {names['app']!r}\ntasks: {', '.join(tasks) or 'none'}"


def _ipython(names: dict[str, Any], greeting: str) -> None:
    try:
        embed = importlib.import_module("IPython").embed
    except ImportError as error:
        raise Failure(f"IPython cannot be imported: {error}", hint="add --python") from error
    embed(banner1=greeting, user_ns=names, colors="neutral")
