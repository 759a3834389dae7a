"""Rate limits in virtual time: when each run goes, to the millisecond."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from amqptasks.amqp import Delivery
from amqptasks.errors import ImproperlyConfigured
from amqptasks.worker.outcome import Run
from amqptasks.worker.rates import LATE, Rates, per_second, told
from tests.worker import virtual_time

DELIVERY = Delivery("q", 1, 1, False, "", "q", b"", b"")


class Gate:
    """Rates whose runs start as soon as they are let go, unless `blocked`; notes when each went."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.went: dict[str, list[float]] = {}
        self.blocked: set[int] = set()
        self.full = False
        self.rates = Rates(self._go, lambda key: key not in self.blocked)
        self._tasks: dict[int, str] = {}
        self._began = self.loop.time()

    def send(self, task: str, count: int = 1) -> None:
        for _ in range(count):
            key = len(self._tasks)
            self._tasks[key] = task
            self.rates.add(task, Run(key, DELIVERY))

    def _go(self, run: Run) -> None:
        self.went.setdefault(self._tasks[run.key], []).append(round(self.loop.time() - self._began, 6))
        if self.full:
            self.blocked.add(run.key)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (None, 0), (0, 0), ("0/s", 0), (10, 10), (0.5, 0.5), ("10", 10), ("10/s", 10), ("0.5/s", 0.5),
        ("120/m", 2), ("7200/h", 2), (" 10 / m ", 1 / 6), (1e-5, 1e-5),
    ],
)  # fmt: skip
def test_rates_are_read_as_celery_reads_them(rate: str | float | None, expected: float) -> None:
    assert per_second(rate) == pytest.approx(expected)


@pytest.mark.parametrize("rate", ["", "fast", "10/d", "-1/s", -1, True, "1/s/s", float("nan"), float("inf")])
def test_what_is_no_rate_is_refused_with_an_example(rate: str | float) -> None:
    with pytest.raises(ImproperlyConfigured, match="10/s"):
        per_second(rate)


@pytest.mark.parametrize("rate", ["10/s", "100/m", "7/m", "1000/h", "1/h", "0/s"])
def test_a_rate_is_told_as_it_was_written(rate: str) -> None:
    assert told(per_second(rate)) == rate


def test_a_rate_that_is_whole_in_no_unit_is_told_a_second() -> None:
    assert told(0.123456789) == "0.123457/s"


def test_the_first_goes_at_once_and_the_others_in_their_turn() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.rates.change("a", 10)
        gate.send("a", 4)
        assert len(gate.rates) == 3

        await asyncio.sleep(5)

        assert gate.went["a"] == pytest.approx([0, 0.1, 0.2, 0.3])

    virtual_time.run(scenario())


def test_two_tasks_keep_their_own_rates_though_every_timer_is_late() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.rates.change("a", 10)
        gate.rates.change("b", 4)
        gate.send("a", 500)
        gate.send("b", 500)

        await asyncio.sleep(20)

        assert abs(len(gate.went["a"]) - 200) <= 2
        assert abs(len(gate.went["b"]) - 80) <= 2

    virtual_time.run(scenario(), late=0.03)


def test_a_rate_faster_than_the_clock_ticks_is_kept_too() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.rates.change("a", 5000)
        gate.send("a", 20_000)

        await asyncio.sleep(2)

        assert len(gate.went["a"]) == pytest.approx(10_000, rel=0.05)

    virtual_time.run(scenario(), late=0.004)


def test_an_hour_of_nothing_earns_no_burst() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.rates.change("a", 10)
        gate.send("a", 2)
        await asyncio.sleep(3600)
        before = len(gate.went["a"])
        gate.send("a", 50)

        await asyncio.sleep(1.05)

        assert len(gate.went["a"]) - before == 11

    virtual_time.run(scenario())


def test_a_worker_that_stood_still_does_not_catch_up_with_a_burst() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.rates.change("a", 100)
        gate.send("a", 5000)
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        before = len(gate.went["a"])
        loop.late = 30.0
        await asyncio.sleep(0.001)
        loop.late = 0.0

        await asyncio.sleep(0.5)

        assert len(gate.went["a"]) - before <= 100 * (LATE + 0.5) + 2

    virtual_time.run(scenario())


def test_what_the_pool_has_not_started_holds_the_next_ones_up() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.rates.change("a", 10)
        gate.full = True
        gate.send("a", 100)

        await asyncio.sleep(60)
        assert len(gate.went["a"]) <= 3, "they would all start at once"

        gate.full = False
        gate.blocked.clear()
        before = len(gate.went["a"])
        await asyncio.sleep(1)
        assert len(gate.went["a"]) - before == pytest.approx(10, abs=1)

    virtual_time.run(scenario())


def test_a_new_rate_counts_for_those_that_wait() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.rates.change("a", 1 / 3600)
        gate.send("a", 100)
        await asyncio.sleep(10)
        assert len(gate.went["a"]) == 1

        gate.rates.change("a", 10)
        await asyncio.sleep(1)
        assert len(gate.went["a"]) == pytest.approx(11, abs=1)

        gate.rates.change("a", 1)
        before = len(gate.went["a"])
        await asyncio.sleep(10)
        assert len(gate.went["a"]) - before == pytest.approx(10, abs=1)

    virtual_time.run(scenario())


def test_a_rate_of_nought_lifts_the_limit() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.rates.change("a", 1)
        gate.send("a", 100)

        gate.rates.change("a", 0)

        assert len(gate.went["a"]) == 100
        assert "a" not in gate.rates

    virtual_time.run(scenario())


def test_what_is_taken_back_never_goes_and_the_rest_keeps_its_pace() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.rates.change("a", 10)
        gate.rates.change("b", 10)
        gate.send("a", 4)
        gate.send("b", 2)

        assert [run.key for run in gate.rates.take_back({1, 2, 5})] == [1, 2, 5]
        await asyncio.sleep(5)
        assert (len(gate.went["a"]), len(gate.went["b"])) == (2, 1)

        gate.send("a", 3)
        assert len(gate.rates.take_back()) == 2
        await asyncio.sleep(5)
        assert len(gate.went["a"]) == 3

    virtual_time.run(scenario())


def test_no_two_go_closer_together_than_their_rate_when_nothing_is_late() -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.rates.change("a", 7)
        for _ in range(100):
            gate.send("a", 3)
            await asyncio.sleep(0.31)

        assert min(later - earlier for earlier, later in pairwise(gate.went["a"])) >= 1 / 7 - 1e-5

    virtual_time.run(scenario())
