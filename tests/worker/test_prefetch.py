"""The adaptive prefetch: grows for short tasks, leaves long tasks on the broker, holds still otherwise."""

from __future__ import annotations

from amqptasks.worker.prefetch import MOST, Prefetch


def busy(prefetch: Prefetch, rate: float, looks: int = 20) -> list[int]:
    """What `prefetch` becomes when `rate` tasks a second would be possible with enough of them at hand."""
    values = []
    for _ in range(looks):
        # A worker that holds n messages sees at most n of them end in each 2 ms round trip to the broker.
        finished = int(min(rate, prefetch.value / 0.002) * 0.2)
        values.append(prefetch.observe(finished=finished, interval=0.2, full=True, longest_running=0.001))
    return values


def test_a_number_is_slots_times_that_number_for_ever():
    prefetch = Prefetch(slots=4, multiplier=4)

    assert set(busy(prefetch, 10_000)) == {16}


def test_short_tasks_are_held_in_plenty_within_a_second():
    prefetch = Prefetch(slots=2)

    values = busy(prefetch, 10_000, looks=5)

    assert values[-1] >= 0.1 * 10_000 / 2
    assert max(values) <= MOST


def test_it_settles_instead_of_consuming_anew_for_ever():
    prefetch = Prefetch(slots=2)

    values = busy(prefetch, 10_000, looks=40)

    assert len(set(values[5:])) == 1


def test_long_tasks_are_left_on_the_broker():
    prefetch = Prefetch(slots=2)
    busy(prefetch, 10_000)

    value = prefetch.observe(finished=0, interval=0.2, full=True, longest_running=2.0)

    assert value == 2


def test_one_long_task_among_many_short_ones_does_not_shrink_it():
    prefetch = Prefetch(slots=2)
    before = busy(prefetch, 5_000)[-1]

    value = prefetch.observe(finished=900, interval=0.2, full=True, longest_running=2.0)

    assert value == before


def test_an_idle_worker_keeps_what_it_has():
    prefetch = Prefetch(slots=2)
    before = busy(prefetch, 10_000)[-1]

    values = {prefetch.observe(finished=0, interval=0.2, full=False, longest_running=0.0) for _ in range(50)}

    assert values == {before}


def test_what_waits_for_its_second_does_not_keep_away_what_is_due():
    prefetch = Prefetch(slots=2)

    values = [
        prefetch.observe(finished=2, interval=0.2, full=True, longest_running=0.0, early=prefetch.value)
        for _ in range(6)
    ]

    assert values[-1] == MOST


def test_it_makes_room_beside_long_tasks_too_and_holds_still_then():
    prefetch = Prefetch(slots=2)
    values = [
        prefetch.observe(finished=0, interval=0.2, full=True, longest_running=2.0, early=early)
        for early in (2, 5, 7, 6, 4, 3)
    ]

    assert values[0] >= 2 + 2
    assert len(set(values[2:])) == 1
    assert prefetch.observe(finished=0, interval=0.2, full=False, longest_running=2.0) == 2


def test_what_waits_for_its_rate_limit_earns_no_more_of_it():
    prefetch = Prefetch(slots=2)

    values = {prefetch.observe(finished=2, interval=0.2, full=True, longest_running=0.0) for _ in range(100)}

    assert values == {prefetch.initial()}
