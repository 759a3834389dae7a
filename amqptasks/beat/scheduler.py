"""Where a schedule comes from: the app's settings here; a class of one's own may read a database.

The setting `beat_scheduler` names the class. Knows entries; knows neither broker nor clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from amqptasks import dotted
from amqptasks.beat.entries import Entry, read_all

if TYPE_CHECKING:
    from amqptasks.app import App


class Scheduler:
    """The entries of `beat_schedule` and `add_periodic_task`. Made once, in the beat's process.

    Another scheduler overrides `entries`, and sets `refresh` to the seconds after which it is asked again (None:
    never). Last runs, pauses and entries added at run time are kept by beat itself, on the broker.
    """

    refresh: float | None = None

    def __init__(self, app: App) -> None:
        self.app = app

    def entries(self) -> Mapping[str, Entry]:
        """Return all entries by name. Called in a thread; may block. Raises ImproperlyConfigured."""
        conf = self.app.conf
        given = {**self.app.periodic_tasks, **conf.beat_schedule}
        return {entry.name: entry for entry in read_all(given, conf.beat_catch_up)}


def open_scheduler(app: App) -> Scheduler:
    """Return the scheduler that the settings name. Raises ImproperlyConfigured when it is none."""
    given = app.conf.beat_scheduler
    if given is None:
        return Scheduler(app)
    made: Scheduler = dotted.find_class(given, Scheduler, "beat_scheduler")(app)
    return made
