"""What remote commands may see and touch of a worker, in one value. No behaviour."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amqptasks.pidbox import Clock
from amqptasks.transport.publisher import Publisher
from amqptasks.worker.autoscale import Autoscaler
from amqptasks.worker.consumer import Consumers
from amqptasks.worker.dispatch import Dispatch
from amqptasks.worker.eventing import Events
from amqptasks.worker.outcome import Manifest
from amqptasks.worker.pools.base import Pool
from amqptasks.worker.shutdown import Shutdown


def _forget_at_the_end(_ids: Iterable[str], _stamps: Mapping[str, Any]) -> None:
    """Where nothing can be kept on the broker."""


@dataclass(slots=True, kw_only=True)
class Station:
    """Used in the worker's loop only."""

    node: str
    manifest: Manifest
    pool: Pool
    dispatch: Dispatch
    consumers: Consumers
    publisher: Publisher
    shutdown: Shutdown
    events: Events
    clock: Clock
    rate_limit: Callable[[str, str | float | None], None]
    """`Worker.rate_limit`."""
    autoscaler: Autoscaler | None = None
    remember: Callable[[Iterable[str], Mapping[str, Any]], None] = _forget_at_the_end
    """Keeps revoked ids and stamps for the workers that start later."""
    since: float = field(default_factory=time.monotonic)
    """When it was made, by the monotonic clock."""
