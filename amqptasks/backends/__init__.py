"""Result backends: one contract (`base`), its implementations beside it, and the one place that chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amqptasks import dotted
from amqptasks.backends.base import Backend
from amqptasks.backends.disabled import DisabledBackend
from amqptasks.backends.memory import MemoryBackend
from amqptasks.backends.recent import Recent
from amqptasks.backends.rpc import RpcBackend
from amqptasks.backends.stored import StoreOptions
from amqptasks.backends.wire import ResultFormat
from amqptasks.errors import ImproperlyConfigured
from amqptasks.masking import mask_url
from amqptasks.serialization import accept_set
from amqptasks.settings import Settings


def open(conf: Settings, connection: Callable[[], Any]) -> Backend:
    """Return the backend that `result_backend` names; it connects when it is first used.

    `connection` returns the app's blocking connection. Raises ImproperlyConfigured.
    """
    url = conf.result_backend
    if url is None or url in ("disabled", "disabled://"):
        return DisabledBackend()
    kind = url.partition("://")[0]
    if kind == "memory":
        return MemoryBackend(url, expires=conf.result_expires)
    if kind in ("rpc", "amqp"):
        return RpcBackend(
            connection, result_format(conf), recent=lambda: _recent(conf), idle=conf.result_queue_expires
        )
    if kind.startswith("db+"):
        return _database(url, store_options(conf))
    if kind in ("redis", "rediss"):
        return _redis(url, store_options(conf))
    if "://" not in url and ("." in url or ":" in url):
        return dotted.find_class(url, Backend, "result_backend")(conf)  # type: ignore[no-any-return]
    raise ImproperlyConfigured(
        f"result_backend {mask_url(url)!r} is not known; write rpc:// (results as messages), db+... (a database), "
        "redis://, memory:// (tests), 'package.module:Class' (your own), or None"
    )


def _database(url: str, options: StoreOptions) -> Backend:
    try:
        from amqptasks.backends.database import DatabaseBackend  # noqa: PLC0415 (its driver is optional)
    except ImportError as error:
        raise _absent(url, "sqlalchemy", error) from error
    return DatabaseBackend(url, options)


def _redis(url: str, options: StoreOptions) -> Backend:
    try:
        from amqptasks.backends.redis import RedisBackend  # noqa: PLC0415 (its driver is optional)
    except ImportError as error:
        raise _absent(url, "redis", error) from error
    return RedisBackend(url, options)


def _absent(url: str, extra: str, error: ImportError) -> ImproperlyConfigured:
    return ImproperlyConfigured(
        f"result_backend {mask_url(url)!r} needs a package that is not installed ({error}); "
        f"pip install 'amqptasks[{extra}]'"
    )


def store_options(conf: Settings) -> StoreOptions:
    """Return what the settings say about every store, for stores of one's own too."""
    return StoreOptions(
        format=result_format(conf),
        compression=conf.result_compression,
        patience=conf.result_store_timeout,
        interval=conf.result_polling_interval,
        largest=conf.broker_max_message_size,
    )


def result_format(conf: Settings) -> ResultFormat:
    """Return how results are written and read, from the settings."""
    names = conf.accept_content if conf.result_accept_content is None else conf.result_accept_content
    return ResultFormat(
        serializer=conf.result_serializer,
        accept=accept_set(names),
        inflate_limit=conf.message_inflate_limit,
        persistent=bool(conf.result_persistent),
        expires=conf.result_expires,
    )


def _recent(conf: Settings) -> Recent:
    return Recent(limit_answers=max(0, conf.result_cache_max))
