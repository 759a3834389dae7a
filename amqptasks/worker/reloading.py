"""Loading the app anew in a worker that goes on: `control pool_restart`. What runs is finished by the old children."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from amqptasks.worker.outcome import Manifest
from amqptasks.worker.station import Station

logger = logging.getLogger(__name__)


async def reload(station: Station, modules: Sequence[str]) -> None:
    """Have new children with the app as it is now. Raises nothing: what fails is logged, and the old ones go on."""
    try:
        manifest = await station.pool.restart(modules)
    except Exception:
        logger.exception("the pool could not be restarted; it goes on with what it had loaded")
        return
    if manifest is not None:
        know(station, manifest)
    logger.info("the pool has loaded the app anew")


def know(station: Station, manifest: Manifest) -> None:
    """Let the parent know tasks, commands and signals as they are now; what `control` has changed of a task stays."""
    before, station.manifest = station.manifest.tasks, manifest
    dispatch = station.dispatch
    changed = {name: options for name, options in manifest.tasks.items() if before.get(name) != options}
    stay = {name: options for name, options in dispatch.tasks.items() if name in manifest.tasks}
    dispatch.tasks = {**stay, **changed}
    for name, options in changed.items():
        if name not in before or before[name].rate_limit != options.rate_limit:
            dispatch.rates.change(name, options.rate_limit)
    dispatch.received_hook = "task_received" in manifest.hooks
