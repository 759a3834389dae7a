"""The datagrams between parent and child, and the slate: what goes in comes out."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqptasks.amqp import Delivery, Parcel
from amqptasks.worker.outcome import Cause, Outcome, Run, Verdict
from amqptasks.worker.pools import slate, wire

names = st.text(max_size=60).map(lambda text: text[:60])
numbers = st.integers(0, 2**64 - 1)
seconds = st.none() | st.floats(0, 1e9)
parcels = st.lists(
    st.builds(
        Parcel,
        names,
        names,
        st.binary(max_size=50),
        st.binary(max_size=50),
        names,
        st.sampled_from(["raise", "drop", "dead"]),
    ),
    max_size=3,
).map(tuple)
runs = st.builds(
    Run,
    numbers,
    st.builds(
        Delivery,
        names,
        numbers,
        st.integers(0, 2**32 - 1),
        st.booleans(),
        names,
        names,
        st.binary(),
        st.binary(),
    ),
    st.sampled_from(Cause),
    st.text(max_size=2000),
    seconds,
    seconds,
)
outcomes = st.builds(Outcome, st.sampled_from(Verdict), parcels, st.text(max_size=60))


@given(runs)
def test_a_run_comes_out_as_it_went_in(run: Run) -> None:
    data = wire.encode_run(run)

    assert wire.decode_run(data) == run
    assert wire.run_key(data) == run.key


@given(numbers, outcomes, numbers, parcels)
def test_an_end_and_a_start_may_share_a_datagram(
    ended: int, outcome: Outcome, begun: int, publish: tuple
) -> None:
    data = wire.encode_finished(ended, outcome) + wire.encode_started(begun, publish)

    assert wire.decode_report(data) == (wire.FINISHED, (ended, outcome), (begun, publish))
    assert wire.finished_key(data) == ended


@given(numbers, outcomes)
def test_a_child_may_retire_with_its_last_outcome(key: int, outcome: Outcome) -> None:
    data = wire.encode_finished(key, outcome, wire.RETIRING)

    assert wire.decode_report(data) == (wire.FINISHED | wire.RETIRING, (key, outcome), None)


@given(numbers, parcels)
def test_a_start_may_come_alone(key: int, publish: tuple) -> None:
    assert wire.decode_report(wire.encode_started(key, publish)) == (wire.STARTED, None, (key, publish))


@pytest.mark.parametrize("size", [0, 100, wire.LIMIT - 1000, wire.LIMIT, wire.LIMIT + 1, 5 * wire.LIMIT])
def test_no_datagram_is_over_the_limit_and_all_arrive(size: int) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    message = bytes([wire.FINISHED]) + os.urandom(size)
    sender = threading.Thread(target=wire.send, args=(near, message))

    with near, far:
        sender.start()
        first = far.recv(wire.LIMIT + 1)
        received = wire.gather(far, first) if first[0] & wire.PIECES else first
        sender.join()

    assert received == message


def test_a_run_is_large_when_it_needs_pieces() -> None:
    def run(size: int) -> Run:
        return Run(
            1,
            Delivery("q" * 255, 1, 1, False, "e" * 255, "r" * 255, b"h" * 500, b"b" * size),
            detail="d" * 1024,
        )

    sizes = range(wire.LIMIT - 6000, wire.LIMIT + 10, 7)

    assert all(wire.is_large(run(size)) for size in sizes if len(wire.encode_run(run(size))) > wire.LIMIT)
    assert not wire.is_large(run(wire.LIMIT - 6000))


@pytest.mark.skipif(slate.open_slate() is None, reason="this system has no memory files")
class TestSlate:
    def test_the_parent_reads_what_was_noted_last(self) -> None:
        descriptor = slate.open_slate()
        assert descriptor is not None
        child = slate.Slate(os.dup(descriptor))

        before = slate.read(descriptor)
        noted = [child.note(b"first and longer"), child.note(b"second")]

        assert (before, noted, slate.read(descriptor)) == (b"", [True, True], b"second")
        os.close(descriptor)

    def test_what_is_too_long_is_refused(self) -> None:
        descriptor = slate.open_slate()
        assert descriptor is not None
        child = slate.Slate(os.dup(descriptor))

        assert not child.note(bytes(slate.SIZE))
        assert child.note(bytes(slate.SIZE - 8))
        os.close(descriptor)
