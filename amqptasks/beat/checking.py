"""Whether what a schedule says can be sent at all, found out before it is due.

Makes each entry's message, as a call of the app's, and throws it away. Declares and publishes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from amqptasks.beat.entries import Entry
from amqptasks.composing import NOTHING, compose
from amqptasks.errors import AmqptasksError, ImproperlyConfigured, NotRegistered, TransportError
from amqptasks.options import check_names

if TYPE_CHECKING:
    from amqptasks.app import App

log = logging.getLogger(__name__)


def check_all(app: App, entries: Iterable[Entry]) -> None:
    """Raise ImproperlyConfigured for the first entry that cannot be sent, and log those whose task is unknown here.

    Another program's workers may know it, so that is no refusal.
    """
    for entry in entries:
        check(app, entry)
        if told := unknown(app, entry.task):
            log.error(
                "beat: entry %r: %s; it is sent nevertheless, for other workers may know it", entry.name, told
            )


def check(app: App, entry: Entry) -> None:
    """Raise ImproperlyConfigured where a message cannot be made, the task would refuse the arguments, or the schedule,
    which may be the user's own, finds no later time.
    """
    known = app.tasks.get(entry.task)
    typed = app.strict_typing if known is None or known.typing is None else known.typing
    try:
        check_names(entry.options, entry.task)
        if known is not None and typed:
            known.arguments.check(entry.args, entry.kwargs)
        # Without a result, so that no reply queue is made.
        options = {**entry.options, "ignore_result": True}
        preset = NOTHING if known is None else known.preset
        compose(app, entry.task, entry.args, entry.kwargs, options, preset).encode()
        now = datetime.now(UTC)
        following = entry.schedule.next_after(now, app.timezone)
        if following is not None and following <= now:
            raise ImproperlyConfigured(f"{entry.schedule!r} is due at {following}, which is not after {now}")
    except TransportError:  # a router that asks the broker: it will be asked again
        return
    except Exception as error:  # the user's router, serializer or schedule may raise anything
        said = str(error) if isinstance(error, AmqptasksError | TypeError | ValueError) else repr(error)
        raise ImproperlyConfigured(f"beat_schedule[{entry.name!r}] cannot be sent: {said}") from error


def unknown(app: App, task: str) -> str:
    """Return what is to be said of a task that the app does not know; else nothing."""
    try:
        app.tasks[task]
    except NotRegistered as error:
        return str(error)
    return ""
