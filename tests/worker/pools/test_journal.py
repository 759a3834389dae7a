"""A child's journal: whole messages, in order, none twice, whatever the moment at which the child ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks.worker.pools import journal
from amqptasks.worker.pools.journal import LARGEST, SIZE, Reading, Writing

pytestmark = pytest.mark.skipif(journal.open_journal() is None, reason="this system has no memory files")

messages = st.integers(1, LARGEST).map(os.urandom)


class Both:
    """A journal with both its sides."""

    def __init__(self) -> None:
        descriptor = journal.open_journal()
        assert descriptor is not None
        self.reading = Reading(descriptor)
        self.writing = Writing(descriptor)

    def close(self) -> None:
        self.reading.close()
        self.writing.close()


@pytest.fixture
def both() -> Iterator[Both]:
    pair = Both()
    yield pair
    pair.close()


@given(st.lists(messages | st.none(), max_size=60))
def test_what_is_written_is_read_once_and_in_order(steps: list[bytes | None]) -> None:
    """None stands for a look by the parent."""
    pair, taken, refused, received = Both(), [], 0, []

    for step in steps:
        if step is None:
            received += pair.reading.read()
        elif pair.writing.write(step):
            taken.append(step)
        else:
            refused += 1
    received += pair.reading.read()
    pair.close()

    assert received == taken
    assert not refused or sum(map(len, taken)) > SIZE // 2


def test_it_never_overwrites_what_is_unread(both: Both) -> None:
    written = []
    while both.writing.write(message := os.urandom(LARGEST - 7)):
        written.append(message)

    full = both.reading.read()
    again = both.writing.write(b"there is room again")

    assert len(written) >= SIZE // LARGEST - 1
    assert (full, again, both.reading.read()) == (written, True, [b"there is room again"])


def test_it_goes_round_for_ever(both: Both) -> None:
    for number in range(20_000):
        message = number.to_bytes(3, "big") * (number % 40 + 1)
        assert both.writing.write(message)
        assert both.reading.read() == [message]


def test_a_message_too_large_is_refused(both: Both) -> None:
    assert not both.writing.write(bytes(LARGEST + 1))
    assert both.writing.write(bytes(LARGEST))


def test_nothing_is_written_behind_a_message_that_is_still_on_the_socket(both: Both) -> None:
    both.writing.write(b"before")
    both.writing.passes()

    behind = both.writing.write(b"behind")
    before = both.reading.read()
    both.reading.passed()

    assert (behind, before) == (False, [b"before"])
    assert both.writing.write(b"after")
    assert both.reading.read() == [b"after"]


def test_the_writer_knows_what_was_looked_at(both: Both) -> None:
    seen = [both.writing.unread]
    both.writing.write(b"news")
    seen.append(both.writing.unread)
    both.reading.read()

    assert [*seen, both.writing.unread] == [False, True, False]


def test_a_message_that_is_not_whole_yet_waits(both: Both) -> None:
    both.writing.write(b"whole")
    both.writing.write(b"torn")
    at = both.writing._page.obj.find(b"torn") - journal._HEAD
    both.writing._page[at : at + 4] = b"????"

    first = both.reading.read()
    both.writing._page[at : at + 4] = b"torn"

    assert (first, both.reading.read()) == ([b"whole"], [b"torn"])


def test_what_was_written_outlives_the_writer() -> None:
    """Killed at any moment: a prefix of what it wrote, every message whole."""
    for _ in range(20):
        descriptor = journal.open_journal()
        assert descriptor is not None
        ready, tell = os.pipe()
        pid = os.fork()
        if not pid:
            writing = Writing(descriptor)
            os.write(tell, b".")
            number = 0
            while True:
                number += writing.write(b"%08d" % number * 5)
        reading = Reading(descriptor)
        os.read(ready, 1)
        received = reading.read()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

        received += reading.read()

        assert received == [b"%08d" % number * 5 for number in range(len(received))]
        reading.close()
        for end in (descriptor, ready, tell):
            os.close(end)
