"""Tasks that the canvas tests compose."""

from __future__ import annotations

from typing import Any

import pytest

from amqptasks import App


@pytest.fixture
def add(app: App) -> Any:
    @app.task(name="proj.add")
    def add(x: Any, y: Any = 0) -> Any:
        return x + y

    return add


@pytest.fixture
def total(app: App) -> Any:
    @app.task(name="proj.total")
    def total(values: list[int]) -> int:
        return sum(values)

    return total
