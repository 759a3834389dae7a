"""`amqptasks result`: the state and value of a call, where results are stored."""

from __future__ import annotations

import click

from amqptasks import states
from amqptasks.cli.apps import load_any_app
from amqptasks.cli.options import Common, listing_options
from amqptasks.cli.output import CONFIG, Failure, show_json


@click.command("result")
@click.argument("task_id", metavar="ID")
@listing_options
def command(task_id: str) -> None:
    """Show the state and the result of the call ID, without waiting; with --traceback that of its failure.

    Exit code 1 when the task failed. PENDING also means that nothing is known of ID.
    """
    common = Common.current()
    with load_any_app(common) as app:
        _refuse_rpc(str(app.conf.result_backend or ""))
        result = app.AsyncResult(task_id)
        state, value, text = result.state, result.result, result.traceback
    failed = state in states.PROPAGATE_STATES
    if common.json:
        told = f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else value
        show_json({"id": task_id, "state": state, "error" if failed else "result": told, "traceback": text})
    elif common.traceback and text:
        print(text.rstrip())
    elif failed:
        print(f"{state}  {type(value).__name__}: {value}")
    else:
        print(state if value is None else f"{state}  {value!r}")
    if failed:
        click.get_current_context().exit(1)


def _refuse_rpc(backend: str) -> None:
    if backend.startswith("rpc"):
        raise Failure(
            "results of rpc:// belong to the process that sent the task",
            CONFIG,
            "wait for them there, use `amqptasks call --wait`, or set another result_backend",
        )
    if not backend or backend.startswith("disabled"):
        raise Failure("this app keeps no results", CONFIG, "set result_backend")
