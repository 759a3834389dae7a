"""Calls a loader by its dotted name: in the zygote, or in the worker's own process for the solo pool.

Knows neither apps nor tasks: what a loader returns is a `Loaded`.
"""

from __future__ import annotations

import importlib
from typing import Any

from amqptasks.errors import ImproperlyConfigured
from amqptasks.worker.outcome import LoadSpec
from amqptasks.worker.pools.base import Loaded


def load(spec: LoadSpec) -> Loaded:
    """Call `spec.loader`. Raises what it raises, and ImproperlyConfigured if it returns nothing usable."""
    module, _, function = spec.loader.partition(":")
    loaded: Any = getattr(importlib.import_module(module), function)(spec)
    if not isinstance(loaded, Loaded):
        raise ImproperlyConfigured(f"the loader {spec.loader} returned {loaded!r}; it must return a Loaded")
    return loaded
