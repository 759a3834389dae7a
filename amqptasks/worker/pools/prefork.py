"""The prefork pool: n children, one task each at a time. A task that kills its child costs itself alone."""

from __future__ import annotations

from amqptasks.worker.pools.children import ChildrenPool


class PreforkPool(ChildrenPool):
    """The default pool."""

    name = "prefork"
    elastic = True
