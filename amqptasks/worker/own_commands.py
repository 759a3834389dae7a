"""The app's own commands, carried out where the app is: in a process beside the tasks. Never imported by the parent.

Arguments and answer are JSON, as on the wire.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amqptasks.amqp import Parcel
from amqptasks.commands import CommandState
from amqptasks.worker.outcome import Outcome

if TYPE_CHECKING:
    from amqptasks.app import App

logger = logging.getLogger(__name__)


def carry_out(app: App, node: str, name: str, arguments: bytes, complete: Callable[[Any], Any]) -> Outcome:
    """Call a command; `complete` awaits one that is a coroutine. The outcome's one parcel holds its answer.

    What it raises is its answer too: `{"error": ...}`.
    """
    try:
        command = app.commands.find(name)
        if command is None:
            raise KeyError(name)
        value = command.call(CommandState(app, node), json.loads(arguments))
        if inspect.iscoroutine(value):
            value = complete(value)
        body = json.dumps(value, default=repr)
    except Exception as error:
        logger.exception("the command %s failed", name)
        body = json.dumps({"error": repr(error)})
    return Outcome(publish=(Parcel("", "", b"", body.encode(), "", "drop"),))
