"""Points over time, thinned, and percentiles."""

import pytest

from amqptasks.monitor.history import LINES, History, percentiles


def test_points_come_back_in_order_with_gaps() -> None:
    history = History(60.0, 2.0)
    history.add(10.0, {"throughput": {"succeeded": 1.0}, "runtime": {"p50": 0.5}})
    history.add(12.0, {"throughput": {"succeeded": 3.0, "failed": 1.0}})

    series = history.series("throughput", 100)

    assert (series.times, series.interval, series.unit) == ((10.0, 12.0), 2.0, "1/s")
    assert series.values == {"succeeded": (1.0, 3.0), "failed": (None, 1.0)}
    assert history.series("runtime", 100).values == {"p50": (0.5, None)}


def test_only_so_many_seconds_are_kept() -> None:
    history = History(10.0, 2.0)
    for at in range(100):
        history.add(float(at), {"workers": {"online": float(at)}})

    assert history.series("workers", 100).values == {"online": (95.0, 96.0, 97.0, 98.0, 99.0)}


def test_many_points_are_thinned_to_means() -> None:
    history = History(100.0, 1.0)
    for at in range(10):
        history.add(float(at), {"workers": {"online": float(at)}})

    series = history.series("workers", 5)

    assert series.times == (1.0, 3.0, 5.0, 7.0, 9.0)
    assert series.values == {"online": (0.5, 2.5, 4.5, 6.5, 8.5)}
    assert series.interval == 2.0


def test_of_many_queues_the_deepest_are_kept() -> None:
    history = History(100.0, 1.0)
    history.add(1.0, {"depth": {f"q{number}": float(number) for number in range(100)}})

    lines = history.series("depth", 10).values

    assert len(lines) == LINES
    assert "q99" in lines
    assert "q0" not in lines


def test_an_unknown_series_is_an_error() -> None:
    with pytest.raises(KeyError, match="throughput"):
        History(10.0, 1.0).series("luck", 10)


def test_percentiles_are_by_nearest_rank() -> None:
    assert percentiles([float(n) for n in range(100, 0, -1)]) == {"p50": 50.0, "p99": 99.0}
    assert percentiles([7.0]) == {"p50": 7.0, "p99": 7.0}
    assert percentiles([]) == {}
