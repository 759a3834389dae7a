"""Result backends: one contract (`base`), its implementations beside it, and the one place that chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amqptasks.backends.base import Backend
from amqptasks.backends.disabled import DisabledBackend
from amqptasks.backends.memory import MemoryBackend
from amqptasks.backends.recent import Recent
from amqptasks.backends.rpc import RpcBackend
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
    raise ImproperlyConfigured(
        f"result_backend {mask_url(url)!r} is not known; write rpc:// (results as messages), memory:// "
        "(tests), or None"
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
