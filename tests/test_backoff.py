"""Delays between attempts: exact without jitter, whole seconds with it."""

from __future__ import annotations

import itertools
import random

import pytest

from amqptasks.backoff import exponential, full_jitter, reconnecting


@pytest.mark.parametrize(
    ("factor", "delays"),
    [(1, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600]), (3, [3, 6, 12, 24, 48, 96, 192, 384, 600])],
)
def test_delays_double_up_to_the_cap(factor: int, delays: list[int]) -> None:
    assert [exponential(attempt, factor=factor) for attempt in range(len(delays))] == delays


def test_attempts_without_end_stay_at_the_cap() -> None:
    assert exponential(10**9, factor=3, maximum=600) == 600


@pytest.mark.parametrize("delay", [0, 1, 7])
def test_full_jitter_is_every_whole_second_from_none_to_all(delay: int) -> None:
    rng = random.Random(7)

    drawn = {full_jitter(delay, rng) for _ in range(400)}

    assert drawn == set(range(delay + 1))
    assert all(type(one) is int for one in drawn)


def test_connections_wait_at_least_half_of_the_same_delays() -> None:
    waits = list(itertools.islice(reconnecting(first=1, maximum=10, rng=random.Random(7)), 8))
    full = [exponential(attempt, factor=1, maximum=10) for attempt in range(8)]

    assert all(delay / 2 <= wait <= delay for wait, delay in zip(waits, full, strict=True))
