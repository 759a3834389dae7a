"""Loading the app where it will run: in the zygote, before it forks, or in the worker itself for the solo pool."""

from __future__ import annotations

import os

from amqptasks import signals
from amqptasks.app import App
from amqptasks.worker import manifest
from amqptasks.worker.executor import Executor
from amqptasks.worker.loading import find_app, import_tasks
from amqptasks.worker.logging import LogSetup, install, redirect_stdouts
from amqptasks.worker.options import WorkerOptions
from amqptasks.worker.outcome import LoadSpec
from amqptasks.worker.pools.base import Loaded


def load(spec: LoadSpec) -> Loaded:
    """Find the app, apply the command line, import its modules, and read its manifest.

    The executors log as the worker does, and log what tasks print if `worker_redirect_stdouts` says so.
    Raises AppNotFound, AppImportFailed and ImproperlyConfigured.
    """
    options: WorkerOptions = spec.options
    app = find_app(spec.app, options.workdir or None)
    ready = loaded(app, spec)

    def make_executor() -> Executor:
        settings = ready.manifest.settings
        install(LogSetup.of(options, settings), process=f"PoolWorker-{os.getpid()}")
        if settings["worker_redirect_stdouts"] and spec.pool != "solo":
            redirect_stdouts(settings["worker_redirect_stdouts_level"])
        return Executor(app, spec.node)

    return Loaded(ready.manifest, make_executor)


def loaded(app: App, spec: LoadSpec) -> Loaded:
    """As `load`, for an app at hand, and without touching the log."""
    options: WorkerOptions = spec.options
    signals.celeryd_init.send(sender=spec.node, instance=app, conf=app.conf, options=dict(spec.overrides))
    app.conf.update(spec.overrides)
    import_tasks(app, (*options.include, *spec.modules), options.workdir or None)
    app.finalize()
    signals.worker_init.send(sender=None)
    signals.celeryd_after_setup.send(sender=spec.node, instance=app, conf=app.conf)
    made = manifest.build(app, queues=options.queues, exclude=options.exclude_queues)
    return Loaded(made, lambda: Executor(app, spec.node))
