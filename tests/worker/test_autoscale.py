"""Autoscaling by a clock of our own: when the pool grows, when it shrinks, by how much."""

import asyncio
from typing import Any

import pytest

from amqptasks.errors import ImproperlyConfigured
from amqptasks.worker.autoscale import Autoscaler, read_limits


class FakePool:
    name = "fake"
    elastic = True

    def __init__(self, size: int) -> None:
        self.size = size
        self.busy = 0
        self.waiting = 0

    @property
    def running(self) -> dict[int, float]:
        return dict.fromkeys(range(self.busy), 0.0)

    async def resize(self, size: int) -> None:
        self.size = size


class Scene:
    """A pool, its autoscaler and the time."""

    def __init__(self, most: int = 10, least: int = 2, keepalive: float = 30.0) -> None:
        self.time = 1000.0
        self.pool = FakePool(least)
        self.scaler = Autoscaler(self.pool, most, least, keepalive, lambda: self.time)  # type: ignore[arg-type]

    def look(self, *, busy: int, waiting: int = 0, after: float = 0.1) -> int:
        self.time += after
        self.pool.busy, self.pool.waiting = busy, waiting
        asyncio.run(self.scaler.look())
        return self.pool.size


def test_it_grows_at_once_by_what_waits_up_to_the_most() -> None:
    scene = Scene()

    assert scene.look(busy=2) == 2
    assert scene.look(busy=2, waiting=3) == 5
    assert scene.look(busy=5, waiting=100) == 10
    assert scene.look(busy=10, waiting=100) == 10


def test_it_shrinks_by_one_at_a_time_after_the_keepalive_and_not_below_the_least() -> None:
    scene = Scene()
    scene.look(busy=2, waiting=3)

    assert scene.look(busy=0, after=29.9) == 5
    assert scene.look(busy=0, after=0.2) == 4
    assert scene.look(busy=0, after=0.5) == 4
    assert scene.look(busy=0, after=0.5) == 3
    assert [scene.look(busy=0, after=1.0) for _ in range(3)] == [2, 2, 2]


def test_slots_that_work_needs_stay() -> None:
    scene = Scene()
    scene.look(busy=2, waiting=4)

    assert [scene.look(busy=4, after=31.0) for _ in range(4)] == [5, 4, 4, 4]


def test_a_moment_in_which_all_are_busy_begins_the_keepalive_anew() -> None:
    scene = Scene()
    scene.look(busy=2, waiting=1)
    scene.look(busy=0, after=29.0)

    assert scene.look(busy=3, after=0.5) == 3
    assert scene.look(busy=0, after=29.0) == 3
    assert scene.look(busy=0, after=1.1) == 2


def test_a_short_keepalive_is_the_time_between_two_that_go_too() -> None:
    scene = Scene(keepalive=0.2)
    scene.look(busy=2, waiting=2)

    assert [scene.look(busy=0, after=0.25) for _ in range(2)] == [3, 2]


def test_other_limits_count_at_once() -> None:
    scene = Scene()
    scene.look(busy=2, waiting=8)

    asyncio.run(scene.scaler.update(4, None))
    assert scene.pool.size == 4
    asyncio.run(scene.scaler.update(8, 6))

    assert scene.scaler.info() == {"max": 8, "min": 6, "current": 6, "qty": 10}


def test_limits_that_contradict_each_other_change_nothing() -> None:
    scene = Scene(most=4)

    with pytest.raises(ImproperlyConfigured, match="MAX comes first"):
        asyncio.run(scene.scaler.update(1, None))

    assert (scene.scaler.most, scene.scaler.least, scene.pool.size) == (4, 2, 2)


@pytest.mark.parametrize(
    ("text", "limits"), [("10,3", (10, 3)), ("10", (10, 1)), ("10,0", (10, 1)), ("4,4", (4, 4))]
)
def test_limits_are_read_as_celery_writes_them(text: str, limits: tuple[int, int]) -> None:
    assert read_limits(text) == limits


@pytest.mark.parametrize("text", ["", "many", "3,x", "3;1"])
def test_what_are_no_limits_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        read_limits(text)


def made(settings: dict[str, Any]) -> Autoscaler:
    scaler = Autoscaler.of((4, 1), settings, FakePool(1))  # type: ignore[arg-type]
    assert scaler is not None
    return scaler


def test_the_keepalive_is_the_settings_else_the_environments_else_30(monkeypatch: Any) -> None:
    monkeypatch.delenv("AUTOSCALE_KEEPALIVE", raising=False)
    assert made({}).keepalive == 30
    monkeypatch.setenv("AUTOSCALE_KEEPALIVE", "7.5")
    assert made({}).keepalive == 7.5
    assert made({"worker_autoscale_keepalive": 3.0}).keepalive == 3
    monkeypatch.setenv("AUTOSCALE_KEEPALIVE", "soon")
    with pytest.raises(ImproperlyConfigured, match="AUTOSCALE_KEEPALIVE is 'soon'"):
        made({})


def test_a_pool_without_limits_or_of_a_fixed_size_has_no_autoscaler() -> None:
    pool = FakePool(1)

    assert Autoscaler.of(None, {}, pool) is None  # type: ignore[arg-type]
    pool.elastic = False
    with pytest.raises(ImproperlyConfigured, match="the fake pool has a fixed size"):
        Autoscaler.of((2, 1), {}, pool)  # type: ignore[arg-type]
