"""Dictionaries that are kept from growing, and what that costs."""

import time

from amqptasks.bounded import drop_oldest


def test_nothing_goes_before_there_is_too_much() -> None:
    known = dict.fromkeys(range(10))

    assert drop_oldest(known, 10) == []
    assert len(known) == 10


def test_the_oldest_go_and_a_sixteenth_of_the_limit_with_them() -> None:
    known, small = dict.fromkeys(range(101)), dict.fromkeys("abc")

    assert drop_oldest(known, 100) == [0, 1, 2, 3, 4, 5, 6]
    assert next(iter(known)) == 7
    assert drop_oldest(small, 2) == ["a"]


def test_a_full_dictionary_costs_as_much_as_one_that_fills() -> None:
    """Processor time, and a wide margin: one key at a time costs about a hundred times as much."""
    limit = 30_000
    known: dict[tuple[int, int], None] = {}

    def add(lap: int) -> float:
        began = time.process_time()
        for number in range(limit):
            known[lap, number] = None
            if len(known) > limit:
                drop_oldest(known, limit)
        return time.process_time() - began

    filling = add(0)
    assert min(add(lap) for lap in range(1, 5)) < filling * 15
