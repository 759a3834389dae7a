"""Acks: `multiple` for the contiguous prefix, single ones beyond it, never a tag that is acknowledged already."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks.worker import settling
from amqptasks.worker.settling import Settler


class Channel:
    """A broker's view of one channel: knows which tags are unacknowledged and refuses the rest, as RabbitMQ does."""

    queue, generation, prefetch = "q", 1, 0

    def __init__(self, tags: int) -> None:
        self.unacked = set(range(1, tags + 1))
        self.acks: list[tuple[int, bool]] = []
        self.rejected: list[tuple[int, bool]] = []

    def ack(self, tag: int, multiple: bool = False) -> None:
        assert tag in self.unacked, f"406 PRECONDITION_FAILED - unknown delivery tag {tag}"
        self.acks.append((tag, multiple))
        self.unacked -= {other for other in self.unacked if other <= tag} if multiple else {tag}

    def reject(self, tag: int, requeue: bool) -> None:
        assert tag in self.unacked
        self.rejected.append((tag, requeue))
        self.unacked.discard(tag)

    def nack(self, tag: int) -> None:
        self.reject(tag, True)

    async def renew(self, prefetch: int) -> None: ...
    async def fence(self) -> None: ...
    async def cancel(self) -> None: ...
    async def close(self) -> None: ...


@pytest.fixture
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon(loop.stop)
    loop.run_forever()


def settle(loop: asyncio.AbstractEventLoop, settler: Settler, tags: Sequence[int]) -> None:
    for tag in tags:
        settler.ack(tag)
    turn(loop)


def test_one_loop_turn_of_contiguous_tags_costs_one_ack(loop):
    channel = Channel(100)
    settler = Settler(channel, loop)

    settle(loop, settler, range(1, 101))

    assert channel.acks == [(100, True)]


def test_with_room_to_spare_acks_wait_until_they_are_a_part_of_it(loop, monkeypatch):
    monkeypatch.setattr(settling, "PATIENCE", 3600)
    channel = Channel(400)
    channel.prefetch = 128
    settler = Settler(channel, loop)

    settle(loop, settler, range(1, 31))
    gathered = list(channel.acks), settler.gathered
    settle(loop, settler, range(31, 41))

    assert gathered == ([], 30)
    assert (channel.acks, settler.gathered) == ([(32, True)], 8)


def test_with_room_to_spare_acks_do_not_wait_for_long(loop):
    channel = Channel(400)
    channel.prefetch = 128
    settler = Settler(channel, loop)

    settle(loop, settler, [1, 2, 3])
    deadline = loop.time() + 60
    while not channel.acks:
        assert loop.time() < deadline
        turn(loop)

    assert channel.acks == [(3, True)]


def test_a_tag_behind_a_long_task_is_acknowledged_at_once(loop):
    channel = Channel(4)
    settler = Settler(channel, loop)

    settle(loop, settler, [2, 3])

    assert sorted(channel.acks) == [(2, False), (3, False)]
    assert channel.unacked == {1, 4}


def test_the_prefix_closes_over_tags_that_were_acknowledged_singly(loop):
    channel = Channel(4)
    settler = Settler(channel, loop)

    settle(loop, settler, [2, 3])
    settle(loop, settler, [1])
    settle(loop, settler, [4])

    assert channel.unacked == set()
    assert channel.acks[-2:] == [(1, True), (4, True)]


def test_a_rejected_tag_counts_as_settled(loop):
    channel = Channel(3)
    settler = Settler(channel, loop)

    settler.reject(1)
    settle(loop, settler, [2, 3])

    assert channel.rejected == [(1, False)]
    assert channel.acks == [(3, True)]


@given(
    order=st.permutations(list(range(1, 30))),
    cuts=st.lists(st.integers(1, 28), max_size=6),
    lost=st.sets(st.integers(1, 29)),
)
def test_every_order_of_endings_settles_exactly_the_settled(order, cuts, lost):
    loop = asyncio.new_event_loop()
    channel = Channel(29)
    settler = Settler(channel, loop)
    bounds = [0, *sorted(set(cuts)), len(order)]

    for begin, end in itertools.pairwise(bounds):
        for tag in order[begin:end]:
            if tag in lost:
                settler.requeue(tag, failed=False)
            else:
                settler.ack(tag)
        turn(loop)
        assert channel.unacked == set(order[end:])
    loop.close()
