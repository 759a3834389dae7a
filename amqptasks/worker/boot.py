"""Loading the app where it will run: in the zygote, before it forks, or in the worker itself for the solo pool."""

from __future__ import annotations

import importlib

from amqptasks import signals
from amqptasks.app import App
from amqptasks.worker import manifest
from amqptasks.worker.executor import Executor
from amqptasks.worker.loading import find_app
from amqptasks.worker.options import WorkerOptions
from amqptasks.worker.outcome import LoadSpec
from amqptasks.worker.pools.base import Loaded


def load(spec: LoadSpec) -> Loaded:
    """Find the app, apply the command line, import its modules, and read its manifest.

    Raises AppNotFound, AppImportFailed and ImproperlyConfigured.
    """
    return loaded(find_app(spec.app, spec.options.workdir or None), spec)


def loaded(app: App, spec: LoadSpec) -> Loaded:
    """As `load`, for an app at hand."""
    options: WorkerOptions = spec.options
    app.conf.update(spec.overrides)
    for module in options.include:
        importlib.import_module(module)
    app.import_modules()
    app.finalize()
    signals.worker_init.send(sender=None)
    return Loaded(
        manifest.build(app, queues=options.queues, exclude=options.exclude_queues),
        lambda: Executor(app, spec.node),
    )
