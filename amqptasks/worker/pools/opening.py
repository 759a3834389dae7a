"""Which pool: loads the app, then the settings decide, unless the command line did."""

from __future__ import annotations

from amqptasks.errors import ImproperlyConfigured
from amqptasks.worker.outcome import LoadSpec
from amqptasks.worker.pools.aio import AsyncioPool
from amqptasks.worker.pools.base import Pool
from amqptasks.worker.pools.prefork import PreforkPool
from amqptasks.worker.pools.solo import SoloPool
from amqptasks.worker.pools.spawner import open_spawner
from amqptasks.worker.pools.threads import ThreadsPool


async def open_pool(spec: LoadSpec) -> Pool:
    """Load the app and return the pool to run it, not started yet; `stop` it in any case.

    Raises AppNotFound, AppImportFailed, ImproperlyConfigured, PoolFailed.
    """
    if spec.pool == "solo":
        return SoloPool(spec)
    spawner = await open_spawner(spec)
    name = spec.pool or spawner.manifest.settings.get("worker_pool") or "prefork"
    match name:
        case "prefork":
            return PreforkPool(spawner, spec.concurrency)
        case "threads":
            return ThreadsPool(spawner, spec.concurrency)
        case "asyncio":
            return AsyncioPool(spawner, spec.concurrency)
    await spawner.close(1.0)
    if name == "solo":
        return SoloPool(spec)
    raise ImproperlyConfigured(f"there is no pool {name!r}; pools are prefork, threads, asyncio and solo")
