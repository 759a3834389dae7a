"""The commands that change a running worker: what it does for `control`, under Celery's names and arguments.

Each takes the station and the command's arguments; what it raises is the reply's error. Coroutines are those that
speak to the broker or to the pool.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from amqptasks import revokes
from amqptasks.errors import ImproperlyConfigured, NotRegistered
from amqptasks.worker import queues, revoking
from amqptasks.worker.reloading import reload
from amqptasks.worker.shutdown import Phase
from amqptasks.worker.station import Station

logger = logging.getLogger(__name__)

_reloads: set[asyncio.Task[None]] = set()


def ok(text: str) -> dict[str, str]:
    return {"ok": text}


# --- revoking --------------------------------------------------------------------------------------------


def revoke(
    station: Station,
    task_id: Any = (),
    terminate: bool = False,
    signal: Any = None,
    everyone: bool = False,
    **_: Any,
) -> Any:
    """Never run these; with `terminate` also stop those that run. What `everyone` was told is kept on the broker."""
    ids, name = _names(task_id), revokes.signal_name(signal) if terminate else ""
    station.dispatch.revoked.add(ids)
    if everyone:
        station.remember(ids, {})
    revoking.drop_waiting(station.dispatch)
    logger.info("Tasks flagged as revoked: %s", ", ".join(ids))
    if not terminate:
        return ok(f"tasks {set(ids)} flagged as revoked")
    ended = revoking.terminate(station.dispatch, lambda flight: flight.task_id in set(ids), name)
    return ok(f"terminate: {', '.join(ended)}" if ended else "terminate: tasks unknown")


def terminate(
    station: Station, signal: Any = None, task_id: Any = (), everyone: bool = False, **_: Any
) -> Any:
    return revoke(station, task_id, terminate=True, signal=signal, everyone=everyone)


def revoke_by_stamped_headers(
    station: Station,
    headers: Any = (),
    terminate: bool = False,
    signal: Any = None,
    everyone: bool = False,
    **_: Any,
) -> Any:
    """Never run what bears one of these stamps; `headers` are a mapping or words like `name=value`."""
    if not isinstance(headers, Mapping):
        headers = revokes.stamps(map(str, headers))
    name = revokes.signal_name(signal) if terminate else ""
    station.dispatch.revoked.add_stamps(headers)
    if everyone:
        station.remember((), headers)
    revoking.drop_waiting(station.dispatch)
    if not terminate:
        return ok(f"headers {headers} flagged as revoked, but not terminated")
    known = station.dispatch.revoked
    ended = revoking.terminate(station.dispatch, lambda flight: known.bears(headers, flight.delivery), name)
    return ok(
        f"headers {headers} revoked: {', '.join(ended)}"
        if ended
        else f"headers {headers} were not terminated"
    )


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(each) for each in value or ()]


# --- tasks -----------------------------------------------------------------------------------------------


def rate_limit(station: Station, task_name: str, rate_limit: Any = None, **_: Any) -> Any:
    """ "10/s", "100/m", "1000/h"; 0 lifts it."""
    try:
        station.rate_limit(task_name, rate_limit)
    except NotRegistered:
        return {"error": "unknown task"}
    except ImproperlyConfigured as error:
        return {"error": f"Invalid rate limit string: {error}"}
    logger.info("New rate limit for tasks of type %s: %s.", task_name, rate_limit)
    lifted = task_name not in station.dispatch.rates
    return ok("rate limit disabled successfully" if lifted else "new rate limit set successfully")


def time_limit(station: Station, task_name: str = "", hard: Any = None, soft: Any = None, **_: Any) -> Any:
    """Seconds, for what is received from now on; None lifts a limit."""
    task = station.dispatch.tasks.get(task_name)
    if task is None:
        return {"error": "unknown task"}
    changed = replace(task, time_limit=_seconds(hard), soft_time_limit=_seconds(soft))
    station.dispatch.tasks = {**station.dispatch.tasks, task_name: changed}
    logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return ok("time limits set successfully")


def _seconds(value: Any) -> float | None:
    seconds = float(value or 0)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"a time limit is a number of seconds, not {value!r}")
    return seconds or None


# --- queues ----------------------------------------------------------------------------------------------


async def add_consumer(
    station: Station,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **_: Any,
) -> Any:
    wanted = queues.named(
        queue,
        station.manifest.settings,
        exchange=exchange,
        exchange_type=exchange_type,
        routing_key=routing_key,
    )
    await station.consumers.add(wanted)
    return ok(f"add consumer {queue}")


async def cancel_consumer(station: Station, queue: str, **_: Any) -> Any:
    await station.consumers.remove(queue)
    return ok(f"no longer consuming from {queue}")


# --- the pool --------------------------------------------------------------------------------------------


async def pool_grow(station: Station, n: int = 1, **_: Any) -> Any:
    if station.autoscaler is not None:
        return {"error": "pool_grow is not supported with autoscale. Adjust autoscale range instead."}
    return await _resize(station, station.pool.size + int(n), "pool will grow")


async def pool_shrink(station: Station, n: int = 1, **_: Any) -> Any:
    if station.autoscaler is not None:
        return {"error": "pool_shrink is not supported with autoscale. Adjust autoscale range instead."}
    return await _resize(station, station.pool.size - int(n), "pool will shrink")


async def _resize(station: Station, size: int, said: str) -> dict[str, str]:
    if size < 1:
        return {"error": f"the pool has {station.pool.size} slots, of which one must stay"}
    await station.pool.resize(size)
    if station.pool.size != size:
        return {"error": f"the {station.pool.name} pool has a fixed size"}
    await station.consumers.resized(size)
    return ok(said)


async def pool_restart(station: Station, modules: Any = None, **_: Any) -> Any:
    """Load the app anew, and these modules too, in new children; only with `worker_pool_restarts`.

    It is always loaded from its files: Celery's `reload` says nothing more here.
    """
    if not station.manifest.settings["worker_pool_restarts"]:
        raise ValueError("Pool restarts not enabled")
    under_way = asyncio.ensure_future(reload(station, _names(modules)))
    _reloads.add(under_way)
    under_way.add_done_callback(_reloads.discard)
    return ok("reload started")


async def autoscale(station: Station, max: Any = None, min: Any = None, **_: Any) -> Any:
    """Let the pool have `max` slots at most and `min` at least; None leaves a limit as it is."""
    scaler = station.autoscaler
    if scaler is None:
        raise ValueError("Autoscale not enabled")
    await scaler.update(None if max is None else int(max), None if min is None else int(min))
    await station.consumers.resized(scaler.most)
    return ok(f"autoscale now max={scaler.most} min={scaler.least}")


def shutdown(station: Station, **_: Any) -> Any:
    """Warm: what runs is finished, what waits goes back."""
    logger.warning("Got shutdown from remote")
    asyncio.get_running_loop().call_soon(station.shutdown.request, Phase.WARM)
    return ok("shutting down")


def enable_events(station: Station, **_: Any) -> Any:
    return ok("task events enabled" if station.events.enable() else "task events already enabled")


def disable_events(station: Station, **_: Any) -> Any:
    return ok("task events disabled" if station.events.disable() else "task events already disabled")


def heartbeat(station: Station, **_: Any) -> Any:
    """Send a heartbeat event now; a monitor that starts asks for it."""
    station.events.beat(freq=5)


def election(station: Station, **_: Any) -> Any:
    """Workers elect nobody here."""


CONTROL: Mapping[str, Callable[..., Any]] = {
    "add_consumer": add_consumer,
    "autoscale": autoscale,
    "cancel_consumer": cancel_consumer,
    "disable_events": disable_events,
    "election": election,
    "enable_events": enable_events,
    "heartbeat": heartbeat,
    "pool_grow": pool_grow,
    "pool_restart": pool_restart,
    "pool_shrink": pool_shrink,
    "rate_limit": rate_limit,
    "revoke": revoke,
    "revoke_by_stamped_headers": revoke_by_stamped_headers,
    "shutdown": shutdown,
    "terminate": terminate,
    "time_limit": time_limit,
}
