"""Celery's names that are spelt or answered differently here: upper-case ones, and meaningless ones.

A configuration written for Celery must load: what has no meaning here is accepted with the reason; what would
silently change where messages go is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_POOL = "one connection for each role is kept per process, and reopened by itself"
_CHORD = "a chord is joined when its last part arrives; nothing polls"
_LADDER = "delayed tasks wait in the broker, not in the worker"
_STORES = "a result is published as reliably as a task, and result_store_timeout is for stores"
_CLASSES = "the worker is not assembled from classes named in settings"

UNUSED: Mapping[str, str] = {
    "broker_channel_error_retry": "channel errors are always answered one by one",
    "broker_heartbeat_checkrate": "the connection checks heartbeats by itself",
    "broker_native_delayed_delivery_queue_type": "delays always use quorum queues",
    "broker_pool_limit": _POOL,
    "broker_pool_acquire_timeout": _POOL,
    "result_exchange": "results go to the reply queue of their client, by the default exchange",
    "result_exchange_type": "results go to the reply queue of their client, by the default exchange",
    "result_chord_expires": "the broker deletes a chord's queue that nobody fills",
    "result_chord_retry_interval": _CHORD,
    "result_failure_expires": "results expire alike; set result_expires",
    "result_backend_transport_options": "a result store takes its options from the URL in result_backend",
    "result_backend_always_retry": _STORES,
    "result_backend_max_retries": _STORES,
    "result_backend_base_sleep_between_retries_ms": _STORES,
    "result_backend_max_sleep_between_retries_ms": _STORES,
    "result_backend_thread_safe": "result backends here are thread-safe",
    "worker_agent": _CLASSES,
    "worker_autoscaler": _CLASSES,
    "worker_consumer": _CLASSES,
    "worker_timer": _CLASSES,
    "worker_timer_precision": _LADDER,
    "worker_eta_task_limit": _LADDER,
    "worker_deduplicate_successful_tasks": "a worker drops an id that it has started before",
    "worker_detect_quorum_queues": "prefetch is always per consumer, as quorum queues need it",
    "worker_disable_prefetch": "set worker_prefetch_multiplier=1; fairness does not need it",
    "worker_enable_prefetch_count_reduction": "running tasks keep running when the connection is lost",
    "worker_lost_wait": "the death of a child is seen at once, and exactly",
    "worker_pool_putlocks": "the pool has no locks",
    "worker_pool_start_method": "children are forked by a process of their own that imported the app",
}

UNUSED_FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(
        ("redis_", "database_"), "a result store takes its options from the URL in result_backend"
    ),
    **dict.fromkeys(
        ("arangodb_", "azureblockblob_", "cache_", "cassandra_", "cosmosdbsql_", "couchbase_"),
        "there is no such result store here",
    ),
    **dict.fromkeys(("elasticsearch_", "gcs_", "mongodb_", "s3_"), "there is no such result store here"),
}

_URL = "write it into broker_url: amqp://user:password@host:port/vhost"

REFUSED: Mapping[str, str] = {
    "broker_host": _URL,
    "broker_port": _URL,
    "broker_user": _URL,
    "broker_password": _URL,
    "broker_vhost": _URL,
    "broker_transport": "the broker is RabbitMQ; remove it and set broker_url='amqp://...'",
    "result_dburi": "set result_backend='db+...'",
}

_OLD_SPECIAL: Mapping[str, str] = {
    "CELERY_MAX_CACHED_RESULTS": "result_cache_max",
    "CELERY_TASK_RESULT_EXPIRES": "result_expires",
    "CELERY_MESSAGE_COMPRESSION": "task_compression",
    "CELERY_EAGER_PROPAGATES_EXCEPTIONS": "task_eager_propagates",
    "CELERY_SEND_TASK_SENT_EVENT": "task_send_sent_event",
    "CELERYD_TASK_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERYD_TASK_TIME_LIMIT": "task_time_limit",
    "CELERYD_WORKER_LOST_WAIT": "worker_lost_wait",
    "CELERY_SEND_EVENTS": "worker_send_task_events",
    "CELERY_DISABLE_RATE_LIMITS": "worker_disable_rate_limits",
    "CELERY_ENABLE_REMOTE_CONTROL": "worker_enable_remote_control",
    "CELERY_REDIRECT_STDOUTS": "worker_redirect_stdouts",
    "CELERY_REDIRECT_STDOUTS_LEVEL": "worker_redirect_stdouts_level",
}

_OLD_PREFIXES: Mapping[str, str] = {"task_": "CELERY_", "worker_": "CELERYD_", "beat_": "CELERYBEAT_"}

OLD_PREFIXES = ("CELERY_", "CELERYD_", "CELERYBEAT_", "BROKER_")


def old_names(names: Iterable[str]) -> dict[str, str]:
    """Return Celery 3's upper-case name of each setting -> the setting; also `CELERY_<new name>`."""
    found: dict[str, str] = {}
    for name in names:
        prefix, rest = name.split("_", 1)[0] + "_", name.split("_", 1)[-1]
        if prefix == "broker_":
            found[name.upper()] = name
        if prefix in _OLD_PREFIXES:
            found[f"{_OLD_PREFIXES[prefix]}{rest.upper()}"] = name
    # The second loop wins where both give the same name: CELERY_RESULT_EXPIRES is result_expires.
    found |= {f"CELERY_{name.upper()}": name for name in names}
    return found | dict(_OLD_SPECIAL)


def unused(name: str) -> str | None:
    """Return why this setting of Celery's means nothing here, or None."""
    if name in UNUSED:
        return UNUSED[name]
    return next((why for family, why in UNUSED_FAMILIES.items() if name.startswith(family)), None)
