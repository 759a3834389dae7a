"""Where a schedule comes from: the app's settings here; a class of one's own may read a database.

The setting `beat_scheduler` names the class. Knows entries; knows neither broker nor clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from amqptasks import dotted
from amqptasks.beat.entries import Entry, read_all
from amqptasks.errors import ImproperlyConfigured
from amqptasks.schedules import crontab

CLEANUP = "celery.backend_cleanup"
"""The entry, and its task. Another entry of that name replaces it; None in its place removes it."""

if TYPE_CHECKING:
    from amqptasks.app import App


class Scheduler:
    """The entries of `beat_schedule` and `add_periodic_task`, and `celery.backend_cleanup`. Made once, in the beat's
    process.

    Another scheduler overrides `entries`, and sets `refresh` to the seconds after which it is asked again (None:
    never). Last runs, pauses and entries added at run time are kept by beat itself, on the broker.
    """

    refresh: float | None = None

    def __init__(self, app: App) -> None:
        self.app = app

    def entries(self) -> Mapping[str, Entry]:
        """Return all entries by name. Called in a thread; may block. Raises ImproperlyConfigured."""
        conf = self.app.conf
        if self.app.setup_failures:
            error = self.app.setup_failures[0]
            raise ImproperlyConfigured(
                f"a receiver of on_after_configure or on_after_finalize failed, so entries may be missing: {error}"
            ) from error
        given = {**self._own(), **self.app.periodic_tasks, **conf.beat_schedule}
        return {entry.name: entry for entry in read_all(given, conf.beat_catch_up)}

    def _own(self) -> Mapping[str, Mapping[str, Any]]:
        """What beat sends by itself: expired results are deleted once a day where no broker or store does so."""
        if not self.app.conf.result_expires or self.app.backend.supports_autoexpire:
            return {}
        return {
            CLEANUP: {"task": CLEANUP, "schedule": crontab(0, 4), "options": {"expires": 12 * 3600}},
        }


def open_scheduler(app: App) -> Scheduler:
    """Return the scheduler that the settings name. Raises ImproperlyConfigured when it is none."""
    given = app.conf.beat_scheduler
    if given is None:
        return Scheduler(app)
    made: Scheduler = dotted.find_class(given, Scheduler, "beat_scheduler")(app)
    return made
