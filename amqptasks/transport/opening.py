"""Which driver opens a broker URL. The one place that chooses; drivers are imported when first needed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Literal

from amqptasks.errors import ImproperlyConfigured
from amqptasks.transport.base import Connect, Link
from amqptasks.transport.url import BrokerURL, parse

CONNECTION_TIMEOUT = 4.0
HEARTBEAT = 15.0


def opener(
    urls: Sequence[BrokerURL],
    *,
    name: str = "amqptasks",
    heartbeat: float = HEARTBEAT,
    timeout: float = CONNECTION_TIMEOUT,
    max_message_size: int | None = None,
    failover: str = "round-robin",
    asynchronous: bool = False,
) -> Connect:
    """Return what opens a link to the first of `urls` that answers.

    `name` is shown by RabbitMQ's tools; `heartbeat` and `timeout` (one host's connecting, and each call's
    answer) are seconds, and give way to what a URL says itself. `max_message_size` is in bytes (None: as the
    broker's version has it). `failover` is `round-robin`, each attempt beginning one host further, or `shuffle`.
    `asynchronous` links are aio-pika's, for the user's own event loop. Raises ImproperlyConfigured without a URL.
    """
    if not urls:
        raise ImproperlyConfigured("there is no broker URL; write for example amqp://guest@localhost//")
    hosts = tuple(urls)
    turns = count()

    def arranged(given: Sequence[BrokerURL]) -> Sequence[BrokerURL]:
        if failover == "shuffle":
            return random.sample(given, len(given))
        first = next(turns) % len(given)
        return [*given[first:], *given[:first]]

    async def connect_memory() -> Link:
        from amqptasks.transport import memory  # noqa: PLC0415

        return await memory.connect(hosts[0].host)

    async def connect_amqp() -> Link:
        from amqptasks.transport import loop  # noqa: PLC0415 (pika costs a fifth of the start-up time)

        return await loop.connect(
            hosts,
            name=name,
            heartbeat=heartbeat,
            timeout=timeout,
            max_message_size=max_message_size,
            order=arranged,
        )

    async def connect_aio() -> Link:
        from amqptasks.transport import aio  # noqa: PLC0415 (only who awaits pays for aio-pika)

        return await aio.connect(
            hosts,
            name=name,
            heartbeat=heartbeat,
            timeout=timeout,
            max_message_size=max_message_size,
            order=arranged,
        )

    if hosts[0].scheme == "memory":
        return connect_memory
    return connect_aio if asynchronous else connect_amqp


def configured(
    settings: Mapping[str, Any], role: Literal["read", "write"], name: str, *, asynchronous: bool = False
) -> Connect:
    """Return an opener as the settings say: `broker_read_url` is for consuming, `broker_write_url` for publishing."""
    return opener(
        parse(settings[f"broker_{role}_url"] or settings["broker_url"], settings["broker_use_ssl"] or False),
        name=name,
        heartbeat=settings["broker_heartbeat"],
        timeout=settings["broker_connection_timeout"],
        max_message_size=settings["broker_max_message_size"],
        failover=settings["broker_failover_strategy"],
        asynchronous=asynchronous,
    )
