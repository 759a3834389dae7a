"""Loading the app for a client command. Imports the user's code; the worker command must not."""

from __future__ import annotations

from amqptasks.app import App
from amqptasks.cli.options import Common
from amqptasks.cli.spec import app_spec, enter_workdir, required_spec, settings_of
from amqptasks.worker.loading import find_app


def load_app(common: Common) -> App:
    """Import the app and put the command line's settings over its own.

    Raises AppNotFound, AppImportFailed, ImproperlyConfigured.
    """
    enter_workdir(common)
    app = find_app(required_spec(common), common.folder)
    app.conf.update(settings_of(common))
    return app


def load_any_app(common: Common) -> App:
    """As `load_app`; where nothing names an app a nameless one stands in, enough to send by name."""
    if app_spec(common):
        return load_app(common)
    enter_workdir(common)
    app = App("amqptasks.cli", set_as_current=False)
    app.conf.update(settings_of(common))
    return app
