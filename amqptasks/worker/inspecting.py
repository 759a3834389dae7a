"""The commands that look: what a worker answers to `inspect`, under Celery's names and with its keys.

Each takes the station and the command's arguments. Nothing here changes the worker, and no body is decoded: a call's
arguments are shown as its headers tell them.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from amqptasks import __version__
from amqptasks.amqp import Properties, Queue
from amqptasks.errors import AmqptasksError
from amqptasks.masking import mask_value
from amqptasks.settings import DEFAULTS
from amqptasks.transport import codec
from amqptasks.transport.url import parse
from amqptasks.worker import rates
from amqptasks.worker.flight import Flight
from amqptasks.worker.outcome import TaskOptions, WorkerQueue
from amqptasks.worker.station import Station

NO_PROPERTIES = Properties()
OWN = ("amqptasks.", "celery.")
"""How the names of built-in tasks begin, which are shown only when asked for."""
ATTRIBUTES = ("rate_limit",)
RUSAGE = (
    "utime", "stime", "maxrss", "ixrss", "idrss", "isrss", "minflt", "majflt", "nswap", "inblock", "oublock",
    "msgsnd", "msgrcv", "nsignals", "nvcsw", "nivcsw",
)  # fmt: skip


def ping(station: Station, **_: Any) -> Any:
    return {"ok": "pong"}


def clock(station: Station, **_: Any) -> Any:
    return {"clock": station.clock.value}


def hello(station: Station, from_node: str = "", revoked: Any = None, **_: Any) -> Any:
    """Tell another worker which ids, and which stamps, are revoked, and take in the ids that it knows."""
    if from_node == station.node:
        return None
    if revoked:
        station.dispatch.revoked.add(map(str, revoked))
    known = station.dispatch.revoked
    stamps = {"stamps": known.stamps} if known.stamps else {}  # Celery knows no such key
    return {"revoked": list(known), "clock": station.clock.forward(), **stamps}


# --- tasks -----------------------------------------------------------------------------------------------


def active(station: Station, **_: Any) -> Any:
    return [
        _shown(station, flight)
        for flight in station.dispatch.flights.values()
        if _state(station, flight) == "active"
    ]


def reserved(station: Station, **_: Any) -> Any:
    flights = station.dispatch.flights.values()
    return [_shown(station, flight) for flight in flights if _state(station, flight) == "reserved"]


def scheduled(station: Station, **_: Any) -> Any:
    """What waits here for its last second; the rest of the delayed calls waits on the broker."""
    flights = station.dispatch.flights.values()
    waiting = [flight for flight in flights if _state(station, flight) == "scheduled"]
    return [
        {"eta": _headers(flight).get("eta"), "priority": 6, "request": _shown(station, flight)}
        for flight in waiting
    ]


def query_task(station: Station, ids: Any = (), **_: Any) -> Any:
    wanted = {ids} if isinstance(ids, str) else set(map(str, ids))
    return {
        flight.task_id: [_state(station, flight), _shown(station, flight)]
        for flight in station.dispatch.flights.values()
        if flight.task_id in wanted
    }


def revoked(station: Station, **_: Any) -> Any:
    station.dispatch.revoked.purge()
    return list(station.dispatch.revoked)


def registered(station: Station, taskinfoitems: Iterable[str] = (), builtins: bool = False, **_: Any) -> Any:
    wanted = [name for name in taskinfoitems or ATTRIBUTES if not name.startswith("_")]
    tasks = station.dispatch.tasks
    return [
        _with_attributes(station, tasks[name], wanted)
        for name in sorted(tasks)
        if builtins or not name.startswith(OWN)
    ]


def _with_attributes(station: Station, task: TaskOptions, wanted: Iterable[str]) -> str:
    turns = station.dispatch.rates.turns.get(task.name)
    values = {name: getattr(task, name, task.described.get(name)) for name in wanted}
    if "rate_limit" in values:
        # As it was written, but a default, which is not the task's own.
        written = task.described.get("rate_limit")
        values["rate_limit"] = None if turns is None else written or rates.told(turns.rate)
    told = [f"{name}={value}" for name, value in values.items() if value is not None]
    return f"{task.name} [{' '.join(told)}]" if told else task.name


def _state(station: Station, flight: Flight) -> str:
    if flight.started:
        return "active" if flight.key in station.pool.running else "ready"
    return "scheduled" if flight.key in station.dispatch.holding.due else "reserved"


def _properties(flight: Flight) -> Properties:
    try:
        return codec.decode_header(flight.delivery.header)
    except AmqptasksError:
        return NO_PROPERTIES


def _headers(flight: Flight) -> Mapping[str, Any]:
    return _properties(flight).headers or {}


def _shown(station: Station, flight: Flight) -> dict[str, Any]:
    """Celery's `TASK_INFO`. Arguments are text, as the sender wrote it: Celery's `safe=True`."""
    properties, delivery = _properties(flight), flight.delivery
    headers = properties.headers or {}
    began = station.pool.running.get(flight.key)
    return {
        "id": headers.get("id"),
        "name": headers.get("task"),
        "args": headers.get("argsrepr"),
        "kwargs": headers.get("kwargsrepr"),
        "type": headers.get("task"),
        "hostname": station.node,
        "time_start": None if began is None else time.time() - (time.monotonic() - began),
        "acknowledged": flight.acked,
        "delivery_info": {
            "exchange": delivery.exchange,
            "routing_key": delivery.routing_key,
            "priority": properties.priority,
            "redelivered": delivery.redelivered,
        },
        "worker_pid": flight.pid or None,
    }


# --- the worker ------------------------------------------------------------------------------------------


def conf(station: Station, with_defaults: bool = False, **_: Any) -> Any:
    settings = station.manifest.settings
    return {
        name: mask_value(name, value)
        for name, value in settings.items()
        if with_defaults or value != DEFAULTS.get(name)
    }


def report(station: Station, **_: Any) -> Any:
    lines = [
        f"software -> amqptasks:{__version__} py:{platform.python_version()}",
        f"platform -> system:{platform.system()} arch:{platform.machine()} imp:{platform.python_implementation()}",
        f"settings -> results:{station.manifest.results or 'disabled'}",
        "",
        *(f"{name}: {value!r}" for name, value in conf(station).items()),
    ]
    return {"ok": "\n".join(lines)}


def stats(station: Station, **_: Any) -> Any:
    counters, lanes = station.dispatch.counters, station.consumers.lanes
    return {
        "total": dict(counters.tasks),
        "pid": os.getpid(),
        "clock": str(station.clock.value),
        "uptime": round(time.monotonic() - station.since),
        "pool": _pool(station),
        "broker": _broker(station),
        "prefetch_count": sum(lane.prefetch.value for lane in lanes if not lane.queue.internal),
        "rusage": dict(zip(RUSAGE, resource.getrusage(resource.RUSAGE_SELF), strict=True)),
        "counters": {
            "received": counters.received,
            "held": len(station.dispatch.flights),
            "started": counters.started,
            "finished": counters.finished,
            "lost": counters.lost,
            "returned": counters.returned,
            "doubles": counters.doubles,
            "undeliverable": counters.undeliverable,
            "events": station.events.sent,
            "events_dropped": station.events.dropped,
            "unconfirmed": station.publisher.pending,
            "reconnects": station.consumers.reconnects,
        },
        **({"autoscaler": station.autoscaler.info()} if station.autoscaler is not None else {}),
    }


def _pool(station: Station) -> dict[str, Any]:
    settings, pool = station.manifest.settings, station.pool
    return {
        "implementation": f"amqptasks:{pool.name}",
        "max-concurrency": pool.size,
        "processes": list(pool.pids),
        "max-tasks-per-child": settings["worker_max_tasks_per_child"] or "N/A",
        "put-guarded-by-semaphore": False,
        "timeouts": [settings["task_soft_time_limit"] or 0, settings["task_time_limit"] or 0],
        "writes": {
            "total": station.dispatch.counters.started,
            "strategy": "fair",
            "inqueues": {"total": pool.size, "active": len(pool.running)},
        },
    }


def _broker(station: Station) -> dict[str, Any]:
    settings, link = station.manifest.settings, station.consumers.link
    urls = parse(settings["broker_read_url"] or settings["broker_url"], settings["broker_use_ssl"] or False)
    here = [
        url
        for url in urls
        if link is not None and (url.host, url.port) == (link.server.host, link.server.port)
    ]
    url = (here or urls)[0]
    return {
        "hostname": url.host,
        "userid": url.user,
        "virtual_host": url.vhost,
        "port": url.port,
        "insist": False,
        "ssl": url.tls is not None,
        "transport": "amqp",
        "connect_timeout": settings["broker_connection_timeout"],
        "transport_options": {},
        "login_method": settings["broker_login_method"] or "PLAIN",
        "credential_provider": None,
        "uri_prefix": None,
        "heartbeat": settings["broker_heartbeat"],
        "failover_strategy": settings["broker_failover_strategy"],
        "alternates": [other.masked() for other in urls if other is not url],
    }


def active_queues(station: Station, **_: Any) -> Any:
    return [_queue(lane.queue) for lane in station.consumers.lanes if not lane.queue.internal]


def _queue(queue: WorkerQueue) -> dict[str, Any]:
    # Its exchange may bear the same name.
    own = next((each for each in queue.declare if isinstance(each, Queue) and each.name == queue.name), None)
    arguments = dict(own.arguments) if own is not None else {}
    return {
        "name": queue.name,
        "exchange": {
            "name": queue.exchange,
            "type": queue.exchange_type,
            "arguments": None,
            "durable": True,
            "passive": False,
            "auto_delete": False,
            "delivery_mode": None,
            "no_declare": False,
        },
        "routing_key": queue.routing_key,
        "queue_arguments": arguments,
        "binding_arguments": None,
        "consumer_arguments": dict(queue.consumer_arguments) or None,
        "durable": own is None or own.durable,
        "exclusive": own is not None and own.exclusive,
        "auto_delete": own is not None and own.auto_delete,
        "no_ack": False,
        "alias": None,
        "bindings": [],
        "no_declare": own is None,
        "expires": None,
        "message_ttl": None,
        "max_length": None,
        "max_length_bytes": None,
        "max_priority": arguments.get("x-max-priority"),
    }


def memsample(station: Station, **_: Any) -> Any:
    """The parent's resident memory now."""
    return f"{_resident() / 1024:.1f}MB"


def memdump(station: Station, samples: int = 10, **_: Any) -> Any:
    """The parent's resident memory, now and at its highest; no samples are kept."""
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resident = _resident()
    # The kernel counts the two apart, and the first one not to the page.
    return f"resident: {resident / 1024:.1f}MB, at its highest: {max(resident, highest) / 1024:.1f}MB"


def _resident() -> float:
    """KiB."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 1024
    except OSError:  # not on macOS
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


Answer = Callable[..., Any]

INSPECT: Mapping[str, Answer] = {
    "active": active,
    "active_queues": active_queues,
    "clock": clock,
    "conf": conf,
    "hello": hello,
    "memdump": memdump,
    "memsample": memsample,
    "ping": ping,
    "query_task": query_task,
    "registered": registered,
    "report": report,
    "reserved": reserved,
    "revoked": revoked,
    "scheduled": scheduled,
    "stats": stats,
}
ALIASES = {
    "dump_active": "active",
    "dump_conf": "conf",
    "dump_reserved": "reserved",
    "dump_revoked": "revoked",
    "dump_schedule": "scheduled",
    "dump_tasks": "registered",
}
