"""Which driver opens a broker URL. The one place that chooses; drivers are imported when first needed."""

from __future__ import annotations

from collections.abc import Sequence

from amqptasks.errors import ImproperlyConfigured
from amqptasks.transport.base import Connect, Link
from amqptasks.transport.url import BrokerURL

CONNECTION_TIMEOUT = 4.0
HEARTBEAT = 15.0


def opener(
    urls: Sequence[BrokerURL],
    *,
    name: str = "amqptasks",
    heartbeat: float = HEARTBEAT,
    timeout: float = CONNECTION_TIMEOUT,
) -> Connect:
    """Return what opens a link to the first of `urls` that answers.

    `name` is shown by RabbitMQ's tools; `heartbeat` and `timeout` (one host's connecting, and each call's
    answer) are seconds, and give way to what a URL says itself. Raises ImproperlyConfigured without a URL.
    """
    if not urls:
        raise ImproperlyConfigured("there is no broker URL; write for example amqp://guest@localhost//")
    hosts = tuple(urls)

    async def connect_memory() -> Link:
        from amqptasks.transport import memory  # noqa: PLC0415

        return await memory.connect(hosts[0].host)

    async def connect_amqp() -> Link:
        from amqptasks.transport import loop  # noqa: PLC0415 (pika costs a fifth of the start-up time)

        return await loop.connect(hosts, name=name, heartbeat=heartbeat, timeout=timeout)

    return connect_memory if hosts[0].scheme == "memory" else connect_amqp
